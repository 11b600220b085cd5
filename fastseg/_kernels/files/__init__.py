"""Read, parse and hash many files in one call.

content   reads files, and notes what their DICOM headers hold
elements  finds elements in the bytes of a DICOM file
decimals  text to numbers
system    system calls and xxhash for kernels
"""
