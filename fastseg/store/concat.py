"""Several files of samples, read as one store.

Columns of the files are copied one behind the other, each when it is first used: 8 MB
for a number of each of a million samples. Pixels are mapped side by side, see
`joined_map`, and so are vertices; histograms are read from the file of their sample. So
none of them are copied, unless their columns are asked for.
"""

import hashlib
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from fastseg.calls import check_call
from fastseg.errors import OptionError, StoreError, is_iterable, shown
from fastseg.paths import StrPath
from fastseg.store import layout
from fastseg.store.joined_map import FileArray, JoinedArrays, join
from fastseg.store.mapped_file import MappedFile
from fastseg.store.pixels import Columns, MappedPixels, Stack, stacks_of
from fastseg.store.reader import Store, as_store

# Columns that are indices, and what each counts.
INDICES: Mapping[str, str] = {
    "items/source": "sources",
    "items/volume": "volumes",
    "items/contours": "rings",
    "contours/offsets": "points",
    "contours/item": "samples",
    "contours/source": "sources",
    "volumes/first": "samples",
    "histograms/item": "samples",
    "histograms/offsets": "codes",
}
# Columns of /items whose values differ from those in the files.
MOVED = ("bucket", "source", "volume", "contours")
# Columns of n + 1 offsets: the last one of a file is the first one of the next.
OFFSETS = ("contours/offsets", "histograms/offsets")
# In a loop over batches, files are looked at as often as this allows: after three of
# them, not before 3 ms. To look at a file takes up to 5 us, so this is 1 % of the time;
# before and after each batch, it was a fifth of the time of one from 100 files.
SECONDS_PER_FILE = 0.001


@check_call("fastseg.concat(['site1.h5', 'site2.h5'])")
def concat(stores: Iterable[Store | StrPath]) -> "ConcatStore":
    """Read several stores as one.

    stores : at least one store, as `fastseg.open` returns it, or its path, in the order
        of their samples. They have equal classes and options

    Raises OptionError if they do not, or if one is given twice, and what `fastseg.open`
    raises.
    """
    if isinstance(stores, str | os.PathLike | Store) or not is_iterable(stores):
        raise OptionError(
            f"stores is {shown(stores)}, expected a list of stores or paths, as in "
            "['site1.h5', 'site2.h5']"
        )
    return ConcatStore(map(as_store, stores))


class ConcatStore(Store):
    """Several files of samples, read as one store; `concat` returns it.

    files : the store of each file
    paths : their paths

    It has all that a Store has, but for `images`, `masks`, and what verifies one file.
    Samples, volumes, rings and sources are those of the first file, then those of the
    second, and so on; items["row"] is that in the file. Patients and series with one ID
    are one, also in several files.

    path        : the folder that has all files
    buckets     : those of all files, by name
    compression : "zstd" if the pixels of any file are compressed
    software    : versions by name; different ones with a comma between them
    fingerprint : SHA-256 of those of the files, in their order
    sources     : if files of the same path differ, each path begins with that of its
        store, relative to the folder that has all stores

    `close` closes all files.
    """

    @check_call("fastseg.concat(['site1.h5', 'site2.h5'])")
    def __init__(self, stores: Iterable[Store]):
        self.files = files = tuple(stores)
        if not files:
            raise OptionError("stores is empty, expected at least one store")
        for store in files:
            if isinstance(store, ConcatStore):
                raise OptionError(
                    "stores has one that is several files; give its files instead, as "
                    "in [*store.files, 'site3.h5']"
                )
            store.check()
        _check_alike(files)
        self.paths = tuple(store.path for store in files)
        self.path = _folder(files)
        self.classes = files[0].classes
        self.options = files[0].options
        self.percentile_ranks = files[0].percentile_ranks
        names = {name for store in files for name in store.buckets}
        known = {name: b for store in files for name, b in store.buckets.items()}
        self.buckets = {name: known[name] for name in sorted(names)}
        self._bucket_names = tuple(self.buckets)
        self.compression = max(store.compression for store in files)
        self.software = {
            name: ", ".join(
                dict.fromkeys(s.software[name] for s in files if name in s.software)
            )
            for name in {name: None for store in files for name in store.software}
        }
        text = "\n".join(["concat", *(store.fingerprint for store in files)])
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self._files = Files(files, self._bucket_names)
        self._tables = {
            table: JoinedColumns(names, self._files.make_column(table))
            for table, names in layout.tables(self.classes).items()
        }
        self._items = self._tables["items"]
        pixels = ConcatPixels(self._files, self.buckets, self.compression, self.path)
        # What a Store of one file has there are other classes, used alike.
        self._joined_pixels, self._pixels = pixels, cast("Any", pixels)
        self._file = cast("Any", self._files)
        self._rings = JoinedRings(self._files, self._items)
        self._count = self._files.samples
        # When files are to be looked at again, in seconds of `time.monotonic`.
        self._next_some = self._next_all = 0.0

    @property
    def name(self) -> str:
        """Name of the first file, without its folder, and how many more there are."""
        more = len(self.paths) - 1
        return self.paths[0].name + (f" and {more} more" if more else "")

    def __reduce__(self) -> Any:
        self.check()
        return ConcatStore, (self.files,)

    def close(self) -> None:
        """Close all files, also those that were given as open stores.

        See `Store.close`.
        """
        super().close()
        # Which refers to nothing now.
        self._joined_pixels = self._rings = cast("Any", self._pixels)
        for store in self.files:
            store.close()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, or one of its files was."""
        return super().is_closed or any(store.is_closed for store in self.files)

    def path_of(self, sample: int) -> Path:
        """Return the file that has a sample."""
        return self.paths[self._files.locate(sample)[0]]

    def by_file(
        self, samples: NDArray[np.int64]
    ) -> Iterator[tuple[Store, int, NDArray[np.int64]]]:
        """Yield each file that has some of the samples, see Store."""
        bounds = np.searchsorted(samples, [*self._files.first, len(self)]).tolist()
        for k, store in enumerate(self.files):
            some = samples[bounds[k] : bounds[k + 1]]
            if len(some):
                first = self._files.first[k]
                yield store, first, some - first

    @property
    def items(self) -> Columns:
        """Columns of metadata, by name; the first axis is the sample."""
        return self.tables["items"]

    @property
    def tables(self) -> Mapping[str, Columns]:
        """Columns of all files, by table and name; they are copies."""
        if super().is_closed:
            self.check()  # raises
        return self._tables

    def check_files(self, samples: NDArray[np.int64]) -> None:
        """Raise StoreError if a file that has some of the samples has changed.

        In a fast loop, they are looked at now and then; see SECONDS_PER_FILE.
        """
        now = time.monotonic()
        if now < self._next_some and not super().is_closed:
            return
        if super().is_closed:
            self.check()  # raises
        numbers = set(self._files.locate_all(samples.reshape(-1))[0].tolist())
        for number in numbers:
            self.files[number]._file.check()
        self._next_some = now + SECONDS_PER_FILE * len(numbers)

    def check_regularly(self) -> None:
        """Raise StoreError if any file has changed, see `check_files`."""
        now = time.monotonic()
        if now < self._next_all and not super().is_closed:
            return
        self.check()
        self._next_all = now + SECONDS_PER_FILE * len(self.files)

    def check_sample(self, sample: int) -> None:
        """Raise StoreError if the file that has a sample has changed."""
        if super().is_closed:
            self.check()
        self.files[self._files.locate(sample)[0]]._file.check()

    def rings(self, samples: NDArray[np.int64]) -> tuple[Columns, NDArray[np.int64]]:
        """Return columns of rings, and the rows of those of samples, see Store."""
        return self._rings.of(samples)

    def read_ahead(
        self, samples: NDArray[np.int64], rows: NDArray[np.int64] | None = None
    ) -> None:
        """Ask the system to read the pixels of samples into memory, see Store."""
        numbers, local = self._files.locate_all(samples)
        for number in np.flatnonzero(np.bincount(numbers)).tolist():
            some = numbers == number
            self.files[number].read_ahead(
                local[some], None if rows is None else rows[some]
            )

    def release(self) -> None:
        """Release this process's pages of the maps; the system keeps them."""
        self.check()
        self._joined_pixels.release()
        self._rings.release()
        for store in self.files:
            store.release()

    def open_file(self) -> FileIO:
        """Raise StoreError: there are several files."""
        raise StoreError(
            f"{self.path}: the store is {len(self.files)} files; open those of "
            "store.files"
        )

    def _row(self, index: int) -> dict[str, Any]:
        number, k = self._files.locate(index)
        row = {n: v for n, v in self.files[number]._row(k).items() if n in self._items}
        for name in MOVED:
            here = self._files.as_here(f"items/{name}", number, np.array(row[name]))
            row[name] = here.tolist()
        return row

    def _pixel_bytes(self) -> tuple[int, int]:
        each = [store._pixel_bytes() for store in self.files]
        return sum(raw for raw, _ in each), sum(stored for _, stored in each)


class Files:
    """The files of a ConcatStore: which has a sample, and their columns as one.

    stores  : of the files
    buckets : names of all buckets
    first   : index of the first sample of each
    """

    def __init__(self, stores: tuple[Store, ...], buckets: Sequence[str]):
        self.stores = stores
        self._buckets = tuple(buckets)
        counts = [list(_counts(store).values()) for store in stores]
        # How many of each thing the files before each file have; last, all files.
        before = np.cumsum([[0] * len(counts[0]), *counts], axis=0).tolist()
        names = list(_counts(stores[0]))
        self._before = [dict(zip(names, row, strict=True)) for row in before]
        self.first = [row["samples"] for row in self._before[:-1]]
        self._starts = np.array(self.first, np.int64)

    def __len__(self) -> int:
        return len(self.stores)

    @property
    def samples(self) -> int:
        """Number of samples of all files."""
        count: int = self._before[-1]["samples"]
        return count

    def check(self) -> None:
        """Raise StoreError if a file has changed since it was opened, or is closed."""
        for store in self.stores:
            store._file.check()

    def locate(self, sample: int) -> tuple[int, int]:
        """Return the number of the file that has a sample, and its index there."""
        number = bisect_right(self.first, sample) - 1
        return number, sample - self.first[number]

    def locate_all(
        self, samples: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return what `locate` does, of samples of any shape."""
        numbers = np.searchsorted(self._starts, samples, "right") - 1
        return numbers, samples - self._starts[numbers]

    @cached_property
    def _prefixes(self) -> list[bytes]:
        """What the paths of the sources of each file begin with."""
        sources = [store._tables["sources"] for store in self.stores]
        known: dict[bytes, tuple[int, int]] = {}
        for table in sources:
            facts = zip(table["size"].tolist(), table["xxh3"].tolist(), strict=True)
            for path, fact in zip(table["path"].tolist(), facts, strict=True):
                if known.setdefault(path, fact) != fact:
                    folder = _folder(self.stores)
                    names = [store.path.relative_to(folder) for store in self.stores]
                    return [os.fsencode(name.as_posix()) + b"/" for name in names]
        return [b""] * len(self.stores)

    def make_column(self, table: str) -> Callable[[str], NDArray[Any]]:
        """Return a function that makes a column of a table by its name."""

        def make(name: str) -> NDArray[Any]:
            full = f"{table}/{name}"
            parts = []
            self.check()
            for k, store in enumerate(self.stores):
                column = store._tables[table][name]
                is_last = k + 1 == len(self.stores)
                if full in OFFSETS and not is_last:
                    column = column[:-1]
                parts.append(self.as_here(full, k, column))
            joined = np.concatenate(parts)
            joined.flags.writeable = False
            return joined

        return make

    def as_here(self, name: str, number: int, column: NDArray[Any]) -> NDArray[Any]:
        """Return rows of a column of a file, with the indices that they have here.

        name : of table and column
        """
        here: NDArray[Any] = column
        if name in INDICES:
            moved = column + self._before[number][INDICES[name]]
            here = np.where(column < 0, column, moved)  # -1 stands for none
        elif name == "items/bucket":
            here = self._buckets_of(number)[column]
        elif name == "sources/path" and self._prefixes[number]:
            here = np.char.add(self._prefixes[number], column)
        return here

    def _buckets_of(self, number: int) -> NDArray[np.uint16]:
        """Return the number here of each bucket of a file."""
        names = self.stores[number].buckets
        return np.array([self._buckets.index(name) for name in names], np.uint16)


class JoinedColumns(Mapping[str, NDArray[Any]]):
    """The columns of a table of several files, each made when it is first used.

    names : of the columns
    make  : returns the column of a name
    """

    def __init__(self, names: Iterable[str], make: Callable[[str], NDArray[Any]]):
        self._names = dict.fromkeys(names)
        self._make = make
        self._made: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._made:
            if name not in self._names:
                raise KeyError(name)
            self._made[name] = self._make(name)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class JoinedRings:
    """The rings of several files.

    items : columns of all samples
    """

    def __init__(self, files: Files, items: Columns):
        self._files = files
        self._items = items

    def of(self, samples: NDArray[np.int64]) -> tuple[Columns, NDArray[np.int64]]:
        """Return columns of rings, and the rows of those of samples, see Store.

        They are copies of the rings of these samples if vertices cannot be joined.
        """
        if self._joined is None:
            return self._copies(samples)
        columns, rows, _ = self._joined
        return columns, rows[samples]

    def release(self) -> None:
        """Release this process's pages of what is mapped here."""
        joined = vars(self).get("_joined")
        if joined is not None:
            joined[2].release()

    @cached_property
    def _joined(
        self,
    ) -> tuple[Columns, NDArray[np.int64], JoinedArrays] | None:
        """Columns of all rings, the rows of each sample there, and what was joined.

        Between the rings of two files, there is a row for the gap between their
        vertices. None if vertices cannot be joined.
        """
        stores = self._files.stores
        contours = [store._tables["contours"] for store in stores]
        points = join([(_points_of(store),) for store in stores])
        if points is None:
            return None
        offsets = [
            table["offsets"] + first
            for table, first in zip(contours, points.first, strict=True)
        ]
        columns = {"points": points.arrays[0], "offsets": np.concatenate(offsets)}
        for name in ("class", "group"):
            columns[name] = np.concatenate([np.append(t[name], 0) for t in contours])
        numbers, _ = self._files.locate_all(np.arange(self._files.samples))
        rows = self._items["contours"] + numbers[:, None]
        for column in columns.values():
            column.flags.writeable = False  # as kernels are compiled for
        return columns, rows, points

    def _copies(self, samples: NDArray[np.int64]) -> tuple[Columns, NDArray[np.int64]]:
        """Return the same, with copies of the rings of these samples."""
        numbers, local = self._files.locate_all(samples)
        stores = self._files.stores
        columns: dict[str, list[NDArray[Any]]] = {
            name: [] for name in ("points", "offsets", "class", "group")
        }
        rows = np.zeros((len(samples), 2), np.int64)
        points = rings = 0
        for j, (number, k) in enumerate(
            zip(numbers.tolist(), local.tolist(), strict=True)
        ):
            tables = stores[number]._tables
            contours = tables["contours"]
            start, stop = tables["items"]["contours"][k].tolist()
            offsets = contours["offsets"][start : stop + 1]
            low, high = int(offsets[0]), int(offsets[-1])
            columns["points"].append(contours["points"][low:high])
            columns["offsets"].append(offsets[:-1] + (points - low))
            columns["class"].append(contours["class"][start:stop])
            columns["group"].append(contours["group"][start:stop])
            points += high - low
            rows[j] = rings, rings + stop - start
            rings += stop - start
        columns["offsets"].append(np.array([points], np.int64))
        contours = stores[0]._tables["contours"]
        joined = {
            name: np.concatenate([contours[name][:0], *parts])
            for name, parts in columns.items()
        }
        for column in joined.values():
            column.flags.writeable = False  # as kernels are compiled for
        return joined, rows


class ConcatPixels:
    """The pixels of several files; see MappedPixels."""

    def __init__(
        self,
        files: Files,
        buckets: Iterable[str],
        compression: str,
        path: Path,
    ):
        self._files = files
        self._buckets = tuple(buckets)
        self._compression = compression
        self._path = path

    @property
    def images(self) -> NoReturn:
        """Raise StoreError: no array has the pixels of all files."""
        raise StoreError(
            f"{self._path}: the store is {len(self._files)} files, so no array holds "
            "the pixels of a bucket; read those of a sample with store[i], or those of "
            "store.files"
        )

    masks = images

    def image(self, item: int) -> NDArray[Any]:
        """Return the image of an item."""
        pixels, k = self._locate(item)
        image: NDArray[Any] = pixels.image(k)
        return image

    def mask(self, item: int) -> NDArray[Any]:
        """Return the mask of an item."""
        pixels, k = self._locate(item)
        mask: NDArray[Any] = pixels.mask(k)
        return mask

    def images_of(self, items: range, *, writable: bool = False) -> NDArray[Any]:
        """Return the images of items of a volume."""
        pixels, k = self._locate(items.start)
        images: NDArray[Any] = pixels.images_of(
            range(k, k + len(items)), writable=writable
        )
        return images

    def masks_of(self, items: range, *, writable: bool = False) -> NDArray[Any]:
        """Return the masks of items of a volume."""
        pixels, k = self._locate(items.start)
        masks: NDArray[Any] = pixels.masks_of(
            range(k, k + len(items)), writable=writable
        )
        return masks

    def stacks(
        self, items: NDArray[np.int64], with_masks: NDArray[np.int64] | None = None
    ) -> Iterator[Stack]:
        """Yield stacks, as few as there can be; one for each item if compressed."""
        if not self._compression:
            pairs, number, row, _ = self._joined
            return stacks_of(pairs, number[items], row[items])
        return self._stacks_of_each(items, with_masks)

    def release(self) -> None:
        """Release this process's pages of what is mapped here."""
        if "_joined" in vars(self):
            for joined in self._joined[3]:
                joined.release()

    def _stacks_of_each(
        self, items: NDArray[np.int64], with_masks: NDArray[np.int64] | None
    ) -> Iterator[Stack]:
        numbers, local = self._files.locate_all(items)
        first = numbers.reshape(len(items), -1)[:, 0]
        for j, number in enumerate(first.tolist()):
            one = slice(j, j + 1)
            start = self._files.first[number]
            masked = None if with_masks is None else with_masks[one] - start
            for stack in self._files.stores[number].stacks(local[one], masked):
                yield stack._replace(subset=one)

    def _locate(self, item: int) -> tuple[Any, int]:
        """Return the pixels of the file that has an item, and its index there."""
        number, k = self._files.locate(item)
        return self._files.stores[number]._pixels, k

    @cached_property
    def _joined(
        self,
    ) -> tuple[
        list[tuple[NDArray[Any], NDArray[Any]]],
        NDArray[np.int64],
        NDArray[np.int64],
        list[JoinedArrays],
    ]:
        """Pairs of images and masks; the pair of each sample, and its row there.

        A bucket has one pair, or one for each file if its arrays cannot be joined. Last
        comes what was joined.
        """
        stores = self._files.stores
        pairs: list[tuple[NDArray[Any], NDArray[Any]]] = []
        joined: list[JoinedArrays] = []
        pair_of = np.empty(self._files.samples, np.int64)
        row_of = np.empty(self._files.samples, np.int64)
        for name in self._buckets:
            members = [
                (k, _file_arrays(file, name))
                for k, file in enumerate(stores)
                if name in file.buckets
            ]
            one = join([arrays for _, arrays in members]) if len(members) > 1 else None
            if one is not None:
                joined.append(one)
                pairs.append((one.arrays[0], one.arrays[1]))
            for j, (k, (images, masks)) in enumerate(members):
                if one is None:
                    pairs.append((images.array, masks.array))
                items = stores[k]._items
                is_member = items["bucket"] == list(stores[k].buckets).index(name)
                samples = self._files.first[k] + np.flatnonzero(is_member)
                pair_of[samples] = len(pairs) - 1
                start = 0 if one is None else one.first[j]
                row_of[samples] = items["row"][is_member] + start
        return pairs, pair_of, row_of, joined


def _folder(stores: Sequence[Store]) -> Path:
    """Return the folder that has all files, itself or in its folders."""
    return Path(os.path.commonpath([store.path.parent for store in stores]))


def _counts(store: Store) -> dict[str, int]:
    """Return how many things a file has that columns of INDICES count."""
    tables = store._tables
    return {
        "samples": len(store),
        "sources": len(tables["sources"]["path"]),
        "volumes": len(tables["volumes"]["first"]),
        "rings": len(tables["contours"]["item"]),
        "points": len(tables["contours"]["points"]),
        "codes": len(tables["histograms"]["counts"]),
    }


def _file_arrays(store: Store, bucket: str) -> tuple[FileArray, FileArray]:
    """Return images and masks of a bucket of a file that is not compressed."""
    pixels = cast("MappedPixels", store._pixels)
    handle = pixels.file.handle
    images, masks = pixels.starts[list(store.buckets).index(bucket)]
    return (
        FileArray(pixels.images[bucket], handle, images),
        FileArray(pixels.masks[bucket], handle, masks),
    )


def _points_of(store: Store) -> FileArray:
    """Return the vertices of the rings of a file."""
    handle = cast("MappedFile", store._file).handle
    points = store._tables["contours"]["points"]
    return FileArray(points, handle, store.offsets["contours/points"])


def _check_alike(files: tuple[Store, ...]) -> None:
    """Raise OptionError if stores cannot be read as one."""
    first = files[0]
    known: dict[Any, int] = {}
    for k, store in enumerate(files):
        if store.classes != first.classes:
            _refuse(first, store, "classes are", first.classes, store.classes)
        for name in {**first.options, **store.options}:
            one, other = (each.options.get(name) for each in (first, store))
            if one != other:
                _refuse(first, store, f"the option {name} is", one, other)
        status = cast("MappedFile", store._file).status
        for key in ((status.st_dev, status.st_ino), store.fingerprint):
            same = known.setdefault(key, k)
            if same != k:
                raise OptionError(
                    f"{store.path} has the same samples as {files[same].path}: give "
                    "each store once"
                )


def _refuse(first: Store, store: Store, what: str, one: Any, other: Any) -> NoReturn:
    raise OptionError(
        f"{what} {shown(one)} in {first.path}, but {shown(other)} in {store.path}: "
        "stores that are read as one have equal classes and options; build one again"
    )
