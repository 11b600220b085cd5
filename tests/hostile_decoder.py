"""A decoder for pydicom that does what its code streams say, such as to abort.

It takes the code streams of RLE, of 8 bits, with a command in the segment.
"""

import contextlib
import ctypes
import os
import struct
import sys
import time
from pathlib import Path

DECODER_DEPENDENCIES = {"1.2.840.10008.1.2.5": ()}
SHAPE = 4, 4
# Pixels of the frames that it decodes.
SOUND = bytes(range(16))
poisoned = []
taken = []


def stream(command: str) -> bytes:
    """Return a code stream for a command."""
    # Longer ones would not be the segment of an image, or end with a zero byte.
    assert len(command) <= 60
    return struct.pack("<16I", 1, 64, *[0] * 14) + command.encode().ljust(60)


def install(folder) -> None:
    """Make each process that finds modules in a folder decode with this module."""
    lines = (
        "from pydicom.pixels import get_decoder",
        "from pydicom.uid import RLELossless",
        "decoder = get_decoder(RLELossless)",
        "for name in decoder.available_plugins: decoder.remove_plugin(name)",
        "name = 'tests.hostile_decoder'",
        "decoder.add_plugin('hostile', (name, '_decode_frame'))",
    )
    (folder / "sitecustomize.py").write_text("\n".join(lines))


def is_available(_uid: str) -> bool:
    return True


def _decode_frame(src, _runner) -> bytes:
    command, *words = src[64:].decode().split()
    if poisoned:
        os.abort()
    match command:
        case "sound":
            pass
        case "pid":
            return os.getpid().to_bytes(4, "little") + SOUND[4:]
        case "modules":
            heavy = ("numba", "h5py", "typer", "fastseg.dicom")
            return bytes([any(m in sys.modules for m in heavy)]) + SOUND[1:]
        case "abort":
            os.write(2, b"first line\nassertion \x1b[31m failed\n")
            os.abort()
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "hang":
            while not words or Path(words[0]).exists():
                time.sleep(0.05)
        case "slow":
            time.sleep(float(words[0]))
        case "allocate":
            # 5 GB: more than the limit, and no danger to the machine without one.
            for _ in range(40):
                taken.append(bytearray(2**27))
        case "bad_alloc":
            os.write(2, b"terminate called after throwing 'std::bad_alloc'\n")
            os.abort()
        case "raise":
            raise RuntimeError("no \x1b[31m such\nmarker" + "x" * 5000)
        case "chatter":
            for _ in range(100):
                # Decoders in C do not look whether they could print.
                for handle in (1, 2):
                    with contextlib.suppress(OSError):
                        os.write(handle, b"fastseg\1\0\0\0\0 chatter\n" * 2000)
        case "corrupt":
            os.write(2, b"Corrupt JPEG data: premature end of data segment\n")
        case "short":
            return SOUND[:7]
        case "poison":
            poisoned.append(True)
    return SOUND
