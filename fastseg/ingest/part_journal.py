"""Journals of parts: what each process has made of a plan, in a file of its own.

Nothing is locked, as not every shared file system can: a process creates a file with a
name that no other has, which says the blocks of its part, and appends a frame for each
block that it has made. Two of them may make the same block: both give the same bytes. A
frame has a checksum, so that one that was cut short is not taken for a block that is
done.

A journal begins with a line of JSON: the identity of the plan, and the part. A frame
has the length and the checksum of its body, and the block's number; the body has its
records, what was rejected, and the bytes that only `finish` may write.
"""

import json
import os
import re
import secrets
import struct
from array import array
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg.errors import PlanError
from fastseg.files import READ_ONLY
from fastseg.outputs import create_work
from fastseg.store.writing.journal import Frames
from fastseg.store.writing.pixel_file import PixelFile
from fastseg.store.writing.records import Records, from_bytes, to_bytes
from fastseg.tables import Reject

# Length and XXH3-64 of the body, and the number of the block.
FRAME = struct.Struct("<QQQ")
# In a body, bytes of JSON and of the records behind it.
SIZES = struct.Struct("<QQ")
SUFFIX = ".journal"
# Of the file of compressed pixels beside a journal.
CHUNKS = ".chunks"
# Offsets of chunks have the number of their file from this bit on.
FILE_BIT = 48
# Bytes of a journal's first line, at most.
MOST_HEADER = 4096
# Journals that are open at once. A shared file system asks a server at each opening.
MOST_OPEN = 16


class Made(NamedTuple):
    """A block that was made.

    items   : int64 (n,), indices in the block of those that are done
    records : of these
    rejects : what was rejected, by index in the block
    edges   : bytes to be written into the file of pixels, by offset
    """

    items: NDArray[np.int64]
    records: Records
    rejects: dict[int, list[Reject]]
    edges: Sequence[tuple[int, bytes]]


class Frame(NamedTuple):
    """Where a block lies: the number of its journal, offset and length of its body."""

    journal: int
    offset: int
    length: int
    digest: int


class JournalWriter:
    """Appends what this process makes. Used by one thread."""

    def __init__(self, folder: Path, identity: str, part: str, first: int, stop: int):
        """Begin a journal of a part that has blocks from `first` to `stop` - 1."""
        self.path = folder / f"{first}-{stop}-{secrets.token_hex(8)}{SUFFIX}"
        self._file = FileIO(create_work(self.path), "r+")
        header = {"plan": identity, "part": part, "first": first, "stop": stop}
        try:
            self._write(json.dumps(header).encode() + b"\n")
        except OSError:
            self.close()
            raise

    def append(self, number: int, made: Made) -> None:
        """Append a block; call `flush` before it counts as done."""
        records = to_bytes(made.records)
        content = {
            "items": made.items.tolist(),
            "rejects": {k: list(map(list, r)) for k, r in made.rejects.items()},
            "edges": [(offset, len(data)) for offset, data in made.edges],
        }
        head = json.dumps(content).encode()
        sizes = SIZES.pack(len(head), len(records))
        edges = [data for _, data in made.edges]
        body = b"".join([sizes, head, records, *edges])
        self._write(FRAME.pack(len(body), xxh3_64_intdigest(body), number) + body)

    def flush(self) -> None:
        """Wait until all is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view):  # a full disk may take some bytes before it raises an error
            view = view[self._file.write(view) :]


class ChunkFiles:
    """The compressed pixels of all journals, read as if they were one file."""

    def __init__(self, paths: Sequence[Path]):
        self.path = paths[0]
        self._paths = paths
        self._open: dict[int, PixelFile] = {}

    def read(self, offset: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return an array; its offset names the file, too."""
        number = offset >> FILE_BIT
        file = self._open.get(number)
        if file is None:
            if len(self._open) == MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            file = self._open[number] = PixelFile(self._paths[number])
        return file.read(offset & (1 << FILE_BIT) - 1, shape, dtype)

    def begin(self, is_new: bool) -> None:
        """Do nothing: nothing is written."""

    def close(self) -> None:
        """Close all files."""
        for file in self._open.values():
            file.close()


class Journals:
    """All journals of a plan, to be read. Used by one thread.

    parts : the parts that somebody has begun, as "3/64"
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        classes: Sequence[str],
        blocks: tuple[int, int] | None = None,
    ):
        """Find the frames of journals; their bodies are not read.

        blocks : the first block and the one behind the last: journals of others are
            not opened

        Raises PlanError for a journal of another plan.
        """
        self._classes = tuple(classes)
        paths = sorted(folder.glob(f"*{SUFFIX}"))
        self._paths = [path for path in paths if blocks is None or _has(path, blocks)]
        self._open: dict[int, FileIO] = {}
        self._frames: dict[int, list[Frame]] = {}
        self.parts: set[str] = set()
        self._ranges: list[tuple[int, int]] = []
        for number, path in enumerate(self._paths):
            with open_journal(path) as file:
                header = file.readline(MOST_HEADER)
                try:
                    content = json.loads(header)
                    plan, part = content["plan"], content["part"]
                    span = content["first"], content["stop"]
                except (ValueError, KeyError, TypeError):
                    continue  # it was cut short, so no block of it is done
                if plan != identity:
                    raise PlanError(
                        f"{path}: belongs to another plan; remove it, or the whole "
                        "folder, and plan the build again"
                    )
                self.parts.add(part)
                self._ranges.append(span)
                self._scan(number, file, len(header))

    def _scan(self, number: int, file: FileIO, offset: int) -> None:
        size = os.fstat(file.fileno()).st_size
        while offset + FRAME.size <= size:
            file.seek(offset)
            length, digest, block = FRAME.unpack(file.read(FRAME.size))
            offset += FRAME.size
            if offset + length > size:
                return
            frame = Frame(number, offset, length, digest)
            self._frames.setdefault(block, []).append(frame)
            offset += length

    def has_begun(self, first: int, stop: int) -> bool:
        """Return whether somebody may have written to these blocks."""
        return any(low < stop and first < high for low, high in self._ranges)

    def is_made(self, block: int) -> bool:
        """Return whether a block was made, by its checksum."""
        return any(
            self._body(frame) is not None for frame in self._frames.get(block, ())
        )

    def missing(self, blocks: int) -> list[int]:
        """Return the blocks that no journal names; their bodies are not read."""
        return [block for block in range(blocks) if block not in self._frames]

    def read(self, block: int) -> Made | None:
        """Return what was made of a block, None if all its frames are damaged."""
        for frame in self._frames.get(block, ()):
            body = self._body(frame)
            if body is not None:
                return self._decode(frame, body)
        return None

    def records(self, block: int) -> Records | None:
        """Return the records of a block, None if all its frames are damaged."""
        for frame in self._frames.get(block, ()):
            body = self._body(frame)
            if body is not None:
                return self._decode_records(frame, body)
        return None

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()

    def chunks(self) -> ChunkFiles:
        """Return the compressed pixels."""
        return ChunkFiles([path.with_suffix(CHUNKS) for path in self._paths])

    def _body(self, frame: Frame) -> bytes | None:
        file = self._open.get(frame.journal)
        if file is None:
            if len(self._open) == MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            file = open_journal(self._paths[frame.journal])
            self._open[frame.journal] = file
        file.seek(frame.offset)
        body = file.read(frame.length) or b""
        is_whole = len(body) == frame.length
        return body if is_whole and xxh3_64_intdigest(body) == frame.digest else None

    def _decode_records(self, frame: Frame, body: bytes) -> Records:
        head, size = SIZES.unpack_from(body)
        start = SIZES.size + head
        records = from_bytes(body[start : start + size], self._classes)
        # The other two columns are sizes.
        file = np.array([frame.journal << FILE_BIT] * 2 + [0, 0], np.int64)
        return records._replace(offsets=records.offsets + file)

    def _decode(self, frame: Frame, body: bytes) -> Made:
        head, size = SIZES.unpack_from(body)
        start = SIZES.size + head
        content = json.loads(body[SIZES.size : start])
        rejects = {
            int(k): [Reject(*row) for row in rows]
            for k, rows in content["rejects"].items()
        }
        edges = []
        end = start + size
        for offset, length in content["edges"]:
            edges.append((offset, body[end : end + length]))
            end += length
        items = np.array(content["items"], np.int64)
        return Made(items, self._decode_records(frame, body), rejects, edges)


class MadeRecords(Frames):
    """The records of blocks that were made, read from their journals."""

    def __init__(self, journals: Journals):
        super().__init__()
        self._journals = journals
        self._blocks = array("q")

    def add(self, block: int, records: Records) -> NDArray[np.int64]:
        """Add the records of a block, and return their numbers."""
        self._blocks.append(block)
        return self.number(records)

    def _load(self, frame: int) -> Records:
        block = self._blocks[frame]
        records = self._journals.records(block)
        if records is None:
            raise OSError(f"the journal of block {block} was damaged while in use")
        return records


def _has(path: Path, blocks: tuple[int, int]) -> bool:
    """Return whether a journal may have some of the blocks, by its name."""
    match = re.match(r"([0-9]{1,18})-([0-9]{1,18})-", path.name)
    first, stop = blocks
    return not match or (int(match[1]) < stop and first < int(match[2]))


def open_journal(path: Path) -> FileIO:
    """Open a journal to read; a symbolic link is not followed."""
    flags = READ_ONLY | getattr(os, "O_NOFOLLOW", 0)
    return FileIO(os.open(path, flags), "r")
