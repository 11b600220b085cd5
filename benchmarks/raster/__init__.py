"""Races and soak runs of drawing contours."""
