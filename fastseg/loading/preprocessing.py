"""How samples of a store become images and masks of a batch: options, and the work."""

import math
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.images import gather
from fastseg.errors import OptionError, one_of, whole_number
from fastseg.loading.normalization import Normalization
from fastseg.store.layout import mask_dtype
from fastseg.store.reader import Store
from fastseg.store.selection import has_class

DTYPES = ("float32", "float16", "raw")
MASKS = ("bits", "labels", "onehot")


class StageTimes(NamedTuple):
    """Nanoseconds that a thread spent: finding pixels, on images, on masks.

    image  : and masks, where one call makes both
    custom : in functions of the user's
    """

    read: int = 0
    image: int = 0
    mask: int = 0
    custom: int = 0


class Preprocessing:
    """What is done to samples, and how: the same for a loader and for single samples.

    store   : where they come from
    indices : int64 (n,), the samples that it is meant for
    options : as `Loader` says

    The options are attributes too, with defaults filled in. Of one sample,
    image_shape is (1, h, w) and mask_shape as the option `masks` has it. Raises
    OptionError or UnknownClassError for options that do not fit the store.
    """

    def __init__(
        self,
        store: Store,
        indices: NDArray[np.int64],
        *,
        size: int | tuple[int, int] | None = None,
        normalize: str | None = None,
        percentiles: tuple[float, float] = (1.0, 99.0),
        pad_value: float = 0.0,
        dtype: str = "float32",
        masks: str = "bits",
        priority: Sequence[str] | None = None,
    ):
        self.store = store
        # Whether what is made is written past the caches.
        self.streams = False
        if dtype not in DTYPES:
            raise OptionError(one_of("dtype", dtype, DTYPES))
        if dtype == "raw" and normalize not in (None, "none"):
            raise OptionError(
                f"normalize is {normalize!r}, but dtype 'raw' asks for stored values; "
                "leave one of them out"
            )
        self.dtype = dtype
        self.size = _common_size(store, indices) if size is None else _pair(size)
        usual = "none" if dtype == "raw" else "zscore"
        self.normalization = Normalization(
            normalize=normalize or usual, percentiles=percentiles
        )
        self.normalization.check(store)
        self.image_dtype = (
            _common_dtype(store, indices) if dtype == "raw" else np.dtype(dtype)
        )
        self.pad_value = _fitting(pad_value, self.image_dtype)
        self.priority = _priority(store, priority)
        self.masks = masks
        self.image_shape = (1, *self.size)
        channels = (len(store.classes),) if masks == "onehot" else ()
        self.mask_shape = (*channels, *self.size)
        self.mask_dtype = (
            mask_dtype(store.classes) if masks == "bits" else np.dtype(np.uint8)
        )
        self.sample_bytes = (
            math.prod(self.image_shape) * self.image_dtype.itemsize
            + math.prod(self.mask_shape) * self.mask_dtype.itemsize
        )
        self._classes = self._mask_classes()
        every = np.arange(len(store))
        self._shift, self._gain = self.normalization.shift_and_gain(store, every)

    def fill(
        self,
        samples: NDArray[np.int64],
        image: NDArray[Any],
        mask: NDArray[Any],
        epoch: int = 0,
    ) -> StageTimes:
        """Make images and masks of samples, the same in every epoch.

        samples : int64 (b,), places in the store
        image   : of image_dtype (b, *image_shape), and
        mask    : of mask_dtype (b, *mask_shape), are filled, every cell of them

        Raises StoreError if the file has become shorter, or a sample is damaged.
        """
        self.store.check_size()
        image, mask = image[:, 0], self._view_masks(mask)
        if self.dtype == "float16":
            image = image.view(np.uint16)
        read = copied = 0
        begun = perf_counter_ns()
        for images, masks, rows, place in self.store.stacks(samples):
            found = perf_counter_ns()
            gather.gather_samples(
                images,
                masks,
                rows,
                *self._scales(samples[place]),
                self._classes,
                self.streams,
                image[place],
                mask[place],
            )
            read += found - begun
            begun = perf_counter_ns()
            copied += begun - found
        return StageTimes(read, copied)

    def _scales(self, samples: NDArray[np.int64]) -> tuple[Any, ...]:
        """Return shift, gain, limits and padding of images for kernels."""
        if self.dtype == "raw":
            return None, None, None, None, self.image_dtype.type(self.pad_value)
        scale = self._shift[samples], self._gain[samples]
        return *scale, *self.normalization.limits, np.float32(self.pad_value)

    def _mask_classes(self) -> NDArray[np.int64] | None:
        """Return the classes that kernels show, or in which order; None for bits."""
        kind, store = self.masks, self.store
        if kind == "bits":
            return None
        if kind == "labels":
            names = self.priority
        elif kind == "onehot":
            names = store.classes
        elif kind in store.classes:
            names = (kind,)
        else:
            raise OptionError(one_of("masks", kind, (*MASKS, *store.classes)))
        return np.array([store.class_index(name) for name in names], np.int64)

    def _view_masks(self, mask: NDArray[Any]) -> NDArray[Any]:
        """Return masks as kernels fill them: those of one class are a channel."""
        return mask[:, None] if self.masks in self.store.classes else mask


def _pair(size: Any) -> tuple[int, int]:
    try:
        height, width = (size, size) if np.ndim(size) == 0 else size
    except (TypeError, ValueError):
        raise OptionError(f"size is {size!r}, expected (height, width)") from None
    return whole_number("size", height, 1), whole_number("size", width, 1)


def _used_buckets(store: Store, indices: NDArray[np.int64]) -> list[Any]:
    buckets = list(store.buckets.values())
    used = np.bincount(store.items["bucket"][indices], minlength=len(buckets))
    return [bucket for bucket, count in zip(buckets, used, strict=True) if count]


def _common_size(store: Store, indices: NDArray[np.int64]) -> tuple[int, int]:
    shapes = sorted({bucket.shape for bucket in _used_buckets(store, indices)})
    if len(shapes) > 1:
        listed = ", ".join(f"{height}x{width}" for height, width in shapes)
        largest = tuple(max(sides) for sides in zip(*shapes, strict=True))
        raise OptionError(
            f"the store has images of several shapes ({listed}): give the size of the "
            f"batches, as in size={largest}, to which images are cut or padded"
        )
    height, width = shapes[0]
    return height, width


def _common_dtype(store: Store, indices: NDArray[np.int64]) -> np.dtype[Any]:
    dtypes = {bucket.dtype for bucket in _used_buckets(store, indices)}
    if len(dtypes) > 1:
        listed = ", ".join(sorted(dtype.name for dtype in dtypes))
        raise OptionError(
            f"the store has images of several dtypes ({listed}), which dtype 'raw' "
            "cannot put into one batch; use 'float32'"
        )
    dtype: np.dtype[Any] = dtypes.pop()
    return dtype


def _fitting(pad_value: Any, dtype: np.dtype[Any]) -> float:
    """Return the value for padding, if it is one that the dtype can hold."""
    try:
        value = float(pad_value)
    except (TypeError, ValueError, OverflowError):
        raise OptionError(f"pad_value is {pad_value!r}, expected a number") from None
    whole = dtype.kind in "iu"
    limits = np.iinfo(dtype) if whole else np.finfo(dtype)
    least, most = float(limits.min), float(limits.max)
    if not least <= value <= most or (whole and not value.is_integer()):
        raise OptionError(
            f"pad_value is {pad_value!r}, expected a value of {dtype.name}"
        )
    return value


def _priority(store: Store, names: Sequence[str] | None) -> tuple[str, ...]:
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
            f"priority is {tuple(names)}, expected each class once: {store.classes}"
        )
    return tuple(names)
