"""Contours to masks, areas and distances.

labels    contour files to vertices, and the masks of many images
polygon   which pixel centres lie inside rings
exact     on which side of an edge a point lies, without rounding
runs      writes the pixels of a mask from the bits that mark its runs
area      the area of each pixel inside rings
planes    points in the patient to pixels of images
distance  the distance from each pixel centre to line segments
matching  how far outlines are from each other, pair by pair
"""
