"""Writes a store, once: beside its target first, then renamed into place."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg.errors import BuildError
from fastseg.store import layout
from fastseg.store.layout import Bucket

Rings = Sequence[NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file that the store is made from: path relative to the data set's root."""

    path: str
    size: int
    xxh3: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What the writer stores of one sample.

    image  : (H, W), the bucket's dtype
    mask   : (H, W), bit field
    rings  : (class index, source, rings) of each class that has a contour
    facts  : values of the columns that the writer does not know itself
    """

    image: NDArray[Any]
    mask: NDArray[Any]
    rings: Sequence[tuple[int, Source, Rings]]
    source: Source
    facts: Mapping[str, Any]


def write_store(
    path: Path,
    items: Iterable[Item | None],
    *,
    buckets: Sequence[Bucket],
    classes: Sequence[str],
    options: Mapping[str, Any],
    software: Mapping[str, str],
) -> set[int]:
    """Write all items into a new store under `path`, replacing an older one.

    items   : in the order of `buckets`; None for one that could not be had
    buckets : the bucket of each item; they are allocated before the first item is
        asked for

    The file comes into being as `<path>.partial` and is renamed when it is
    complete and on disk. Returns the places of the items that were None; if there
    are any, nothing has been put under `path`. Raises BuildError if the items are
    not those announced.
    """
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with h5py.File(
            partial,
            "w",
            alignment_threshold=layout.ALIGN_FROM,
            alignment_interval=layout.PAGE,
        ) as file:
            filling = _Filling(file, buckets, classes, options)
            filling.run(items)
            if not filling.missing:
                filling.finish(software)
        if not filling.missing:
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
        return filling.missing
    finally:
        partial.unlink(missing_ok=True)


class _Filling:
    """One pass over the items; columns gather in memory until all are known."""

    def __init__(
        self,
        file: Any,
        buckets: Sequence[Bucket],
        classes: Sequence[str],
        options: Mapping[str, Any],
    ):
        self.file, self.classes, self.options = file, classes, options
        self.buckets = buckets
        self.names = sorted({bucket.name for bucket in buckets})
        self.columns: dict[str, list[Any]] = {
            name: [] for name in (*layout.column_layout(classes), "patient", "series")
        }
        self.points: list[NDArray[np.float64]] = []
        self.rings: list[tuple[int, int, Source]] = []  # item, class, source
        self.item_sources: list[Source] = []
        self.missing: set[int] = set()
        self.used = dict.fromkeys(self.names, 0)
        counts = dict.fromkeys(self.names, 0)
        for bucket in buckets:
            counts[bucket.name] += 1
        for bucket in sorted(set(buckets), key=lambda bucket: bucket.name):
            shape = (counts[bucket.name], *bucket.shape)
            self._allocate(f"images/{bucket.name}", shape, bucket.dtype)
            masks = layout.mask_dtype(classes)
            self._allocate(f"masks/{bucket.name}", shape, masks)

    def run(self, items: Iterable[Item | None]) -> None:
        for index, (item, bucket) in enumerate(zip(items, self.buckets, strict=True)):
            if item is None:
                self.missing.add(index)
            else:
                self._add(index, item, bucket)

    def _add(self, index: int, item: Item, bucket: Bucket) -> None:
        if Bucket(item.image.shape, item.image.dtype) != bucket:  # type: ignore[arg-type]
            raise BuildError(f"item {index} is no {bucket.name} image as announced")
        row = self.used[bucket.name]
        self.used[bucket.name] += 1
        self.file[f"images/{bucket.name}"][row] = item.image
        self.file[f"masks/{bucket.name}"][row] = item.mask
        start, labelled = len(self.points), 0
        for k, source, rings in item.rings:
            labelled |= 1 << k
            self.points += rings
            self.rings += [(index, k, source)] * len(rings)
        vertices = b"".join(ring.tobytes() for ring in self.points[start:])
        facts = {
            **item.facts,
            "bucket": self.names.index(bucket.name),
            "row": row,
            "source": -1,  # known when all are
            "labelled": labelled,
            "contours": (start, len(self.points)),
            "image_xxh3": xxh3_64_intdigest(item.image.data),
            "mask_xxh3": xxh3_64_intdigest(item.mask.data),
            "contour_xxh3": xxh3_64_intdigest(vertices),
        }
        for name, values in self.columns.items():
            values.append(facts[name])
        self.item_sources.append(item.source)

    def finish(self, software: Mapping[str, str]) -> None:
        sources = sorted(
            {*self.item_sources, *(source for _, _, source in self.rings)},
            key=lambda source: source.path,
        )
        place = {source: k for k, source in enumerate(sources)}
        count = len(self.item_sources)
        items = {
            name: np.array(self.columns[name], dtype).reshape(count, *shape)
            for name, (dtype, shape) in layout.column_layout(self.classes).items()
        }
        items["source"] = np.array([place[source] for source in self.item_sources])
        for name in layout.STRING_COLUMNS:
            items[name] = _strings(self.columns[name])
        for name, values in items.items():
            self._put(f"items/{name}", values)
        self.file["items/percentiles"].attrs["q"] = layout.PERCENTILES
        lengths = [len(ring) for ring in self.points]
        contours = {
            "points": np.concatenate([*self.points, np.empty((0, 2))]),
            "offsets": np.cumsum([0, *lengths]),
            "item": np.array([item for item, _, _ in self.rings]),
            "class": np.array([k for _, k, _ in self.rings]),
            "source": np.array([place[source] for _, _, source in self.rings]),
        }
        for name, (dtype, _) in layout.CONTOUR_COLUMNS.items():
            self._put(f"contours/{name}", contours[name].astype(dtype))
        self._put("sources/path", _strings([source.path for source in sources]))
        sizes = np.array([source.size for source in sources], "<i8")
        self._put("sources/size", sizes)
        sums = np.array([source.xxh3 for source in sources], "<u8")
        self._put("sources/xxh3", sums)
        attributes = self.file.attrs
        attributes["format"] = layout.FORMAT
        attributes["version"] = layout.VERSION
        attributes["classes"] = _strings(self.classes)
        attributes["buckets"] = _strings(self.names)
        attributes["options"] = layout.canonical_json(dict(self.options))
        attributes["software"] = layout.canonical_json(dict(software))
        attributes["fingerprint"] = layout.fingerprint(
            self.classes, self.names, self.options, items
        )
        attributes["complete"] = 1

    def _put(self, name: str, values: NDArray[Any]) -> None:
        dataset = self._allocate(name, values.shape, values.dtype)
        if values.size:
            dataset[...] = values

    def _allocate(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        # Allocated at once and never filled: offsets are known from the start, and
        # the file stays sparse until real bytes arrive.
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_layout(h5py.h5d.CONTIGUOUS)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        creation.set_obj_track_times(False)  # the same content gives the same bytes
        links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        links.set_create_intermediate_group(True)
        space = h5py.h5s.create_simple(shape)
        kind = h5py.h5t.py_create(dtype, logical=True)
        h5py.h5d.create(self.file.id, name.encode(), kind, space, creation, links)
        return self.file[name]


def _strings(texts: Sequence[str]) -> NDArray[np.bytes_]:
    encoded = [text.encode() for text in texts]
    length = max(map(len, encoded), default=0) or 1
    return np.array(encoded, h5py.string_dtype("utf-8", length))


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders, and keeps its names by itself
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
