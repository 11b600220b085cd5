"""Leaves out what is about compiled code where kernels run as Python."""

from fastseg._kernels.native import machine

if machine.INTERPRETED:
    collect_ignore_glob = ["test_*.py"]
