"""Races of loading patches of volumes."""
