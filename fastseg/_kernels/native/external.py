"""Functions of other libraries that kernels call: their names and addresses.

`files.system` fills the table; object code finds the functions by it when it is loaded.
"""

# What their names in object code begin with, so that they are nobody else's.
PREFIX = "fastseg_"
ADDRESSES: dict[str, int] = {}
