"""Batches that threads fill, each divided into ranges of samples, and their queue."""

import contextlib
import operator
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from threading import Lock
from time import perf_counter
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from fastseg.calls import advise_attributes
from fastseg.errors import one_of
from fastseg.loading.buffers import BufferPool
from fastseg.loading.preprocessing import Preprocessing, StageTimes
from fastseg.loading.stats import Counters
from fastseg.notebook import MAX_SAMPLES, Thumbnail, as_html, join_regions
from fastseg.threads import WorkerPool

# A batch is divided among threads only into ranges of at least this size.
MIN_RANGE_BYTES = 2**18
# Of a batch, and those of them that are arrays.
FIELDS = ("image", "mask", "index", "params")
ARRAYS = FIELDS[:3]


class BatchAccess:
    """How a Batch, of arrays or of tensors, is unpacked, indexed and shown.

    Image and mask are what it yields and what numbers index: `image, mask = batch`,
    `batch[0]`, `batch[-1]`. All fields have names: `batch["index"]`, `"params" in
    batch`, `dict(batch)`. `len(batch)` is the number of samples, which is another
    number than that of the fields: a batch is no sequence.
    """

    __slots__ = ()
    # The built-in function would count down from the number of samples.
    __reversed__ = None

    image: Any
    mask: Any
    index: Any
    params: dict[str, Any] | None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.image, self.mask))

    def __len__(self) -> int:
        return len(self.index)

    @overload
    def __getitem__(self, key: slice) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, key: int | str) -> Any: ...

    def __getitem__(self, key: int | str | slice) -> Any:
        if isinstance(key, slice):
            return (self.image, self.mask)[key]
        if isinstance(key, str):
            if key not in FIELDS:
                raise KeyError(one_of("the key of a batch", key, FIELDS))
            return getattr(self, key)
        try:
            if isinstance(key, bool):
                raise TypeError
            number = operator.index(key)
        except TypeError:
            raise TypeError(
                f"a batch is indexed with {type(key).__name__}, expected a name of "
                f"{', '.join(FIELDS)}, 0 for the image or 1 for the mask; for "
                "samples, index batch.image and batch.mask"
            ) from None
        if not -2 <= number <= 1:
            raise IndexError(
                f"batch[{number}]: 0 is the image and 1 the mask of all samples; "
                "sample k is batch.image[k] and batch.mask[k]"
            )
        return (self.image, self.mask)[number]

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in FIELDS:
            raise KeyError(one_of("the key of a batch", name, FIELDS))
        setattr(self, name, value)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            raise TypeError(
                f"{type(name).__name__} in a batch: expected the name of a field"
            )
        return name in self.keys()

    def keys(self) -> tuple[str, ...]:
        """Return the names of the fields, so that `dict(batch)` has them.

        Without params, which a dict to be collated must not hold as None.
        """
        return ARRAYS if self.params is None else FIELDS

    def __repr__(self) -> str:
        count = getattr(self.index, "shape", ())[:1]
        size = " of {}".format(*count) if count else ""
        fields = [f"{name} {_describe(self[name])}" for name in ("image", "mask")]
        fields += ["params"] if self.params is not None else []
        return f"{type(self).__name__}{size}{self._location()}: {', '.join(fields)}"

    def _location(self) -> str:
        """Return where the arrays are, for the text of a batch."""
        return ""


@advise_attributes(
    **dict.fromkeys(
        ("to", "cpu", "cuda", "pin_memory", "float", "permute"),
        "its arrays are numpy's; fastseg.torch.as_torch(loader) makes batches of torch",
    ),
    images="image holds the images of all samples",
    masks="mask holds the masks of all samples",
    label="mask holds the masks of all samples",
    labels="mask holds the masks of all samples",
    target="mask holds the masks of all samples",
    indices="index holds the samples' indices in the store",
    shape="image.shape is (samples, 1, height, width), len(batch) their number",
)
@dataclass(slots=True, eq=False, repr=False)
class Batch(BatchAccess):
    """Stacked samples; `image, mask = batch` unpacks the arrays.

    image  : float32 (B, 1, h, w), or of the loader's `dtype`
    mask   : of the shape and dtype that the loader's `masks` names
    index  : int64 (B,), the samples' indices in the store
    params : the parameters that augmentation drew, if the loader has `return_params`:
        a dict for JSON and for `Loader.replay`

    `batch[0]` and `batch["image"]` are the image, `batch[1]` and `batch["mask"]` the
    mask, and `dict(batch)` has all fields, without params if it is None; they may be
    assigned to. `len(batch)` is the number of samples B, although two arrays are
    unpacked: sample k is `batch.image[k]` and `batch.mask[k]`.

    The arrays are writable and support DLPack, so that other libraries can use them
    without a copy. Their memory is reused only when no array, view or tensor refers to
    it any more. For JAX, if it is imported, a batch is a pytree of image, mask and
    index.
    """

    image: NDArray[Any]
    mask: NDArray[Any]
    index: NDArray[np.int64]
    params: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        # Here, because JAX may be imported at any time, and never by fastseg.
        if sys.modules.get("jax") is not None:
            _register_with_jax()

    def _repr_html_(self) -> str:
        return as_html(repr(self), thumbnails(self.image, self.mask, self.index))


def thumbnails(
    image: NDArray[Any], mask: NDArray[Any], index: NDArray[Any]
) -> Iterator[Thumbnail]:
    """Yield what a notebook shows of the first samples of a batch.

    image : (B, 1, h, w)
    mask  : (B, h, w) or (B, K, h, w)
    index : (B,), indices in the store

    Yields nothing for anything else that somebody has put into the batch.
    """
    for array in (image, mask, index):
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            return
    if image.ndim != 4 or mask.ndim not in (3, 4) or index.ndim != 1:
        return
    if not image.shape[1]:
        return
    first = slice(MAX_SAMPLES)
    for pixels, labels, number in zip(
        image[first], mask[first], index[first], strict=False
    ):
        whole = np.nan_to_num(labels).astype(np.int64)
        if labels.ndim == 3:
            whole = join_regions(whole)
        if whole.shape == pixels[0].shape:
            yield Thumbnail(pixels[0], whole, f"sample {number}")


def _describe(value: Any) -> str:
    """Return dtype and shape of an array or tensor, else the name of its type."""
    if not (hasattr(value, "dtype") and hasattr(value, "shape")):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


class _Identity:
    """Holds an object, and equals what holds the same object."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@cache
def _register_with_jax() -> None:
    """Make a Batch a pytree of JAX, with the children image, mask and index.

    Two batches have the same structure if their params are the same object, or both
    None. So a function that `jax.jit` compiled for one batch never returns its params
    for another.
    """
    from jax import tree_util

    def flatten(batch: Batch) -> tuple[list[Any], _Identity]:
        return [batch[name] for name in ARRAYS], _Identity(batch.params)

    def flatten_with_keys(batch: Batch) -> tuple[list[Any], _Identity]:
        children, params = flatten(batch)
        keys = map(tree_util.GetAttrKey, ARRAYS)
        return list(zip(keys, children, strict=True)), params

    def unflatten(params: _Identity, children: Iterable[Any]) -> Batch:
        image, mask, index = children
        return Batch(image, mask, index, params.value)

    tree_util.register_pytree_with_keys(Batch, flatten_with_keys, unflatten, flatten)


@dataclass(slots=True, eq=False)
class PendingBatch:
    """A batch that threads are filling.

    epoch, number : number of the epoch, and of the batch in it
    samples    : int64 (b,), indices in the store
    unfinished : number of ranges of samples that are not done
    failures   : exceptions, by index in `samples`
    """

    epoch: int
    number: int
    samples: NDArray[np.int64]
    unfinished: int = 0
    failures: dict[int, BaseException] = field(default_factory=dict)
    _arrays: list[NDArray[Any]] | None = None
    _lock: Any = field(default_factory=Lock)

    def arrays(self, pool: BufferPool) -> list[NDArray[Any]]:
        """Return image and mask, allocated when the first thread asks for them.

        If the consumer takes batches as soon as they are done, few buffers are in use
        at a time, and they stay in the caches: 1.2 times the speed of allocating all
        of them in advance.
        """
        with self._lock:
            if self._arrays is None:
                self._arrays = pool.allocate(len(self.samples))
            return self._arrays

    def release(self) -> Batch:
        """Return the batch without the samples that failed, and drop its arrays.

        So the consumer holds the only reference to their memory.
        """
        assert self._arrays is not None, "no thread has started"
        image, mask = self._arrays
        self._arrays = None
        if not self.failures:
            return Batch(image, mask, self.samples)
        valid = np.delete(np.arange(len(self.samples)), list(self.failures))
        return Batch(image[valid], mask[valid], self.samples[valid])


Task = tuple[PendingBatch, slice]
Result = tuple[PendingBatch, StageTimes, dict[int, BaseException]]


class BatchQueue:
    """Batches in their order, and the threads that fill them.

    Use it in `with queue, queue:`, as a WorkerPool. Threads start with the first batch.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        pool: BufferPool,
        threads: int,
        counters: Counters,
    ):
        function = partial(_fill_range, preprocessing, pool)
        self.workers: WorkerPool[Task, Result] = WorkerPool(
            threads, function, "fastseg-loader"
        )
        self._threads = threads
        self._counters = counters
        self._sample_bytes = preprocessing.sample_bytes
        self._batches: deque[PendingBatch] = deque()
        self._finished = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __enter__(self) -> "BatchQueue":
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.close()

    def submit(self, batch: PendingBatch) -> None:
        """Append a batch, divided into ranges so that all threads work on it.

        It stays whole if the threads have enough other batches to fill, because each
        task has to acquire Python's interpreter lock.
        """
        count = len(batch.samples)
        size = count * self._sample_bytes
        ranges = min(self._threads, count, 1 + size // MIN_RANGE_BYTES)
        if len(self._batches) - self._finished >= self._threads:
            ranges = 1
        batch.unfinished = ranges
        self._batches.append(batch)
        ends = [count * k // ranges for k in range(ranges + 1)]
        for start, stop in pairwise(ends):
            self.workers.submit((batch, slice(start, stop)))

    def pop(self) -> PendingBatch:
        """Remove the first batch, wait until it is finished, and return it."""
        for _ in range(self.workers.results_ready):
            self._receive_result()
        ready = self._finished
        started = perf_counter()
        batch = self._batches.popleft()
        while batch.unfinished:
            self._receive_result()
        self._finished -= 1
        self._counters.add_wait(perf_counter() - started, ready)
        return batch

    def _receive_result(self) -> None:
        batch, times, failures = self.workers.get_result()
        self._counters.add_stage_times(times)
        batch.failures |= failures
        batch.unfinished -= 1
        self._finished += not batch.unfinished


def _fill_range(preprocessing: Preprocessing, pool: BufferPool, task: Task) -> Result:
    """Fill a range of a batch in a worker thread; return exceptions, never raise."""
    batch, span = task
    samples = batch.samples[span]
    try:
        image, mask = (array[span] for array in batch.arrays(pool))
    except BaseException as exc:  # out of memory
        return batch, StageTimes(), {span.start: exc}
    with contextlib.suppress(BaseException):
        return batch, preprocessing.fill(samples, image, mask, batch.epoch), {}
    # Fill the samples one by one to find those that fail.
    failures: dict[int, BaseException] = {}
    for j in range(len(samples)):
        one = slice(j, j + 1)
        try:
            preprocessing.fill(samples[one], image[one], mask[one], batch.epoch)
        except BaseException as exc:
            failures[span.start + j] = exc
    return batch, StageTimes(), failures
