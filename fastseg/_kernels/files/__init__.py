"""Files, many in one call: read, hashed, parsed."""
