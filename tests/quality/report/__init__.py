"""Tests of `fastseg.quality.report`."""
