"""Kernels as object code: compiled once, loaded without numba.

compiler ──> signatures, machine
workers ───> compiler, in processes of its own
engine ────> signatures, and objects from `cache`

signatures  the types that an entry takes, as text and as values
machine     the platform, and the processor levels that it runs
cache       where objects lie, what is trusted, how they are written
engine      loads an object, and makes its entry a function that Python calls
compiler    from a kernel to an object; the only user of numba's inner parts
workers     compiles in processes side by side, and says so
"""
