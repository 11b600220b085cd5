"""Without PyTorch, the adapter says how to install it."""

import subprocess
import sys

TEXT = """
import sys
sys.modules["torch"] = None
import fastseg
try:
    fastseg.torch
except ImportError as exc:
    print(type(exc).__name__, exc)
"""


def test_the_extra_is_named():
    """The error prints the pip line."""
    command = [sys.executable, "-c", TEXT]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("MissingExtraError")
    assert 'pip install "fastseg[torch]"' in run.stdout
