"""Kernels as object code: compiled once, loaded without numba.

entries ──> cache ──> engine                      what is there is loaded,
        ──> workers ──> compiler ──> intrinsics   what is missing is compiled

entries       from a kernel to the function that Python calls
signatures    the types that an entry takes, as text and as values
machine       the platform, and the processor levels that it runs
cache         where objects lie, what is trusted, how they are written
engine        loads an object, and makes its entry a function
external      functions of other libraries that kernels call
workers       compiles in processes side by side, and says so
compiler      from a kernel to an object; uses numba's inner parts
intrinsics    functions for kernels that are made of LLVM's instructions
numba_kernels kernels that numba runs, where there is no object code
catalogue     all entries, and what they declare
wheel         puts objects into a wheel
"""
