"""Races of reading, linking, building and drawing RT structure sets."""
