"""Kernels that augment images, masks and contours.

batch ──> warp ───────> interpolation, coordinates, spline
      ──> slices ─────> warp
      ──> bend ───────> coordinates, spline
      ──> intensity ──> noise
volume ─> coordinates, interpolation, intensity

batch          all of it for many samples in one call
volume         resample volumes through mappings in space
warp           resample an image or a mask through a mapping
slices         resample eight slices of a stack at once
bend           move contours through the inverse of a mapping
coordinates    which point of the image each pixel of an output row shows
interpolation  the value between pixels
spline         displacements and images as cubic B-splines
intensity      steps that change an image's values
noise          random numbers, and noise made of them
"""
