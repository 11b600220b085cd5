"""Races and measurements of building a store."""
