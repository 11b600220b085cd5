"""Compiled loops: arrays and numbers in, arrays out; they never validate or raise.

jit       the decorators that compile kernels, and numba's options
contours  contours to masks, areas and distances
files     read, parse and hash many files in one call
images    statistics of images and masks; copies of samples into a batch
augment   geometric and intensity transforms of images, masks and contours
"""
