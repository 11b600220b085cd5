"""Stored images and masks: statistics, and samples into a batch."""
