"""Read, parse and hash many files in one call.

content   reads files, and scans their DICOM headers
transfer  reads images, measures them and writes their pixels
elements  finds elements in the bytes of a DICOM file
decimals  text to numbers
system    system calls and xxhash for kernels
"""
