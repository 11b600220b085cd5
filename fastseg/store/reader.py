"""Store: opens a file, maps it, hands out arrays that cost no memory.

HDF5 is asked once where the datasets lie; from then on the file is a map. A Store
holds no HDF5 handle: threads read it side by side, and it can be pickled and
forked.
"""

import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.errors import StoreError, UnknownClassError, one_of
from fastseg.links import StrPath
from fastseg.store import checks, compression, layout, selection, splits
from fastseg.store.pixels import CompressedPixels, MappedPixels, Stack


def open_store(path: StrPath) -> "Store":
    """Open a store for reading.

    Raises StoreError if the file is not a complete, sound store, FileNotFoundError,
    and MissingExtraError if it is compressed and zstandard is not installed.
    """
    return Store(path)


class Store:
    """A file of samples, mapped into memory.

    path        : absolute path of the file
    classes     : names; bit k of a mask says that class k covers the pixel
    buckets     : shape and dtype of the images, by name of the bucket
    compression : "zstd" if the pixels are compressed, else ""
    items       : columns of facts, first axis the sample (see `store.layout`)
    contours    : points, offsets, item, class, source of all rings
    sources     : path, size, xxh3 of the files it was made from
    options     : how the masks were made
    software    : versions of what wrote it
    fingerprint : SHA-256 over content and options
    checksums   : XXH3-64 of each column, by the name of its dataset
    offsets     : where in the file each dataset begins, by its name

    All arrays are read-only views of the map: they cost no memory and live as long
    as something refers to them. Only the pixels of a compressed store are decompressed
    whenever they are asked for. `store[i]` is a Sample, `len(store)` their number.
    """

    def __init__(self, path: StrPath):
        self.path = Path(os.path.abspath(path))  # noqa: PTH100  resolves no links
        with self.path.open("rb") as raw, checks.reading(self.path) as file:
            self._stat = os.fstat(raw.fileno())
            if not os.path.samestat(self._stat, self.path.stat()):
                raise StoreError("was replaced while it was opened; open it again")
            head = checks.read_head(file)
            self.classes, self.fingerprint = head.classes, head.fingerprint
            self.options, self.software = head.options, head.software
            self.checksums, self.compression = head.checksums, head.compression
            self._map = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
            datasets = checks.Datasets(file, self._map)
            found = {n: datasets.bucket(n, self.classes) for n in head.buckets}
            self.buckets = {name: bucket for name, (bucket, _) in found.items()}
            self.items, self.contours, self.sources = (
                datasets.table(name, self.classes, self.compression)
                for name in ("items", "contours", "sources")
            )
            self._pixels = self._open_pixels(datasets)
            self.percentile_ranks = datasets.percentile_ranks()
            self.offsets: Mapping[str, int] = datasets.offsets
            counts = [count for _, count in found.values()]
            checks.check_columns(
                self.items, self.contours, self.sources, counts, datasets.release
            )
            if self.compression:
                checks.check_chunks(self.items, len(self._map), datasets.release)
        self._bucket_names = tuple(self.buckets)
        if self.compression:
            compression.require(f"{self.path}: reading a compressed store")

    def _open_pixels(
        self, datasets: checks.Datasets
    ) -> MappedPixels | CompressedPixels:
        if self.compression:
            codecs = [datasets.codecs(b, self.classes) for b in self.buckets.values()]
            return CompressedPixels(self.items, self._map, codecs, self.path)
        pixels = {name: datasets.pixels(name) for name in self.buckets}
        return MappedPixels(
            self.items,
            {name: images for name, (images, _) in pixels.items()},
            {name: masks for name, (_, masks) in pixels.items()},
            datasets.offsets,
        )

    def __len__(self) -> int:
        return len(self.items["row"])

    def __getitem__(self, index: int) -> "Sample":
        count = len(self)
        try:
            place = index.__index__()
        except AttributeError:
            raise TypeError(
                f"a store is indexed by one whole number, not {type(index).__name__}; "
                "use a list comprehension for several samples"
            ) from None
        if not -count <= place < count:
            raise IndexError(f"sample {place} of a store of {count}")
        return Sample(self, place % count)

    def __iter__(self) -> "Iterator[Sample]":
        return (Sample(self, k) for k in range(len(self)))

    def __repr__(self) -> str:
        return (
            f"<Store {self.path.name}: {len(self)} samples, classes "
            f"{', '.join(self.classes) or 'none'}, buckets {', '.join(self.buckets)}>"
        )

    def __reduce__(self) -> Any:
        return _reopen, (self.path, self.fingerprint)

    @property
    def images(self) -> dict[str, NDArray[Any]]:
        """Stored values (n, H, W), by bucket; StoreError in a compressed store."""
        return self._pixels.images

    @property
    def masks(self) -> dict[str, NDArray[Any]]:
        """Bit fields (n, H, W), by bucket; StoreError in a compressed store."""
        return self._pixels.masks

    def stacks(self, samples: NDArray[np.int64]) -> Iterator[Stack]:
        """Yield the pixels of samples for kernels, as few or many at a time as fit."""
        return self._pixels.stacks(samples)

    def read_ahead(self, samples: NDArray[np.int64]) -> None:
        """Ask the system to bring the pixels of samples into memory, without waiting.

        Does nothing where systems cannot be asked.
        """
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        for start, size in self._pixels.extents(samples):
            page = start // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, page, start + size - page)

    def release(self) -> None:
        """Let go of the pages that were read; the system keeps them cached.

        What is read again is there again. Does nothing where systems cannot be asked.
        """
        checks.release(self._map)

    @cached_property
    def patients(self) -> tuple[str, ...]:
        """The patients' IDs, each once, in order of their first sample."""
        column = self.items["patient"]
        # Samples of a patient stand together: one look per run, not per sample.
        first = np.flatnonzero(np.r_[True, column[1:] != column[:-1]])
        return tuple(dict.fromkeys(_texts(column[first])))

    def class_index(self, name: str) -> int:
        """Return the bit of a class, or raise UnknownClassError."""
        if name not in self.classes:
            raise UnknownClassError(one_of("class", name, self.classes))
        return self.classes.index(name)

    def select(
        self,
        *,
        classes: str | Sequence[str] | None = None,
        match: str = "all",
        min_pixels: int = 0,
        patients: str | Sequence[str] | None = None,
        series: str | Sequence[str] | None = None,
        shape: int | tuple[int, int] | None = None,
        indices: ArrayLike | None = None,
    ) -> NDArray[np.int64]:
        """Return the samples that meet all conditions: sorted places, int64 (n,).

        classes    : have a contour of these classes, and at least `min_pixels`
            pixels of each
        match      : "all" of the classes, or "any" of them
        patients   : are of one of these
        series     : are of one of these SeriesInstanceUIDs
        shape      : have images of this (height, width); one number for a square
        indices    : are among these places

        None may be left: then the array is empty. Raises UnknownClassError, or
        OptionError for what the store does not hold.
        """
        self.check_size()
        return selection.select(
            self,
            classes=classes,
            match=match,
            min_pixels=min_pixels,
            patients=patients,
            series=series,
            shape=shape,
            indices=indices,
        )

    def split(
        self,
        parts: Mapping[str, float],
        *,
        by: str = "patient",
        seed: int = 0,
        stratify: str | ArrayLike | None = None,
        indices: ArrayLike | None = None,
    ) -> dict[str, NDArray[np.int64]]:
        """Return the samples of each part: sorted places, int64, by the part's name.

        parts    : fractions of the samples, as in {"train": 0.8, "val": 0.2}
        by       : what is never torn apart: "patient"; "series", of which those
            without a UID count as one per patient; or "sample"
        seed     : 0 to 2**64 - 1
        stratify : let the parts be alike in this too: "classes", in how many samples
            have a contour of each; "shape" of the images; or a text or number for
            each sample of the store, at most 64 different
        indices  : split only these places

        Each sample is in one part, and so is each patient: that is proved before
        the parts are returned. They are so near to their fractions that no patient
        could move, nor two of up to 300 change places, and bring them nearer; none
        is empty. Which patient goes where depends on the IDs, what there is of each,
        and the seed, but not on the order of the samples.

        Raises OptionError for arguments that cannot be meant, and if there are fewer
        patients (series, samples) than parts.
        """
        self.check_size()
        return splits.split(
            self, parts, by=by, seed=seed, stratify=stratify, indices=indices
        )

    @property
    def compression_ratio(self) -> float:
        """How many times smaller the pixels are than if they were not compressed."""
        if not self.compression:
            return 1.0
        counts = np.bincount(self.items["bucket"], minlength=len(self.buckets))
        masks = layout.mask_dtype(self.classes).itemsize
        sizes = [
            math.prod(bucket.shape) * (bucket.dtype.itemsize + masks)
            for bucket in self.buckets.values()
        ]
        chunks = sum(int(self.items[n][:, 1].sum()) for n in layout.CHUNK_COLUMNS)
        return float(counts @ sizes) / chunks

    @property
    def is_whole(self) -> bool:
        """Whether the file is still as long as when it was opened.

        Reading beyond the end of a mapped file ends the process.
        """
        return self._map.size() >= len(self._map)

    def check_size(self) -> None:
        """Raise StoreError if the file has become shorter since it was opened."""
        if not self.is_whole:
            raise StoreError(f"{self.path}: was truncated while it was in use")

    def open_file(self) -> FileIO:
        """Open the mapped file for plain reads.

        Raises StoreError if another file has taken its name, FileNotFoundError.
        """
        file = FileIO(self.path)
        if not os.path.samestat(self._stat, os.fstat(file.fileno())):
            file.close()
            raise StoreError(f"{self.path}: was replaced since it was opened")
        return file


class Sample:
    """One sample of a store; its arrays are views of the map, unless compressed."""

    __slots__ = ("_store", "index")

    def __init__(self, store: Store, index: int):
        self._store, self.index = store, index

    @property
    def image(self) -> NDArray[Any]:
        """Stored values (H, W), read-only."""
        return self._store._pixels.image(self.index)

    @property
    def mask(self) -> NDArray[Any]:
        """Bit field (H, W), read-only: bit k says that class k covers the pixel."""
        return self._store._pixels.mask(self.index)

    def mask_of(self, name: str) -> NDArray[np.bool_]:
        """Return one class's mask, bool (H, W), or raise UnknownClassError."""
        mask = self.mask
        bit = mask.dtype.type(1 << self._store.class_index(name))
        covered: NDArray[np.bool_] = (mask & bit) != 0
        return covered

    @property
    def contours(self) -> dict[str, list[NDArray[np.float64]]]:
        """The rings of each class that has any: float64 (n, 2), (x, y) in pixels."""
        contours, store = self._store.contours, self._store
        start, stop = store.items["contours"][self.index].tolist()
        bounds = contours["offsets"][start : stop + 1].tolist()
        found: dict[str, list[NDArray[np.float64]]] = {}
        classes = contours["class"][start:stop].tolist()
        for k, (first, last) in zip(classes, pairwise(bounds), strict=True):
            found.setdefault(store.classes[k], []).append(
                contours["points"][first:last]
            )
        return found

    @property
    def meta(self) -> dict[str, Any]:
        """What the columns of /items say of it, with the source's path."""
        items = self._store.items
        meta = {name: _plain(column, self.index) for name, column in items.items()}
        meta["bucket"] = self._store._bucket_names[meta["bucket"]]
        meta["source"] = _text(self._store.sources["path"][meta["source"]])
        return meta

    @property
    def patient(self) -> str:
        """ID of the patient."""
        return _text(self._store.items["patient"][self.index])

    def __repr__(self) -> str:
        height, width = self._store.buckets[self.meta["bucket"]].shape
        return f"<Sample {self.index}: {height}x{width}, patient {self.patient}>"


def _reopen(path: Path, fingerprint: str) -> Store:
    store = Store(path)
    if store.fingerprint != fingerprint:
        raise StoreError(f"{path}: is another store than the one that was pickled")
    return store


def _text(value: bytes) -> str:
    return bytes(value).decode()


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(_text(value) for value in np.asarray(values).tolist())


def _plain(column: NDArray[Any], index: int) -> Any:
    value = column.item(index) if column.ndim == 1 else column[index].tolist()
    return value.decode() if isinstance(value, bytes) else value
