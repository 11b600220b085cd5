"""Writes a store: from finished items to one file under its name.

The threads of a build write pixels in any order. The thread that owns the build adds
the records of finished items in their order. At the end, HDF5 writes the columns and
attributes, and a rename publishes the file.

    pixels ──> pixel_writers ──> pixel_file ────────────────┐
                                                            ├─> merge ──> sync, rename
    records ───> journal ──> totals, volumes ──> hdf5_index ┘

If the pixels are compressed, `hdf5_index` copies the chunks from the pixel file itself.
`partial` holds all this together, and lists the files on the disk.

    partial        an unfinished store, which a later build can resume
    pixel_writers  pixels at planned offsets, or as compressed chunks in any order
    pixel_file     the file of pixels, written by several threads
    records        all that a store holds of items but their pixels, as columns
    journal        the records in a file, from which a build resumes
    totals         numbers of rings and points, widths of texts, rows of /sources
    volumes        which items are the slices of a volume
    hdf5_index     the HDF5 file without the pixels, and how to merge it with them
    hdf5_file      the file object that h5py writes to
    older_store    items of the store that is replaced, which a build reuses
    hash_index     finds items by a hash
"""
