"""The writing side of a store, from finished items to one file under its name.

Threads write pixels in any order; the journal keeps the columns of finished items; the
index is written last, and a rename publishes the store.

    records ──> journal ──┐
                          ├─ index (HDF5) ──> rename
    pixels ──> partial ───┘

    partial      the unfinished store, to be continued after a crash
    compressed   the same, with compressed pixels
    pixel_file   the file of pixels, written by several threads
    records      all that is known of finished items but their pixels
    journal      records on the disk
    totals       what must be known of all items before the first column is written
    hdf5_index   the HDF5 file but for the pixels
    hdf5_file    the file object that HDF5 writes to
    older_store  items of the store that is replaced, to be used again
    hash_index   finds an item by a hash
"""
