"""One HDF5 file of samples: its layout, the writer and the reader."""
