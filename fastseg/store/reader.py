"""Store: opens a file, maps it into memory and returns views of the map as arrays.

The offsets of the datasets are read when the file is opened, by `index_scan` or, if the
file was changed since fastseg wrote it, by h5py, which is not used after that. A Store
holds no HDF5 handle, so that threads can read it at the same time, and it can be
pickled and used after a fork.
"""

import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.calls import advise_attributes, check_call, refuse_renamed_attributes
from fastseg.choices import By, Stratify
from fastseg.errors import (
    OptionError,
    StoreError,
    UnknownClassError,
    one_of,
    shown,
)
from fastseg.files import name_path
from fastseg.geometry import Plane, have_planes
from fastseg.notebook import MAX_SAMPLES, Thumbnail, as_html, join_regions, thinning
from fastseg.paths import StrPath, as_path
from fastseg.reprs import MOST_COUNTED, listed, many, once_made, short
from fastseg.store import checks, compression, layout, selection, splits
from fastseg.store.index_scan import Unusual, scan
from fastseg.store.mapped_file import Closed, MappedFile
from fastseg.store.pixels import Columns, CompressedPixels, MappedPixels, Stack
from fastseg.store.summary import summarize
from fastseg.store.text import decode
from fastseg.store.volumes import VolumeSequence


@check_call("fastseg.open('heart.h5')")
def open_store(path: StrPath) -> "Store":
    """Open a store for reading.

    Raises StoreError if the file is not a complete, valid store, OSError if the system
    cannot open or read it, as FileNotFoundError, and MissingExtraError if it is
    compressed and zstandard is not installed.
    """
    return Store(path)


def as_store(store: Any) -> "Store":
    """Return a store that is given, or open the one whose path is given.

    Raises OptionError for anything else, and what `open_store` raises.
    """
    if isinstance(store, Store):
        store.check()
        return store
    if isinstance(store, str | os.PathLike):
        return Store(store)
    raise OptionError(
        f"store is {shown(store)}, expected a Store, as fastseg.open returns it, or "
        "the path of one"
    )


@advise_attributes(
    image="store[k].image is that of sample k, store.images those of all by bucket",
    mask="store[k].mask is that of sample k, store.masks those of all by bucket",
    labels="store.classes are the names, store.items['labelled'] says which sample has",
    shape="len(store) is the number of samples, store.buckets has the shapes of images",
    dtype="store.buckets has the dtypes of images",
    samples="store[k] is sample k, len(store) their number",
    attrs="store.options, store.software and store.fingerprint hold what the file says",
    keys="store.items has the columns, store.classes the classes",
    filter="store.select chooses samples",
    columns="store.items has the columns, as arrays by name",
    to_pandas="store.items has the columns, as arrays by name",
    head="store[k] is sample k, store.items has the columns",
    train_test_split="store.split({'train': 0.8, 'val': 0.2}) makes parts",
    random_split="store.split({'train': 0.8, 'val': 0.2}) makes parts",
    meta="store.items has the columns of all samples, store[k].meta those of one",
    volume="store.volumes[k] is volume k, store[k].meta['volume'] that of sample k",
    series="store.items['series'] has that of each sample, store.volumes the volumes",
    affine="store.volumes[k].affine is that of volume k, store[k].plane of sample k",
    plane="store[k].plane is that of sample k, store.volumes[k].planes of volume k",
    planes="store[k].plane is that of sample k, store.volumes[k].planes of volume k",
    modality="store.items['modality'] has that of each sample",
)
@refuse_renamed_attributes(is_whole="is_unchanged", check_size="check")
class Store:
    """A file of samples, mapped into memory.

    path        : absolute path of the file
    classes     : names; bit k of a mask is set where class k covers the pixel
    buckets     : shape and dtype of the images, by name of the bucket
    compression : "zstd" if the pixels are compressed, else ""
    items       : columns of metadata, the first axis is the sample (see `store.layout`)
    contours    : columns of all rings: points, offsets, item, class, source
    sources     : columns of the files that the store was made from: path, size, xxh3
    volumes     : the volumes that its samples make up, a sequence of Volume
    tables      : all columns, by the name of the table, as in tables["items"]
    options     : edges, fill and origin, by which the masks were drawn
    software    : versions of the packages that wrote the file
    fingerprint : SHA-256 of content and options
    checksums   : XXH3-64 of each column, by the name of its dataset
    metadata_checksum : XXH3-64 of all bytes that are no data (see `store.layout`)
    offsets     : byte in the file at which each dataset begins, by its name

    All arrays are read-only views of the map: they take no memory of their own and stay
    valid while something refers to them. The pixels of a compressed store are the
    exception: each access decompresses them. `store[i]` is a Sample, and `len(store)`
    the number of samples.

    `close`, or leaving a `with` block, gives the file back to the system, as soon as no
    array refers to the map.
    """

    @check_call()
    def __init__(self, path: StrPath):
        self.path = Path(os.path.abspath(as_path("path", path)))  # noqa: PTH100  resolves no links
        with name_path(self.path), checks.open_file(self.path) as raw:
            try:
                scanned = scan(raw)
                mapped = self._map_file(raw)
                attributes = checks.check_attributes(scanned.attribute)
                self._read(attributes, checks.ScannedDatasets(scanned, mapped.map))
            except (Unusual, StoreError):
                with checks.open_hdf5(raw) as file:
                    mapped = self._map_file(raw)
                    attributes = checks.read_attributes(file)
                    self._read(attributes, checks.Datasets(file, mapped.map))
            mapped.attributes = attributes
        self.check()
        self._bucket_names = tuple(self.buckets)
        self._count = len(self._items["row"])
        self.paths: tuple[Path, ...] = (self.path,)
        if self.compression:
            compression.require(f"{self.path}: reading a compressed store")

    def _map_file(self, file: FileIO) -> MappedFile:
        mapped = MappedFile(file)
        # All that refers to the map; `close` replaces each of them.
        self._file: MappedFile | Closed = mapped
        self._map: Any = mapped.map
        return mapped

    def _read(self, attributes: checks.Attributes, datasets: checks.Datasets) -> None:
        self.classes = attributes.classes
        self.fingerprint = attributes.fingerprint
        self.options = attributes.options
        self.software = attributes.software
        self.checksums = attributes.checksums
        self.compression = attributes.compression
        self.metadata_checksum = attributes.metadata_checksum
        buckets = {
            name: datasets.bucket(name, self.classes, self.compression)
            for name in attributes.buckets
        }
        self.buckets = {name: bucket for name, (bucket, _) in buckets.items()}
        self._tables: Mapping[str, Columns] = {
            name: datasets.table(name, self.classes, self.compression)
            for name in layout.TABLES
        }
        self._items = self._tables["items"]
        self._pixels = self._open_pixels(datasets)
        self.percentile_ranks = datasets.percentile_ranks()
        self.offsets: Mapping[str, int] = datasets.offsets
        counts = [count for _, count in buckets.values()]
        checks.check_columns(self._tables, counts, datasets.release)
        if self.compression:
            checks.check_chunks(self._items, len(self._map), datasets.release)

    def _open_pixels(
        self, datasets: checks.Datasets
    ) -> MappedPixels | CompressedPixels:
        if self.compression:
            codecs = [datasets.codecs(b, self.classes) for b in self.buckets.values()]
            return CompressedPixels(self._items, self._map, codecs, self.path)
        pixels = {name: datasets.pixels(name) for name in self.buckets}
        return MappedPixels(
            cast("MappedFile", self._file),
            self._items,
            {name: images for name, (images, _) in pixels.items()},
            {name: masks for name, (_, masks) in pixels.items()},
            datasets.offsets,
        )

    @property
    def name(self) -> str:
        """Name of the file, without its folder."""
        return self.path.name

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> "Sample":
        given: Any = index
        count = len(self)
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            advice = (
                "select(classes=...) finds the samples of a class, and mask_of(name) "
                "of a sample is its mask"
                if isinstance(given, str)
                else "[store[k] for k in ...] makes several samples, and a Loader with "
                "indices=... batches"
            )
            raise TypeError(
                f"a store is indexed by one whole number, not {type(index).__name__}; "
                f"{advice}"
            )
        number = index.__index__()
        if not -count <= number < count:
            raise IndexError(f"sample {number} is outside a store of {count} samples")
        self.check_sample(number % count)
        return Sample(self, number % count)

    def __iter__(self) -> "Iterator[Sample]":
        self.check()
        return (Sample(self, k) for k in range(len(self)))

    @once_made("_count")
    def __repr__(self) -> str:
        samples = many(len(self), "sample")
        patients = self._count_patients()
        if patients is not None:
            samples += f" of {many(patients, 'patient')}"
        shapes = list(map(_shape_and_dtype, self.buckets.values()))
        words = [samples, listed(shapes), f"classes {listed(self.classes)}"]
        if self.compression:
            words.append(self.compression)
        if self.state:
            words.append(self.state)
        return f"<{type(self).__name__} {short(self.name)}: {', '.join(words)}>"

    def _repr_html_(self) -> str:
        if self.state:
            return as_html(repr(self), ())
        numbers = np.linspace(0, len(self) - 1, min(MAX_SAMPLES, len(self)))
        samples = [self[round(number)] for number in numbers.tolist()]
        thumbnails = (sample._thumbnail() for sample in samples)
        return as_html(repr(self), thumbnails, self.classes, self._summary())

    def __reduce__(self) -> Any:
        self._file.check()
        # Workers may have another current folder.
        return _reopen, (self.path.absolute(), self.fingerprint)

    def __enter__(self) -> "Store":
        self.check()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back to the system, once nothing refers to the map any more.

        Arrays that you have are views of the map: they stay valid, and keep it and the
        open file until they are deleted. Everything else that reads the store raises
        StoreError from then on, also in loops that run in other threads. `classes`,
        `buckets`, `fingerprint`, `len` and what else is no array stay. To close a store
        twice does nothing.
        """
        closed: Any = Closed(self.path)
        # First what `check` asks. A thread that has passed the check holds references
        # to what it reads, so that nothing is unmapped under it.
        self._file = closed
        self._map = self._pixels = closed
        self._tables = self._items = closed

    @property
    def is_closed(self) -> bool:
        """Whether the store was closed."""
        return isinstance(self._file, Closed)

    @property
    def state(self) -> str:
        """Why the store cannot be read any more: "closed", "changed", else ""."""
        if self.is_closed:
            return "closed"
        try:
            self.check()
        except (StoreError, OSError):  # also if the file cannot be read again
            return "changed"
        return ""

    def _summary(self) -> list[tuple[str, str]]:
        """Return the rows of the table that a notebook shows."""
        items = self.items
        counts = np.bincount(items["bucket"], minlength=len(self.buckets)).tolist()
        shapes = [
            f"{count} of {_shape_and_dtype(bucket)}"
            for bucket, count in zip(self.buckets.values(), counts, strict=True)
        ]
        rows = [
            ("file", listed(list(map(str, self.paths)))),
            ("images", listed(shapes)),
        ]
        labels = self.classes
        if len(self) <= MOST_COUNTED:
            drawn = [
                int(selection.has_class(items["labelled"], k).sum())
                for k in range(len(self.classes))
            ]
            labels = tuple(
                f"{short(name)} on {count}"
                for name, count in zip(self.classes, drawn, strict=True)
            )
        masks = ", ".join(f"{name} {value}" for name, value in self.options.items())
        pixels = self.compression or "not compressed"
        return [
            *rows,
            ("classes", listed(labels)),
            ("masks", masks),
            ("pixels", pixels),
        ]

    def _count_patients(self) -> int | None:
        """Return the number of patients; None if it is not known or takes long."""
        if len(self) > MOST_COUNTED or self.state:
            return None
        column = self._items["patient"]
        # Neighbours have the same patient: look at one of them.
        first = np.append(True, column[1:] != column[:-1])[: len(column)]
        return len(set(column[first].tolist()))

    @property
    def items(self) -> Columns:
        """Columns of metadata, by name; the first axis is the sample."""
        self.check()
        return self._items

    @property
    def contours(self) -> Columns:
        """Columns of all rings, by name."""
        return self.tables["contours"]

    @property
    def sources(self) -> Columns:
        """Columns of the files that the store was made from, by name."""
        return self.tables["sources"]

    @property
    def tables(self) -> Mapping[str, Columns]:
        """Columns of the tables of the file, see `layout`, by table and name."""
        self.check()
        return self._tables

    @property
    def volumes(self) -> VolumeSequence:
        """The volumes, in the order of their samples: a sequence of Volume."""
        self.check()
        return VolumeSequence(self)

    @property
    def images(self) -> dict[str, NDArray[Any]]:
        """Stored values (n, H, W), by bucket; StoreError in a compressed store."""
        self.check()
        return self._pixels.images

    @property
    def masks(self) -> dict[str, NDArray[Any]]:
        """Bit fields (n, H, W), by bucket; StoreError in a compressed store."""
        self.check()
        return self._pixels.masks

    def stacks(
        self, samples: NDArray[np.int64], with_masks: NDArray[np.int64] | None = None
    ) -> Iterator[Stack]:
        """Yield the pixels of samples, one shape and dtype at a time, for kernels.

        samples    : int64 (b,), or (b, d): d samples of one shape and dtype that are
            needed together
        with_masks : int64 (b, e), those of each row whose masks are needed. A
            compressed store does not decompress the others, whose masks may then hold
            anything. By default all

        Does not check the file: call `check` first.
        """
        return self._pixels.stacks(samples, with_masks)

    def rings(self, samples: NDArray[np.int64]) -> tuple[Columns, NDArray[np.int64]]:
        """Return columns of rings, and the rows there that those of samples have.

        samples : int64 (n,)

        The columns points, offsets, class and group are as in `contours`, of all rings
        or of some. The rows are int64 (n, 2): the first, and the one after the last.

        Does not check the file: call `check` first.
        """
        return self._tables["contours"], self._items["contours"][samples]

    def by_file(
        self, samples: NDArray[np.int64]
    ) -> "Iterator[tuple[Store, int, NDArray[np.int64]]]":
        """Yield each file that has some of the samples.

        samples : int64 (n,), ascending

        A file is a store with the index here of its first sample, and those of its
        samples that were asked for, by their indices there.
        """
        yield self, 0, samples

    def path_of(self, sample: int) -> Path:
        """Return the file that has a sample."""
        return self.path

    def read_ahead(
        self, samples: NDArray[np.int64], rows: NDArray[np.int64] | None = None
    ) -> None:
        """Ask the system to read the pixels of samples into memory, without waiting.

        samples : int64 (n,)
        rows    : int64 (n, 2), the first row that is needed of each, and the one behind
            the last; they may lie outside of the image. By default all rows

        Does nothing on systems without this advice (`MADV_WILLNEED`).
        """
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        for offset, size in self._pixels.extents(samples, rows):
            page = offset // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, page, offset + size - page)

    def release(self) -> None:
        """Release this process's pages of the map; the system keeps them in its cache.

        Arrays stay valid: reading one maps its pages again. Does nothing on systems
        without this advice (`MADV_DONTNEED`).
        """
        checks.release(self._map)

    @property
    def patients(self) -> tuple[str, ...]:
        """The patients' IDs, each once, in order of their first sample."""
        self.check()
        return self._patients

    @cached_property
    def _patients(self) -> tuple[str, ...]:
        column = self._items["patient"]
        # Samples of a patient are neighbours: decode one ID for all of them.
        first = np.flatnonzero(np.r_[True, column[1:] != column[:-1]])
        return tuple(dict.fromkeys(decode(self, column[first].tolist())))

    @check_call()
    def class_index(self, name: str) -> int:
        """Return the bit of a class, or raise UnknownClassError."""
        if not isinstance(name, str) or name not in self.classes:
            if not self.classes:
                raise UnknownClassError(
                    f"class is {shown(name)}, but the store has no classes"
                )
            raise UnknownClassError(one_of("class", name, self.classes))
        return self.classes.index(name)

    @check_call("store.select(classes='icontour')")
    def select(
        self,
        *,
        classes: str | Sequence[str] | None = None,
        match: selection.Match = "all",
        min_pixels: int = 0,
        patients: str | Sequence[str] | None = None,
        series: str | Sequence[str] | None = None,
        shape: int | tuple[int, int] | None = None,
        in_volume: bool | None = None,
        volumes: int | Sequence[int] | None = None,
        indices: ArrayLike | None = None,
    ) -> NDArray[np.int64]:
        """Return the indices of samples that meet all conditions, sorted, int64 (n,).

        classes    : the sample has a contour of these classes, and at least
            `min_pixels` pixels of each
        match      : whether "all" of the classes must meet that, or "any" of them
        patients   : the sample is of one of these patients
        series     : the sample is of one of these SeriesInstanceUIDs
        shape      : its image has this (height, width); one number means a square
        in_volume  : True: the sample is a slice of a volume; False: it is of none
        volumes    : it is a slice of one of these, as in `store.volumes[k]`
        indices    : the sample is one of these

        The array is empty if no sample meets them. For what the store does not hold,
        raises UnknownClassError (classes) or OptionError (patients, series, shape,
        volumes).
        """
        self.check()
        return selection.select(
            self,
            classes=classes,
            match=match,
            min_pixels=min_pixels,
            patients=patients,
            series=series,
            shape=shape,
            in_volume=in_volume,
            volumes=volumes,
            indices=indices,
        )

    @check_call("store.split({'train': 0.8, 'val': 0.2})")
    def split(
        self,
        parts: Mapping[str, float],
        *,
        by: By = "patient",
        seed: int = 0,
        stratify: Stratify | ArrayLike | None = None,
        indices: ArrayLike | None = None,
    ) -> dict[str, NDArray[np.int64]]:
        """Return the indices of each part's samples, sorted, int64, by the part's name.

        parts    : fractions of the samples, as in {"train": 0.8, "val": 0.2}
        by       : what is in one part only: "patient", "series", "volume" or "sample".
            Images of a patient without a SeriesInstanceUID count as one series. A
            sample that is in no volume counts as one
        seed     : 0 to 2**64 - 1
        stratify : what the parts should also be alike in: "classes", how many samples
            have a contour of each class; "shape", of the images; or an array with a
            text or number for each sample of the store, at most 64 different ones
        indices  : split only these samples

        Each sample is in one part, and so is each patient; this is checked before the
        parts are returned. No part is empty. The parts are so near to their fractions
        that no move of a patient brings them nearer, and no swap of two if there are at
        most 300 patients. The part of a patient depends on the IDs, on how many samples
        each patient has (of each class), and on the seed, but not on the order of the
        samples. With by="sample" or "volume", the part of a sample, or of the samples
        of a volume, depends on the index (of the first one).

        Raises OptionError for invalid arguments, and if there are fewer patients
        (series, volumes, samples) than parts. Issues a SplitWarning if a part has over
        a third more or fewer samples than its fraction says, and over one sample; or a
        single patient, though its fraction of the patients is at least two.
        """
        self.check()
        return splits.split(
            self, parts, by=by, seed=seed, stratify=stratify, indices=indices
        )

    @check_call("store.split_folds(5)")
    def split_folds(
        self,
        folds: int,
        *,
        by: By = "patient",
        seed: int = 0,
        stratify: Stratify | ArrayLike | None = None,
        indices: ArrayLike | None = None,
    ) -> dict[str, NDArray[np.int64]]:
        """Return the indices of each fold's samples for cross-validation.

        folds : number of folds, at least 2; they are named "fold0", "fold1", ...

        The folds are parts of one size, and the other arguments are those of `split`.
        `hold_out(folds, 0)` returns the samples to train on and those to validate on,
        if the first fold is held out. So each patient is validated on once. Without
        `stratify`, two folds differ by at most the samples of the largest patient.

        Raises OptionError and issues a SplitWarning as `split` does.
        """
        self.check()
        return splits.split_folds(
            self, folds, by=by, seed=seed, stratify=stratify, indices=indices
        )

    @property
    def compression_ratio(self) -> float:
        """Bytes of the pixels before compression, divided by those in the file."""
        if not self.compression:
            return 1.0
        plain, stored = self._pixel_bytes()
        return plain / stored

    def _pixel_bytes(self) -> tuple[int, int]:
        """Return the bytes of all pixels, and how many they take in the file."""
        counts = np.bincount(self.items["bucket"], minlength=len(self.buckets))
        masks = layout.mask_dtype(self.classes).itemsize
        sizes = [
            math.prod(bucket.shape) * (bucket.dtype.itemsize + masks)
            for bucket in self.buckets.values()
        ]
        plain = int(counts @ sizes)
        if not self.compression:
            return plain, plain
        return plain, sum(int(self.items[n][:, 1].sum()) for n in layout.CHUNK_COLUMNS)

    def _row(self, index: int) -> dict[str, Any]:
        """Return a sample's row of each column of /items: numbers, bytes, lists."""
        return {name: _value(column, index) for name, column in self._items.items()}

    def summary(self) -> dict[str, Any]:
        """Return what the store holds, as `fastseg info --json` prints it.

        The dict holds only what JSON has: texts, numbers, lists, dicts, and None for
        what is unknown. docs/cli.md lists its keys. It reads columns, no pixels.
        """
        self.check()
        return summarize(self)

    def check(self) -> None:
        """Raise StoreError if the file has changed since it was opened.

        It has changed if its size or its time of modification has. All properties and
        methods that read the file call this first, and so does a Loader for each batch.
        Arrays that you already have are views of the file: check before you use them.
        """
        self._file.check()

    def check_files(self, samples: NDArray[np.int64]) -> None:
        """Raise StoreError if a file that has some of the samples has changed.

        As `check` does, for less time if the store has many files.
        """
        self._file.check()

    def check_regularly(self) -> None:
        """Raise StoreError if a file has changed, for loops that read many samples.

        As `check` does, but if the store has many files, it looks at them now and then.
        """
        self._file.check()

    def check_sample(self, sample: int) -> None:
        """Raise StoreError if the file that has a sample has changed."""
        self._file.check()

    @property
    def is_unchanged(self) -> bool:
        """Whether the file is as it was when it was opened, as far as `check` sees."""
        try:
            self.check()
        except StoreError:
            return False
        return True

    def open_file(self) -> FileIO:
        """Open the mapped file for reads that do not use the map.

        Raises StoreError if another file now has its name, FileNotFoundError.
        """
        status = self._file.status
        file = checks.open_file(self.path)
        if not os.path.samestat(status, os.fstat(file.fileno())):
            file.close()
            raise StoreError(f"{self.path}: was replaced since it was opened")
        return file


@advise_attributes(
    masks="mask is a bit field of all classes, mask_of(name) the mask of one",
    label="mask is a bit field of all classes, mask_of(name) the mask of one",
    labels="mask is a bit field of all classes, mask_of(name) the mask of one",
    segmentation="mask is a bit field of all classes, mask_of(name) the mask of one",
    images="image is the one image",
    pixels="image holds the stored values",
    pixel_array="image holds the stored values",
    contour="contours holds the rings of each class",
    shape="image.shape is (height, width)",
    spacing="meta['spacing_mm'] is that between rows and columns",
    affine="plane maps pixels to the patient, store.volumes[k].affine voxels",
    origin="plane.origin is the centre of its first pixel, in mm",
    position="meta['position_mm'] is that along its normal, plane.origin the point",
    volume="meta['volume'] is the index of its volume in store.volumes, -1 if none",
    series="meta['series'] is its SeriesInstanceUID",
    modality="meta['modality'] is that of its image",
    metadata="meta holds what the store knows",
    classes="contours names those of the sample, those of the store are store.classes",
)
@refuse_renamed_attributes(facts="meta")
class Sample:
    """One sample of a store; its arrays are views of the map, unless compressed."""

    __slots__ = ("_store", "index")

    def __init__(self, store: Store, index: int):
        self._store = store
        self.index = index

    def __getitem__(self, name: object) -> Any:
        raise TypeError(
            f"a sample has no [{shown(name)}]: its attributes are image, mask, "
            "contours and meta, and mask_of(name) is the mask of a class"
        )

    @property
    def image(self) -> NDArray[Any]:
        """Stored values (H, W), read-only."""
        self._store.check_sample(self.index)
        return self._store._pixels.image(self.index)

    @property
    def mask(self) -> NDArray[Any]:
        """Bit field (H, W), read-only: bit k is set where class k covers the pixel."""
        self._store.check_sample(self.index)
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
        store = self._store
        store.check_sample(self.index)
        contours, rows = store.rings(np.array([self.index]))
        start, stop = rows[0].tolist()
        bounds = contours["offsets"][start : stop + 1].tolist()
        rings: dict[str, list[NDArray[np.float64]]] = {}
        classes = contours["class"][start:stop].tolist()
        for k, (first, last) in zip(classes, pairwise(bounds), strict=True):
            rings.setdefault(store.classes[k], []).append(
                contours["points"][first:last]
            )
        return rings

    @property
    def meta(self) -> dict[str, Any]:
        """Its row of each column of /items, with the names of bucket and source."""
        store = self._store
        store.check_sample(self.index)
        meta = store._row(self.index)
        meta["bucket"] = store._bucket_names[meta["bucket"]]
        texts = [
            *(meta[name] for name in layout.STRING_COLUMNS),
            store._tables["sources"]["path"][meta["source"]],
        ]
        names = (*layout.STRING_COLUMNS, "source")
        meta |= zip(names, decode(store, texts), strict=True)
        return meta

    @property
    def plane(self) -> Plane | None:
        """Where its pixels lie in the patient; None if the header does not say."""
        items = self._store.items
        names = "origin_mm", "directions", "spacing_mm"
        origin, directions, spacing = (items[name][self.index] for name in names)
        if not have_planes(origin[None], directions[None], spacing[None])[0]:
            return None
        return Plane(
            origin=origin,
            row_direction=directions[:3],
            column_direction=directions[3:],
            spacing_mm=spacing,
        )

    @property
    def patient(self) -> str:
        """ID of the patient."""
        (text,) = decode(self._store, [self._store.items["patient"][self.index]])
        return text

    def __repr__(self) -> str:
        store = self._store
        name = f"{self.index} of {short(store.name)}"
        if store.state:
            return f"<Sample {name}, which is {store.state}>"
        items = store._items
        bucket = store.buckets[store._bucket_names[items["bucket"][self.index]]]
        patient = items["patient"][self.index].decode("utf-8", "backslashreplace")
        pixels = items["pixels"][self.index].tolist()
        regions = [
            f"{name} {many(count, 'pixel')}"
            for name, count in zip(store.classes, pixels, strict=True)
            if count
        ]
        return (
            f"<Sample {name}: {_shape_and_dtype(bucket)}, patient {short(patient)}, "
            f"{listed(regions, 'no class')}>"
        )

    def _repr_html_(self) -> str:
        if self._store.state:
            return as_html(repr(self), ())
        return as_html(repr(self), [self._thumbnail()], self._store.classes)

    def _thumbnail(self) -> Thumbnail:
        """Return what a notebook shows of the sample, with few of its pixels."""
        image = self.image
        step = thinning(image.shape)
        image = image[::step, ::step]
        mask = self.mask[::step, ::step]
        bits = [
            (mask >> mask.dtype.type(k)) & 1 for k in range(len(self._store.classes))
        ]
        regions = np.array(bits or [np.zeros(mask.shape)], np.uint8)
        if self._store.items["slope"][self.index] < 0:  # as MONOCHROME1
            image = -image.astype(np.float64)
        return Thumbnail(image, join_regions(regions), f"sample {self.index}")


def _reopen(path: Path, fingerprint: str) -> Store:
    store = Store(path)
    if store.fingerprint != fingerprint:
        raise StoreError(f"{path}: is another store than the one that was pickled")
    return store


def _shape_and_dtype(bucket: layout.Bucket) -> str:
    height, width = bucket.shape
    return f"{height}x{width} {bucket.dtype.name}"


def _value(column: NDArray[Any], index: int) -> Any:
    """Return a row of a column as a number, bytes or a list."""
    return column.item(index) if column.ndim == 1 else column[index].tolist()
