"""Kernels for stored images and masks.

gather ──> stream

gather      copy samples from a store into a batch
stream      write memory past the caches
shuffle     HDF5's byte shuffle
statistics  range, sums, order statistics and hashes; bounding boxes
"""
