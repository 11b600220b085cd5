"""Kernels for stored images and masks.

gather ──> stream, prefetch

gather      copy samples from a store into a batch
stream      write memory past the caches
prefetch    read rows ahead of their use
shuffle     HDF5's byte shuffle
statistics  range, sums, order statistics and hashes; bounding boxes
"""
