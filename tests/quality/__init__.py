"""Tests of `fastseg.quality`."""
