"""Contours to arrays: masks, areas, signed distances.

contours ──> rings (cast and checked) ──> masks, area, distance ──> kernels
                             rules ─────────┘

rules     which pixels belong to a region
rings     rings of vertices: cast, checked, joined
masks     `rasterize`, `rasterize_batch`, `rasterize_labels`
area      `coverage`, the area of each pixel that lies inside
distance  `signed_distance`, from each pixel centre to the outline
"""
