"""Races, measurements and soak runs of the loader."""
