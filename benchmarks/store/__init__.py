"""Measurements of opening a store."""
