"""Preprocessing: makes the images and masks of samples of a store."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter_ns
from typing import Any, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.images import gather
from fastseg._kernels.images.gather import OUTSIDE, Scaling, Slices
from fastseg.choices import MaskForm
from fastseg.errors import MissingLabelsError, MissingLabelsWarning, OptionError, one_of
from fastseg.loading.batches import Batch
from fastseg.loading.format import MINIMUM, BatchFormat, Missing
from fastseg.loading.neighbours import find_neighbours, with_neighbours
from fastseg.loading.normalization import find_scaling, minima
from fastseg.store.layout import mask_dtype
from fastseg.store.reader import Store
from fastseg.store.selection import has_class

T = TypeVar("T", bound=np.generic)

MASKS = get_args(MaskForm)
# The kernel for each dtype of images in a BatchFormat.
KERNELS: dict[str, Any] = {
    "float32": gather.gather_samples,
    "float16": gather.gather_half_samples,
    "raw": gather.copy_samples,
}
# A warning about missing labels names at most this many classes.
MAX_LISTED = 8


class StageTimes(NamedTuple):
    """Nanoseconds that a thread spent on each stage of its work.

    read   : finding pixels in the mapped file, or decompressing them
    image  : making images; also masks, if one call makes both
    mask   : making masks
    custom : calling functions of Custom transforms
    """

    read: int = 0
    image: int = 0
    mask: int = 0
    custom: int = 0


class Between(NamedTuple):
    """Between which slices those that b entries show lie, d of each.

    slices  : int64 (b, d, 2), samples of the store
    weights : float32 (b, d), of the second of two, 0 to 1; with 0, it is not read
    """

    slices: NDArray[np.int64]
    weights: NDArray[np.float32]


class EntrySlices(NamedTuple):
    """The slices that the b entries of a batch show, d of each.

    entries   : int64 (b,), what the schedule orders
    slices    : int64 (b, d), samples of the store, those of an entry of one volume
    is_beyond : bool (b, d), where the volume has no such slice; `slices` has the
        nearest one
    corners   : int64 (b, 3), the voxel of the volume that the first voxel of the entry
        shows; or None where the entry shows the image's centre
    between   : where slices are interpolated, those on both sides; `slices` are the
        nearest ones
    """

    entries: NDArray[np.int64]
    slices: NDArray[np.int64]
    is_beyond: NDArray[np.bool_]
    corners: NDArray[np.int64] | None
    between: Between | None = None

    @property
    def samples(self) -> NDArray[np.int64]:
        """The slice in the middle of each entry, int64 (b,)."""
        return self.slices[:, self.slices.shape[1] // 2]

    def write_corners(self, out: NDArray[np.int64] | None) -> None:
        """Write the corners, if there are any, to an array that is given."""
        if out is not None and self.corners is not None:
            out[...] = self.corners

    def corners_in(
        self, shape: tuple[int, ...], size: tuple[int, ...]
    ) -> NDArray[np.int64]:
        """Return the corners in images of a shape (H, W), for entries of a size (h, w).

        About its centre, a smaller image is padded and a larger one is cut. Half pixels
        are rounded towards the top left.
        """
        if self.corners is not None:
            return np.ascontiguousarray(self.corners[:, 1:])
        corner = int((shape[0] - size[0]) / 2), int((shape[1] - size[1]) / 2)
        # Half the time of writing both to an empty array: 1 us a batch.
        return np.array([corner], np.int64).repeat(len(self.entries), axis=0)


class Preprocessing:
    """Makes images and masks of samples, for a Loader or a torch Dataset.

    store   : store of the samples
    indices : int64 (n,), indices of the samples that will be preprocessed
    format  : what they become; its `augment` and `labels` have no effect here
    seed    : 0 to 2**64 - 1, of what subclasses draw

    The attribute `format` has `size`, `priority` and `missing` filled in from the
    store. image_shape, (2n + 1, h, w) with n neighbours on each side, and mask_shape,
    which depends on `masks` and `masks_of`, are those of one sample. Raises
    OptionError, MissingLabelsError or UnknownClassError for a format that does not fit
    the store.
    """

    # What classes are outlined on, in one word; see `_label_units`.
    label_unit = "sample"
    # What to do if classes were not outlined on some of them.
    remedy = "choose samples that have them all, as store.select(classes=[...]) does"

    def __init__(
        self,
        store: Store,
        indices: NDArray[np.int64],
        format: BatchFormat,
        *,
        seed: int = 0,
    ):
        self.store = store
        self.seed = seed
        # Whether kernels write batches past the caches.
        self.streams = False
        self.size = format.size or _common_size(store, indices)
        self._neighbours = format.neighbours
        read = with_neighbours(store, indices, format.neighbours)
        self._image_scaling = find_scaling(store, indices, format, read)
        self._shift, self._gain, low, high, self.value_statistics = self._image_scaling
        self._limits = low, high
        self.image_dtype = (
            _common_dtype(store, indices)
            if format.dtype == "raw"
            else np.dtype(format.dtype)
        )
        self._pad = self._pad_values(read, format)
        priority = _priority(store, format.priority)
        self._classes = _mask_classes(store, format.masks, priority)
        depth = 2 * format.neighbours + 1
        self.image_shape: tuple[int, ...] = (depth, *self.size)
        # Whether all slices have masks, and whether those beyond a volume are padding.
        self._all_masks = format.masks_of == "all"
        self._pads = format.beyond == "pad"
        channels = (len(store.classes),) if format.masks == "onehot" else ()
        slices = (depth,) if self._all_masks else ()
        self.mask_shape: tuple[int, ...] = (*channels, *slices, *self.size)
        self.mask_dtype = (
            mask_dtype(store.classes) if format.masks == "bits" else np.dtype(np.uint8)
        )
        units = self._label_units(read if self._all_masks else indices)
        missing, self.warning = self._check_missing(units, format)
        if missing == "ignore" and format.masks == "labels":
            self.warning = self._check_hidden(units, priority)
        self.format = replace(
            format, size=self.size, priority=priority, missing=missing
        )

    @property
    def sample_bytes(self) -> int:
        """Bytes of image and mask of one entry in a batch."""
        return (
            math.prod(self.image_shape) * self.image_dtype.itemsize
            + math.prod(self.mask_shape) * self.mask_dtype.itemsize
        )

    def fill(
        self,
        entries: NDArray[np.int64],
        image: NDArray[Any],
        mask: NDArray[Any],
        epoch: int = 0,
        corners: NDArray[np.int64] | None = None,
    ) -> StageTimes:
        """Write images and masks of entries: samples, the same in every epoch.

        entries : int64 (b,), indices into the store
        image   : of image_dtype (b, *image_shape), every cell is written
        mask    : of mask_dtype (b, *mask_shape), every cell is written
        corners : int64 (b, 3), written if the entries are patches, see `Batch`

        Raises StoreError if the file has changed or a sample is damaged.
        """
        self.check_files(entries)
        shown = self.locate(entries, epoch)
        shown.write_corners(corners)
        return self._copy(shown, image, mask)

    def check_files(self, entries: NDArray[np.int64]) -> None:
        """Raise StoreError if the files that entries are made from have changed."""
        self.store.check_files(entries)

    def locate(self, entries: NDArray[np.int64], epoch: int) -> EntrySlices:
        """Return the slices that entries show in an epoch."""
        slices, is_beyond = find_neighbours(self.store, entries, self._neighbours)
        return EntrySlices(entries, slices, is_beyond, None)

    def _copy(
        self, shown: EntrySlices, image: NDArray[Any], mask: NDArray[Any]
    ) -> StageTimes:
        """Write images and masks of slices without augmentation."""
        if self.format.dtype == "float16":
            image = image.view(np.uint16)
        kernel = KERNELS[self.format.dtype]
        size = image.shape[-2:]
        read = 0
        copied = 0
        started = perf_counter_ns()
        with_masks = self._with_masks(shown.slices)
        for images, masks, rows, subset in self.store.stacks(shown.slices, with_masks):
            located = perf_counter_ns()
            corners = shown.corners_in(images.shape[1:], size)[subset]
            if self._pads:
                rows = self._mark_padding(rows, shown.is_beyond[subset])
            slices = masked = _as_slices(rows, corners)
            samples = labelled = shown.slices[subset].reshape(-1)
            if with_masks is not shown.slices:
                masked = _as_slices(self._with_masks(rows), corners)
                labelled = with_masks[subset].reshape(-1)
            kernel(
                images,
                masks,
                slices,
                masked,
                self._scaling(samples),
                self._classes,
                self._unlabelled(labelled),
                self.streams,
                image[subset].reshape(-1, *size),
                self._view_masks(mask[subset]),
            )
            read += located - started
            started = perf_counter_ns()
            copied += started - located
        return StageTimes(read, copied)

    def assemble(
        self,
        image: NDArray[Any],
        mask: NDArray[Any],
        samples: NDArray[np.int64],
        corners: NDArray[np.int64],
        epoch: int,
        *,
        with_params: bool = False,
    ) -> Batch:
        """Return the batch of arrays that `fill` has written.

        with_params : whether the batch tells the parameters of its augmentation
        """
        return Batch(image, mask, samples, is_beyond=self.is_beyond(samples))

    def is_beyond(self, samples: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Return what batches tell of samples under that name, None if nothing."""
        if self._neighbours == 0:
            return None
        return find_neighbours(self.store, samples, self._neighbours)[1]

    def replay(self, params: Mapping[str, Any]) -> Batch:
        """Make a batch again from its `params`, or raise OptionError."""
        raise OptionError("replay needs a loader with augment")

    def check_entries(self, entries: NDArray[np.int64]) -> None:
        """Raise OptionError for entries that the store does not have."""
        low, high = (entries.min(), entries.max()) if entries.size else (0, 0)
        if not 0 <= low <= high < len(self.store):
            raise OptionError(
                f"params hold samples {low} to {high}, expected 0 to "
                f"{len(self.store) - 1}"
            )

    def read_ahead(self, samples: NDArray[np.int64], epoch: int) -> None:
        """Ask the system to read what `fill` needs of samples, without waiting."""
        self.store.read_ahead(with_neighbours(self.store, samples, self._neighbours))

    def identity(self) -> dict[str, Any]:
        """Return the options of what a sample becomes, as values for JSON."""
        return self.format.as_dict()

    def index_of(self, sample: int) -> int:
        """Return the number under which a Loader lists what it has skipped."""
        return sample

    def describe_entry(self, sample: int) -> str:
        """Return a sample's index, patient, file and store, for an error's note."""
        name = f"sample {sample}"
        if self.store.is_unchanged:  # else the mapped columns cannot be read
            meta = self.store[sample].meta
            name += f" (patient {meta['patient']}, {meta['source']})"
        return f"{name} of {self.store.path_of(sample)}"

    def rescale(self, image: NDArray[np.float32], sample: int) -> NDArray[np.float32]:
        """Return image values of what has been scaled as a sample is, float32."""
        slope, intercept = (self.store.items[k][sample] for k in ("slope", "intercept"))
        stored = image / (self._gain[sample] or 1) + self._shift[sample]
        values: NDArray[np.float32] = (stored * slope + intercept).astype(np.float32)
        return values

    def _scaling(self, samples: NDArray[np.int64]) -> Any:
        """Return what the kernel takes: a Scaling, or for "raw" values the padding."""
        pad = self._pad[samples]
        if self.format.dtype == "raw":
            return pad
        return Scaling(self._shift[samples], self._gain[samples], *self._limits, pad)

    def _pad_values(
        self, indices: NDArray[np.int64], format: BatchFormat
    ) -> NDArray[Any]:
        """Return what lies around the image of each sample of the store, (len(store),).

        Of the dtype that kernels take: float32, or with "raw" that of the images.
        Raises OptionError for a `pad_value` that images of image_dtype cannot hold.
        """
        raw = format.dtype == "raw"
        dtype = self.image_dtype if raw else np.dtype(np.float32)
        if format.pad_value != MINIMUM:
            _check_pad_value(format.pad_value, self.image_dtype)
            return np.full(len(self.store), format.pad_value, dtype)
        stored = minima(self.store)
        if not raw:
            return self._image_scaling.apply(stored)
        # Other samples may have values that the dtype cannot hold.
        pad = np.zeros(len(stored), dtype)
        pad[indices] = stored[indices]
        return pad

    def _view_masks(self, mask: NDArray[Any]) -> NDArray[Any]:
        """Return the view that kernels fill.

        It is (b * d, h, w) for d slices of each sample, or with a channel for each
        class (b, c, d, h, w).
        """
        by_class = self.format.masks == "onehot"
        if self.format.masks in self.store.classes:
            mask, by_class = mask[:, None], True
        if by_class:
            return mask if self._all_masks else mask[:, :, None]
        return mask.reshape(math.prod(mask.shape[:-2]), *mask.shape[-2:])

    @property
    def _has_depth(self) -> bool:
        """Whether an entry has slices: functions of Custom get them as one array."""
        return self._neighbours > 0

    def _with_masks(self, slices: NDArray[T]) -> NDArray[T]:
        """Return those of the slices (b, d) of samples that have masks, (b, e)."""
        if self._all_masks or self._neighbours == 0:
            return slices
        return slices[:, self._neighbours : self._neighbours + 1]

    def _mark_padding(
        self, rows: NDArray[np.int64], is_beyond: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Return rows (b, d) of a stack with OUTSIDE for slices that become padding."""
        if not self._pads:
            return rows
        return np.where(is_beyond & (rows >= 0), OUTSIDE, rows)

    def _unlabelled(self, samples: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return bit fields of the classes that become 255, uint64 (b,)."""
        if self.format.missing != "ignore":
            return np.zeros(len(samples), np.uint64)
        shown = np.bitwise_or.reduce(np.uint64(1) << self._classes.astype(np.uint64))
        unlabelled: NDArray[np.uint64] = ~self._labelled(samples) & shown
        return unlabelled

    def _label_units(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what classes are outlined on: the samples themselves."""
        return samples

    def _labelled(self, units: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return bit fields of the classes that were outlined, uint64 (b,)."""
        labelled: NDArray[np.uint64] = self.store.items["labelled"][units].astype(
            np.uint64
        )
        return labelled

    def _check_missing(
        self, units: NDArray[np.int64], format: BatchFormat
    ) -> tuple[Missing | None, str]:
        """Return `missing` with its default filled in, and the text of a warning.

        The text is "" where there is nothing to warn of. Raises MissingLabelsError.
        """
        missing = format.missing
        if format.masks == "bits" or missing in ("background", "ignore"):
            return missing, ""
        counts = self._count_unlabelled(units)
        if not counts:
            return missing or "background", ""
        total, by_class = counts
        listed = [f"{name} on {n}" for name, n in by_class.items()]
        if len(listed) > MAX_LISTED:
            listed[MAX_LISTED:] = [f"{len(listed) - MAX_LISTED} more classes"]
        problem = (
            f"{total} of {len(units)} {self.label_unit}s lack a contour of a class "
            f"that `masks` shows ({', '.join(listed)})"
        )
        remedy = (
            f"{self.remedy}, give missing='ignore' to label those pixels 255, or "
            "missing='background' if there is nothing to outline"
        )
        if missing == "error":
            raise MissingLabelsError(f"{problem}: {remedy}")
        return "background", f"{problem}, which counts as background: {remedy}"

    def _check_hidden(self, units: NDArray[np.int64], priority: tuple[str, ...]) -> str:
        """Return the text of a warning if 255 hides all that was outlined on units.

        The text is "" where there is nothing to warn of.
        """
        if not priority:
            return ""
        labelled = self._labelled(units)
        is_hidden = ~has_class(labelled, self.store.class_index(priority[0]))
        hidden = int((is_hidden & (labelled != 0)).sum())
        if not hidden:
            return ""
        return (
            f"{hidden} of {len(units)} {self.label_unit}s have outlines, but only 255 "
            f"in their masks, because {priority[0]!r} lies on top and was not outlined "
            "on them: give masks='onehot', which has a channel for each class, or a "
            "priority that begins with a class that was outlined on all samples"
        )

    def _count_unlabelled(
        self, units: NDArray[np.int64]
    ) -> tuple[int, dict[str, int]] | None:
        """Return the number of units that lack a class, in total and by class.

        Only classes that the masks show count. None if no unit lacks any.
        """
        labelled = self._labelled(units)
        lacks = np.zeros(len(units), np.bool_)
        by_class = {}
        for k in np.sort(self._classes).tolist():
            without = ~has_class(labelled, k)
            if without.any():
                by_class[self.store.classes[k]] = int(without.sum())
                lacks |= without
        return (int(lacks.sum()), by_class) if by_class else None


def warn_of_missing(preprocessing: Preprocessing, stacklevel: int) -> None:
    """Issue the MissingLabelsWarning of a Preprocessing, if it has one."""
    if preprocessing.warning:
        warnings.warn(preprocessing.warning, MissingLabelsWarning, stacklevel + 1)


def used_buckets(store: Store, indices: NDArray[np.int64]) -> list[Any]:
    """Return the buckets of a store that have some of the samples."""
    buckets = list(store.buckets.values())
    used = np.bincount(store.items["bucket"][indices], minlength=len(buckets))
    return [bucket for bucket, count in zip(buckets, used, strict=True) if count]


def _as_slices(rows: NDArray[np.int64], corners: NDArray[np.int64]) -> Slices:
    """Return rows (b, d) of a stack as Slices, with the corner of each entry."""
    if rows.shape[1] > 1:
        corners = np.repeat(corners, rows.shape[1], axis=0)
    return Slices(rows.reshape(-1), corners)


def _common_size(store: Store, indices: NDArray[np.int64]) -> tuple[int, int]:
    shapes = sorted({bucket.shape for bucket in used_buckets(store, indices)})
    if len(shapes) > 1:
        names = ", ".join(f"{height}x{width}" for height, width in shapes)
        largest = tuple(max(sides) for sides in zip(*shapes, strict=True))
        raise OptionError(
            f"the store has images of several shapes ({names}): give the size of the "
            f"batches, as in size={largest}; images are cropped or padded to it"
        )
    height, width = shapes[0]
    return height, width


def _common_dtype(store: Store, indices: NDArray[np.int64]) -> np.dtype[Any]:
    dtypes = {bucket.dtype for bucket in used_buckets(store, indices)}
    if len(dtypes) > 1:
        names = ", ".join(sorted(dtype.name for dtype in dtypes))
        raise OptionError(
            f"the store has images of several dtypes ({names}), which dtype 'raw' "
            "cannot stack in one batch; use 'float32'"
        )
    dtype: np.dtype[Any] = dtypes.pop()
    return dtype


def _check_pad_value(value: float, dtype: np.dtype[Any]) -> None:
    """Raise OptionError if an image of the dtype cannot hold the value."""
    whole = dtype.kind in "iu"
    limits = np.iinfo(dtype) if whole else np.finfo(dtype)
    in_range = float(limits.min) <= value <= float(limits.max)
    if not in_range or (whole and not value.is_integer()):
        raise OptionError(f"pad_value is {value:g}, expected a value of {dtype.name}")


def _mask_classes(
    store: Store, masks: str, priority: tuple[str, ...]
) -> NDArray[np.int64]:
    """Return the class indices in the kernels' order, none for bits."""
    names: tuple[str, ...]
    if masks == "bits":
        names = ()
    elif masks == "labels":
        names = priority
    elif masks == "onehot":
        names = store.classes
    elif masks in store.classes:
        names = (masks,)
    else:
        raise OptionError(one_of("masks", masks, (*MASKS, *store.classes)))
    return np.array([store.class_index(name) for name in names], np.int64)


def _priority(store: Store, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the classes from top to bottom, by default by increasing mean area."""
    if names is None:
        labelled = store.items["labelled"]
        pixels = store.items["pixels"].sum(axis=0)
        counts = [has_class(labelled, k).sum() for k in range(len(store.classes))]
        areas = pixels / np.maximum(np.array(counts, np.int64), 1)
        return tuple(store.classes[k] for k in np.argsort(areas, kind="stable"))
    for name in names:
        store.class_index(name)
    if sorted(names) != sorted(store.classes):
        raise OptionError(
            f"priority is {names}, expected each class once: {store.classes}"
        )
    return names
