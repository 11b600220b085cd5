"""Races of augmentation."""
