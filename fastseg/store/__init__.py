"""One HDF5 file of samples: its format, and how to read, check, split and write it.

layout       the file format
reader       Store and Sample: an open file, mapped into memory
concat       several files, read as one Store
joined_map   arrays of several files as one array
mapped_file  the mapped file, and the check that it is still the same
checks       what must be true of a file that is opened
metadata     the checksum of all bytes that are no data
pixels       access to the pixels, mapped or compressed
compression  the codec of compressed pixels
selection    indices of samples that meet conditions
text         strings of columns as texts
splits       parts of a store that share no patient
split_table  a split as a CSV file
verify       compares the whole content with its checksums
writing      writes a store
"""
