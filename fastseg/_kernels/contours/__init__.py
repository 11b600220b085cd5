"""From contours to pixels: masks, areas, distances."""
