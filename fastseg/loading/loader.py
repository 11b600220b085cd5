"""Loader: batches made by threads, a few ahead of the consumer."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg._kernels import gather
from fastseg.errors import OptionError, one_of, whole_number
from fastseg.loading.sampling import batch_count, check_seed, epoch_order
from fastseg.loading.scaling import Scaling
from fastseg.progress import usable_cores
from fastseg.store.layout import mask_dtype
from fastseg.store.reader import Store
from fastseg.store.selection import check_indices

MASKS = ("bits", "labels", "onehot")
# More threads than this do not help: two fill a memory bus, and a training script
# has other uses for cores.
MOST_THREADS = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """Stacked samples, yours to keep; `image, mask = batch` takes them apart.

    image : float32 (B, 1, h, w)
    mask  : as the loader's `masks` says
    index : int64 (B,), the samples' places in the store
    """

    image: NDArray[np.float32]
    mask: NDArray[Any]
    index: NDArray[np.int64]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter((self.image, self.mask))

    def __len__(self) -> int:
        return len(self.index)


class Loader:
    """Iterates over a store in batches; each `for` loop over it is one epoch.

    store      : what `fastseg.open` returns
    indices    : places of the samples to load, as `Store.select` and `Store.split`
        return them; by default all
    batch_size : samples in a batch
    shuffle    : a new order in every epoch, a function of (seed, epoch) alone
    seed       : 0 to 2**64 - 1
    threads    : how many make batches; by default one per core, at most 4
    prefetch   : batches made ahead of the consumer, at least 1
    size       : (h, w) of the batches, or one number for a square: images are cut
        or padded round their centre; by default the images' own, if all have one
    normalize, percentiles : see `loading.scaling.Scaling`
    pad        : value around images smaller than `size`, in normalized units
    masks      : "bits"    the store's bit fields (B, h, w)
                 "labels"  uint8 (B, h, w): 0 background, k + 1 for class k
                 "onehot"  uint8 (B, K, h, w): a channel of 0 and 1 per class
                 a class   uint8 (B, h, w): 0 and 1
    priority   : classes from top to bottom, for "labels" where classes overlap; by
        default the class with the smaller mean area lies on top
    drop_last  : leave out the last batch if it is not full

    The batches of an epoch depend on the store, the options and (seed, epoch), not
    on threads, prefetch or timing. `loader.epoch` is the number of the next epoch.
    What fails in a thread is raised by the loop, with a note that names the batch's
    samples. Threads live while a loop runs; when it is left, however, they end.

    Raises OptionError or UnknownClassError for arguments that do not fit the store.
    """

    def __init__(
        self,
        store: Store,
        *,
        indices: ArrayLike | None = None,
        batch_size: int = 16,
        shuffle: bool = True,
        seed: int = 0,
        threads: int | None = None,
        prefetch: int = 4,
        size: int | tuple[int, int] | None = None,
        normalize: str = "zscore",
        percentiles: tuple[float, float] = (1.0, 99.0),
        pad: float = 0.0,
        masks: str = "bits",
        priority: Sequence[str] | None = None,
        drop_last: bool = False,
    ):
        self.store = store
        self.batch_size = whole_number("batch_size", batch_size, 1)
        self.indices = check_indices(store, indices)
        if self.batch_size > len(self.indices):
            raise OptionError(
                f"batch_size is {batch_size}, {len(self.indices)} samples are chosen"
            )
        self.shuffle = shuffle
        self.seed = check_seed(seed)
        usual = min(usable_cores(), MOST_THREADS)
        self.threads = whole_number("threads", usual if threads is None else threads, 1)
        self.prefetch = whole_number("prefetch", prefetch, 1)
        self.size = _common_size(store, self.indices) if size is None else _pair(size)
        self.scaling = Scaling(normalize=normalize, percentiles=percentiles)
        self.scaling.check(store)
        self.pad = np.float32(pad)
        self.drop_last = drop_last
        self.priority = _priority(store, priority)
        self.masks = masks
        self._gather_masks = self._mask_gatherer(masks)
        self.epoch = 0

    def __len__(self) -> int:
        return batch_count(len(self.indices), self.batch_size, self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        return self._run(epoch)

    def _run(self, epoch: int) -> Iterator[Batch]:
        count = len(self.indices)
        order = self.indices[epoch_order(count, self.seed, epoch, self.shuffle)]
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="fastseg-loader")
        pending: deque[Future[Batch]] = deque()
        try:
            for k in range(len(self)):
                samples = order[k * self.batch_size : (k + 1) * self.batch_size]
                pending.append(pool.submit(self._make_named, epoch, k, samples))
                if len(pending) > self.prefetch:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            # Also when the loop is left early: a generator that is dropped is
            # closed. Batches under way take milliseconds to end.
            pool.shutdown(wait=True, cancel_futures=True)

    def _make_named(self, epoch: int, k: int, samples: NDArray[np.int64]) -> Batch:
        try:
            return self._make(samples)
        except Exception as exc:
            exc.add_note(
                f"while making batch {k} of epoch {epoch} from samples "
                f"{samples.tolist()} of {self.store.path}"
            )
            if self.store.is_whole:  # else its columns cannot be read any more
                patients = {self.store[i].patient for i in samples.tolist()}
                exc.add_note(f"patients {', '.join(sorted(patients))}")
            raise

    def _make(self, samples: NDArray[np.int64]) -> Batch:
        store = self.store
        store.check_size()
        image = np.empty((len(samples), 1, *self.size), np.float32)
        mask = self._empty_masks(len(samples))
        shift, gain = self.scaling.shift_and_gain(store, samples)
        low, high = self.scaling.limits
        for images, masks, rows, slots in store.stacks(samples):
            gather.gather_images(
                images,
                rows,
                slots,
                shift[slots],
                gain[slots],
                low,
                high,
                self.pad,
                image[:, 0],
            )
            self._gather_masks(masks, rows, slots, mask)
        return Batch(image, mask, samples)

    def _empty_masks(self, count: int) -> NDArray[Any]:
        if self.masks == "bits":
            dtype = mask_dtype(self.store.classes)
            return np.empty((count, *self.size), dtype)
        channels = (len(self.store.classes),) if self.masks == "onehot" else ()
        return np.empty((count, *channels, *self.size), np.uint8)

    def _mask_gatherer(self, masks: str) -> Callable[..., Any]:
        """Return a function of (masks, rows, slots, out)."""
        if masks == "bits":
            gatherer: Callable[..., Any] = gather.gather_bits
            return gatherer
        if masks == "labels":
            bits = [self.store.class_index(name) for name in self.priority]
            order = np.array(bits, np.int64)
            return lambda source, rows, slots, out: gather.gather_labels(
                source, rows, slots, order, out
            )
        if masks == "onehot":
            every = np.arange(len(self.store.classes))
            return lambda source, rows, slots, out: gather.gather_classes(
                source, rows, slots, every, out
            )
        if masks in self.store.classes:
            one = np.array([self.store.class_index(masks)], np.int64)
            return lambda source, rows, slots, out: gather.gather_classes(
                source, rows, slots, one, out[:, None]
            )
        raise OptionError(one_of("masks", masks, (*MASKS, *self.store.classes)))


def _pair(size: Any) -> tuple[int, int]:
    try:
        height, width = (size, size) if np.ndim(size) == 0 else size
    except (TypeError, ValueError):
        raise OptionError(f"size is {size!r}, expected (height, width)") from None
    return whole_number("size", height, 1), whole_number("size", width, 1)


def _common_size(store: Store, indices: NDArray[np.int64]) -> tuple[int, int]:
    buckets = list(store.buckets.values())
    used = np.unique(store.items["bucket"][indices])
    shapes: list[tuple[int, int]] = sorted({buckets[k].shape for k in used.tolist()})
    if len(shapes) > 1:
        listed = ", ".join(f"{height}x{width}" for height, width in shapes)
        largest = tuple(max(sides) for sides in zip(*shapes, strict=True))
        raise OptionError(
            f"the store has images of several shapes ({listed}): give the size of the "
            f"batches, as in size={largest}, to which images are cut or padded"
        )
    return shapes[0]


def _priority(store: Store, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        labelled = store.items["labelled"]
        pixels = store.items["pixels"].sum(axis=0)
        counts = [
            int(((labelled >> labelled.dtype.type(k)) & labelled.dtype.type(1)).sum())
            for k in range(len(store.classes))
        ]
        areas = [
            total / max(count, 1)
            for total, count in zip(pixels.tolist(), counts, strict=True)
        ]
        order = sorted(range(len(areas)), key=areas.__getitem__)
        return tuple(store.classes[k] for k in order)
    for name in names:
        store.class_index(name)
    if sorted(names) != sorted(store.classes):
        raise OptionError(
            f"priority is {tuple(names)}, expected each class once: {store.classes}"
        )
    return tuple(names)
