"""Records of finished items, as columns: all that a store holds but their pixels."""

from collections.abc import Iterable, Sequence
from functools import cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.store import layout

# Columns of /items that no record has: they depend on the other items of the store, or
# follow from other columns.
LATE_COLUMNS = ("bucket", "row", "source", "contours", "volume", "position_mm")


class Slots(NamedTuple):
    """Where n items will be in the store.

    links  : uint64 (n,), XXH3-64 of each item's rows of the links table
    bucket : int64 (n,), index of its bucket; buckets are sorted by name
    row    : int64 (n,), its row in the bucket
    """

    links: NDArray[np.uint64]
    bucket: NDArray[np.int64]
    row: NDArray[np.int64]

    def pick(self, some: Any) -> "Slots":
        """Return the slots of some of the items."""
        return Slots(*(column[some] for column in self))


@cache
def meta_dtype(classes: tuple[str, ...]) -> np.dtype[Any]:
    """Return the dtype of a record's metadata."""
    columns = layout.column_layout(classes)
    return np.dtype(
        [(name, *columns[name]) for name in columns if name not in LATE_COLUMNS]
    )


class Records(NamedTuple):
    """Records of n items as columns; all rows of one item are neighbours.

    links       : uint64 (n,), as in Slots; 0 if a build must not resume the item
    offsets     : int64 (n, 4), of image and mask in the file of pixels, then the sizes
        of both in bytes
    patient, series, modality, sop_instance, frame_of_reference : bytes (n,), UTF-8
    file_counts : int64 (n,), number of files of each item
    stamps      : int64 (f, 4), the `files.Stamp` of each file when it was read. A
        resumed build compares them to see whether the files have changed; they are not
        in the store
    path, size, xxh3 : bytes, int64 and uint64 (f,), of each file as in /sources; the
        image's file comes first
    rings       : int64 (r, 5): index of the item in these records, bit of the class,
        index into the item's files, group, number of vertices
    meta        : `meta_dtype` (n,), the columns of /items but LATE_COLUMNS and strings
    points      : float64 (p, 2), the vertices of the rings
    histograms  : int64 (h, 6): index of the item in these records, then the columns
        class, least, width and pixels of /histograms, and bytes of its codes
    moments     : float64 (h, 2), the columns mean and std
    codes       : uint8 (c,), the column counts
    """

    links: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    patient: NDArray[np.bytes_]
    series: NDArray[np.bytes_]
    modality: NDArray[np.bytes_]
    sop_instance: NDArray[np.bytes_]
    frame_of_reference: NDArray[np.bytes_]
    file_counts: NDArray[np.int64]
    stamps: NDArray[np.int64]
    path: NDArray[np.bytes_]
    size: NDArray[np.int64]
    xxh3: NDArray[np.uint64]
    rings: NDArray[np.int64]
    meta: NDArray[Any]
    points: NDArray[np.float64]
    histograms: NDArray[np.int64]
    moments: NDArray[np.float64]
    codes: NDArray[np.uint8]

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.links)

    def pick(self, items: ArrayLike) -> "Records":
        """Return the records of some items."""
        chosen = np.asarray(items, np.int64)
        files = _rows_of(self.file_counts, chosen)
        ring_counts = np.bincount(self.rings[:, 0], minlength=self.items)
        ring_rows = _rows_of(ring_counts, chosen)
        rings = self.rings[ring_rows]
        rings[:, 0] = np.repeat(np.arange(len(chosen)), ring_counts[chosen])
        counts = np.bincount(self.histograms[:, 0], minlength=self.items)
        rows = _rows_of(counts, chosen)
        histograms = self.histograms[rows]
        histograms[:, 0] = np.repeat(np.arange(len(chosen)), counts[chosen])
        return Records(
            links=self.links[chosen],
            offsets=self.offsets[chosen],
            patient=self.patient[chosen],
            series=self.series[chosen],
            modality=self.modality[chosen],
            sop_instance=self.sop_instance[chosen],
            frame_of_reference=self.frame_of_reference[chosen],
            file_counts=self.file_counts[chosen],
            stamps=self.stamps[files],
            path=self.path[files],
            size=self.size[files],
            xxh3=self.xxh3[files],
            rings=rings,
            meta=self.meta[chosen],
            points=self.points[_rows_of(self.rings[:, -1], ring_rows)],
            histograms=histograms,
            moments=self.moments[rows],
            codes=self.codes[_rows_of(self.histograms[:, -1], rows)],
        )

    def stamps_of(self, item: int) -> NDArray[np.int64]:
        """Return the stamps of the files of one item, int64 (k, 4)."""
        end = int(self.file_counts[: item + 1].sum())
        return self.stamps[end - int(self.file_counts[item]) : end]


# Dtype of the columns of Records, and the numbers in a row.
COLUMNS = {
    "links": ("<u8", 1),
    "offsets": ("<i8", 4),
    "patient": ("S", 1),
    "series": ("S", 1),
    "modality": ("S", 1),
    "sop_instance": ("S", 1),
    "frame_of_reference": ("S", 1),
    "file_counts": ("<i8", 1),
    "stamps": ("<i8", 4),
    "path": ("S", 1),
    "size": ("<i8", 1),
    "xxh3": ("<u8", 1),
    "rings": ("<i8", 5),
    "meta": ("V", 1),
    "points": ("<f8", 2),
    "histograms": ("<i8", 6),
    "moments": ("<f8", 2),
    "codes": ("|u1", 1),
}


def join(blocks: Sequence[Records]) -> Records:
    """Return the items of one or more Records as one, in their order."""
    if len(blocks) == 1:
        return blocks[0]
    columns = [np.concatenate(column) for column in zip(*blocks, strict=True)]
    joined = Records(*columns)
    firsts = np.cumsum([0, *(block.items for block in blocks[:-1])])
    joined.rings[:, 0] += np.repeat(firsts, [len(block.rings) for block in blocks])
    counts = [len(block.histograms) for block in blocks]
    joined.histograms[:, 0] += np.repeat(firsts, counts)
    return joined


def as_texts(texts: Iterable[str]) -> NDArray[np.bytes_]:
    """Return texts as an array of bytes, in UTF-8."""
    return np.array([text.encode() for text in texts], np.bytes_)


def to_bytes(records: Records) -> bytes:
    """Return records as bytes: length and row size of each column, then the columns."""
    shapes = [
        (len(column), prod(column.shape[1:]) * column.itemsize) for column in records
    ]
    header = np.array(shapes, "<i8").tobytes()
    return b"".join([header, *(column.tobytes() for column in records)])


def from_bytes(data: bytes, classes: tuple[str, ...]) -> Records:
    """Return the records of which `to_bytes` made the data."""
    shapes = np.frombuffer(data, "<i8", 2 * len(COLUMNS)).reshape(-1, 2)
    columns: list[Any] = []
    offset = shapes.nbytes
    for (count, width), (kind, numbers) in zip(
        shapes.tolist(), COLUMNS.values(), strict=True
    ):
        dtype = np.dtype(f"S{width}" if kind == "S" else kind)
        if kind == "V":
            dtype = meta_dtype(classes)
        column = np.frombuffer(data, dtype, count * numbers, offset)
        columns.append(column.reshape(count, numbers) if numbers > 1 else column)
        offset += count * width
    return Records(*columns)


def _rows_of(counts: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of chosen items in a column with counts[k] rows for item k."""
    sizes = counts[chosen]
    starts = (np.cumsum(counts) - counts)[chosen]
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(sizes.sum())
