"""Read, parse and hash many files in one call.

content         reads files, and notes what their DICOM headers hold
elements        finds elements in the bytes of a DICOM file
sequences       finds those within sequences, too
decimals        text to numbers
contour_points  checks and reads the points of contours in structure sets
system          system calls and xxhash for kernels
"""
