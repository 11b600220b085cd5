"""Prints the other processor levels of wheels whose code this machine can run.

    python -m tests.levels

`make test` runs the kernels' tests again with the code for each.
"""

from fastseg._kernels.native import machine

if __name__ == "__main__":
    if machine.is_supported():
        best, *others = machine.runnable_levels()
        print(*(level for level in others if level in machine.IN_WHEELS))
