"""What is promised of bad input, failing systems and interrupts, tried for long.

    python -m tests.soak [PART ...] [--scale 1] [--seed 0]

kills         builds are killed at random moments
system_calls  system calls fail, one after the other, in all that reads or writes
interrupts    Ctrl-C at random moments of a loop, a build and `verify`
stores        random bytes of a store change
metadata      each bit of a store's HDF5 metadata flips, and h5py reads the file too
dicom_files   spoilt DICOM files, read by the compiled scan and by pydicom
structure_sets  spoilt RT structure sets, read by compiled code and by pydicom
codecs        spoilt compressed images, decoded in processes that may die
public_files  the files that pydicom is tested with
polygons      hostile polygons, beside a mask in whole numbers
compiling     eight processes compile at once, with an empty cache

Each module has `run(folder, tries, seed)`, which yields one outcome a try: a few words,
or a Fault. `__main__` runs each part in a process of its own, which may crash, and
prints the table of docs/reliability.md.
"""


class Fault(str):
    """An outcome that breaks a promise; its text says which and how to repeat it."""

    __slots__ = ()
