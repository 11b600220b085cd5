"""Races and soak runs of reading DICOM files."""
