"""Store: opens a file, maps it, hands out arrays that cost no memory.

HDF5 is asked once where the datasets lie; from then on the file is a map. A Store
holds no HDF5 handle: threads read it side by side, and it can be pickled and
forked.
"""

import json
import mmap
import os
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fastseg.errors import StoreError, UnknownClassError, one_of
from fastseg.links import StrPath
from fastseg.store import layout
from fastseg.store.layout import Bucket


def open_store(path: StrPath) -> "Store":
    """Open a store for reading.

    Raises StoreError if the file is not a complete, sound store, FileNotFoundError.
    """
    return Store(path)


class Store:
    """A file of samples, mapped into memory.

    path        : absolute path of the file
    classes     : names; bit k of a mask says that class k covers the pixel
    buckets     : shape and dtype of the images, by name of the bucket
    images      : stored values (n, H, W), by name of the bucket
    masks       : bit fields (n, H, W), by name of the bucket
    items       : columns of facts, first axis the sample (see `store.layout`)
    contours    : points, offsets, item, class, source of all rings
    sources     : path, size, xxh3 of the files it was made from
    options     : how the masks were made
    software    : versions of what wrote it
    fingerprint : SHA-256 over content and options

    All arrays are read-only views of the map: they cost no memory and live as long
    as something refers to them. `store[i]` is a Sample, `len(store)` their number.
    """

    def __init__(self, path: StrPath):
        self.path = Path(os.path.abspath(path))  # noqa: PTH100  resolves no links
        with self.path.open("rb") as raw, _open_hdf5(self.path) as file:
            _check_format(file, self.path)
            size = os.fstat(raw.fileno()).st_size
            self._map = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
            view = _View(self.path, self._map, size)
            attributes = file.attrs
            self.classes = _texts(attributes["classes"])
            self.options: Mapping[str, Any] = json.loads(attributes["options"])
            self.software: Mapping[str, str] = json.loads(attributes["software"])
            self.fingerprint = str(attributes["fingerprint"])
            names = _texts(attributes["buckets"])
            self.images = {name: view.of(file, f"images/{name}") for name in names}
            self.masks = {name: view.of(file, f"masks/{name}") for name in names}
            self.items, self.contours, self.sources = (
                {name: view.of(file, f"{group}/{name}") for name in file[group]}
                for group in ("items", "contours", "sources")
            )
            self.percentile_ranks: tuple[float, ...] = tuple(
                file["items/percentiles"].attrs["q"].tolist()
            )
        self.buckets = {
            name: Bucket(images.shape[1:], images.dtype)
            for name, images in self.images.items()
        }
        self._check_columns()

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

    def _check_columns(self) -> None:
        """Refuse what would lead a compiled loop outside the map."""
        lengths = {name: len(column) for name, column in self.items.items()}
        missing = set(layout.column_layout(self.classes)) - set(lengths)
        if missing or len(set(lengths.values())) != 1:
            raise StoreError(
                f"{self.path}: the columns of /items are damaged: missing "
                f"{sorted(missing)}, lengths {sorted(set(lengths.values()))}"
            )
        bucket, row = self.items["bucket"], self.items["row"]
        counts = np.array([len(images) for images in self.images.values()])
        masks = [array.shape for array in self.masks.values()]
        sound = (
            len(row) == counts.sum()
            and bucket.max(initial=0) < len(counts)
            and bool(((row >= 0) & (row < counts[bucket])).all())
            and masks == [array.shape for array in self.images.values()]
        )
        rings = self.contours["offsets"]
        points = self.contours["points"]
        first, stop = self.items["contours"].T
        sound = (
            sound
            and bool((rings[1:] >= rings[:-1]).all())
            and rings[0] == 0
            and rings[-1] == len(points)
            and bool(((first >= 0) & (first <= stop) & (stop < len(rings))).all())
        )
        if not sound:
            raise StoreError(f"{self.path}: /items points outside its data; damaged")


class Sample:
    """One sample of a store; its arrays are views of the map."""

    __slots__ = ("_store", "index")

    def __init__(self, store: Store, index: int):
        self._store, self.index = store, index

    @property
    def image(self) -> NDArray[Any]:
        """Stored values (H, W), read-only."""
        name, row = self._place()
        image: NDArray[Any] = self._store.images[name][row]
        return image

    @property
    def mask(self) -> NDArray[Any]:
        """Bit field (H, W), read-only: bit k says that class k covers the pixel."""
        name, row = self._place()
        mask: NDArray[Any] = self._store.masks[name][row]
        return mask

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
    def facts(self) -> dict[str, Any]:
        """What the columns of /items say of it, with the source's path."""
        items = self._store.items
        facts = {name: _plain(column[self.index]) for name, column in items.items()}
        facts["bucket"] = list(self._store.buckets)[facts["bucket"]]
        facts["source"] = _text(self._store.sources["path"][facts["source"]])
        return facts

    @property
    def patient(self) -> str:
        """ID of the patient."""
        return _text(self._store.items["patient"][self.index])

    def __repr__(self) -> str:
        height, width = self.image.shape
        return f"<Sample {self.index}: {height}x{width}, patient {self.patient}>"

    def _place(self) -> tuple[str, int]:
        items = self._store.items
        name = list(self._store.buckets)[items["bucket"][self.index]]
        return name, int(items["row"][self.index])


class _View:
    """Turns datasets into arrays over the map."""

    def __init__(self, path: Path, map: mmap.mmap, size: int):
        self.path, self.map, self.size = path, map, size

    def of(self, file: Any, name: str) -> NDArray[Any]:
        if name not in file:
            raise StoreError(f"{self.path}: has no dataset {name}; damaged")
        dataset = file[name]
        dtype = np.dtype(dataset.dtype.str)  # without HDF5's notes on strings
        if dtype.byteorder == ">" or dtype.hasobject:
            raise StoreError(f"{self.path}: {name} is {dtype}, expected little-endian")
        if dataset.size == 0:
            return np.empty(dataset.shape, dtype)
        offset = dataset.id.get_offset()
        if offset is None:
            raise StoreError(f"{self.path}: {name} is not contiguous, so not mappable")
        if offset + dataset.nbytes > self.size:
            raise StoreError(
                f"{self.path}: {name} ends at byte {offset + dataset.nbytes}, the file "
                f"has {self.size}; it is truncated"
            )
        array: NDArray[Any] = np.ndarray(dataset.shape, dtype, self.map, offset)
        if not array.flags.aligned:
            # Only what is smaller than ALIGN_FROM: kernels want aligned arrays.
            array = array.copy()
            array.flags.writeable = False
        return array


def _open_hdf5(path: Path) -> Any:
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as exc:
        raise StoreError(
            f"{path}: is no HDF5 file, or is truncated ({exc}); build it again"
        ) from None


def _check_format(file: Any, path: Path) -> None:
    attributes = file.attrs
    if attributes.get("format") != layout.FORMAT:
        raise StoreError(f"{path}: is an HDF5 file, but no fastseg store")
    version = attributes.get("version")
    if version is None or version > layout.VERSION:
        raise StoreError(
            f"{path}: has version {version}, this fastseg reads {layout.VERSION}; "
            "upgrade fastseg"
        )
    if attributes.get("complete") != 1:
        raise StoreError(f"{path}: is incomplete; build it again")


def _reopen(path: Path, fingerprint: str) -> Store:
    store = Store(path)
    if store.fingerprint != fingerprint:
        raise StoreError(f"{path}: is another store than the one that was pickled")
    return store


def _text(value: bytes) -> str:
    return bytes(value).decode()


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(_text(value) for value in np.asarray(values).tolist())


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.tolist()
