"""Pieces of a store's file, read and hashed for `verify`."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise

from xxhash import xxh3_64, xxh3_64_intdigest

from fastseg.errors import StoreError
from fastseg.links import reason_of
from fastseg.store.compression import Codec


@dataclass(frozen=True, slots=True)
class Pieces:
    """Neighbours: piece k lies from bounds[k] to bounds[k + 1]."""

    bounds: Sequence[int]

    @property
    def size(self) -> int:
        """Bytes of all."""
        return self.bounds[-1] - self.bounds[0]

    def digests_or_reasons(self, file: FileIO, buffer: memoryview) -> list[int | str]:
        """Return the XXH3-64 of each piece, or why it cannot be read."""
        try:
            return list(self.digests(file, buffer))
        except OSError as exc:
            if len(self.bounds) == 2:
                return [f"cannot be read: {reason_of(exc)}"]
        pairs = map(Pieces, pairwise(self.bounds))
        return [pair.digests_or_reasons(file, buffer)[0] for pair in pairs]

    def digests(self, file: FileIO, buffer: memoryview) -> Iterator[int]:
        """Yield the XXH3-64 of each piece.

        As many pieces as fit into the buffer are read at once. xxhash releases the GIL
        for large buffers, and for small ones takes a microsecond.
        """
        bounds, first = self.bounds, 0
        while first < len(bounds) - 1:
            start = bounds[first]
            stop = bisect_right(bounds, start + len(buffer)) - 1
            if stop > first:
                block = read(file, start, bounds[stop], buffer)
                for begin, end in pairwise(bounds[first : stop + 1]):
                    yield xxh3_64_intdigest(block[begin - start : end - start])
                first = stop
            else:
                digest, end = xxh3_64(), bounds[first + 1]
                for begin in range(start, end, len(buffer)):
                    stop = min(begin + len(buffer), end)
                    digest.update(read(file, begin, stop, buffer))
                yield digest.intdigest()
                first += 1


@dataclass(frozen=True, slots=True)
class Chunks:
    """Compressed arrays: where each begins and how many bytes it has; its codec."""

    places: Sequence[tuple[int, int]]
    codecs: Sequence[Codec]

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(size for _, size in self.places)

    def digests_or_reasons(self, file: FileIO, buffer: memoryview) -> list[int | str]:
        """Return the XXH3-64 of what each holds, or why it cannot be had."""
        found: list[int | str] = []
        for (start, size), codec in zip(self.places, self.codecs, strict=True):
            space = buffer if size <= len(buffer) else memoryview(bytearray(size))
            try:
                chunk = read(file, start, start + size, space)
            except OSError as exc:
                found.append(f"cannot be read: {reason_of(exc)}")
                continue
            try:
                found.append(xxh3_64_intdigest(codec.decode(chunk).data))
            except StoreError as exc:
                found.append(str(exc))
        return found


def read(file: FileIO, start: int, stop: int, buffer: memoryview) -> memoryview:
    """Return bytes of a file, in the buffer; raise StoreError where it ends."""
    view = buffer[: stop - start]
    file.seek(start)
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise StoreError(f"{file.name!s}: was truncated while it was in use")
        done += count
    return view
