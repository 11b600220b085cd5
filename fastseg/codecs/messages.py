"""Messages between a program and the processes that decode for it.

A message is a prefix, a head in JSON and a payload of bytes. Nothing is unpickled: what
a damaged file did to a process must not reach the program.
"""

import json
import struct
from io import FileIO
from typing import Any

# Begins each message, and the first one shows that a process has started.
MAGIC = b"fastseg\1"
# Magic; bytes of the head; bytes of the payload.
PREFIX = struct.Struct("<8sIQ")
# Bytes of a head, at most.
MAX_HEAD = 2**16


def send(file: FileIO, head: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    """Write a message to a pipe, or raise OSError."""
    text = json.dumps(head).encode()
    for part in (PREFIX.pack(MAGIC, len(text), len(payload)) + text, payload):
        rest = memoryview(part)
        while len(rest):
            rest = rest[file.write(rest) :]


def receive(file: FileIO, most: int) -> tuple[dict[str, Any], bytearray]:
    """Read a message from a pipe.

    most : bytes of the payload, at most

    Raises EOFError where the other side has closed the pipe, ValueError for anything
    that is no message.
    """
    magic, head_size, size = PREFIX.unpack(_read(file, PREFIX.size))
    if magic != MAGIC or head_size > MAX_HEAD or size > most:
        raise ValueError("no message")
    head = json.loads(_read(file, head_size))
    if not isinstance(head, dict):
        raise ValueError("no message")
    return head, _read(file, size)


def _read(file: FileIO, size: int) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while len(rest):
        count = file.readinto(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return data
