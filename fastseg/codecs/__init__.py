"""Decoders of compressed images, in processes of their own that may die.

    CodedFrame ──> check_stream ──> Pool ──> process ──> bytes of the pixels
                                              └─ dies, hangs, fails: DicomError

codestream  the size that a code stream gives itself, compared with the header
pool        `Pool`: starts processes, hands frames to them, ends and replaces them
messages    how both sides write to the pipes between them
worker      the program of a process: `python -m fastseg.codecs.worker`

Decoders are compiled libraries: a damaged stream can end their process, keep it busy
for ever or fill its memory. The worker imports pydicom and its decoders, but neither
numba nor h5py, so that it starts in half a second.
"""
