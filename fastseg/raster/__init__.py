"""Contours to arrays: masks, areas, signed distances.

contours ──> rings (cast and checked) ──> masks, area, distance ──> kernels
                             rules ─────────┘

rules     `Rules`: which pixels belong to a region
rings     casts, checks and joins rings of vertices
masks     `rasterize`, `rasterize_batch`, `rasterize_labels`
area      `coverage`, the fraction of each pixel that lies inside
distance  `signed_distance`, from each pixel centre to the outline
"""
