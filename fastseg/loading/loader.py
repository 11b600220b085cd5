"""Loader: batches made by threads, a few ahead of the consumer."""

import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastseg.augment import Compose, Transform, as_compose
from fastseg.errors import OptionError, one_of, refuse_renamed, whole_number
from fastseg.loading import state
from fastseg.loading.augmented import AugmentedPreprocessing, Labels
from fastseg.loading.batches import Batch, BatchQueue, PendingBatch
from fastseg.loading.buffers import BufferPool
from fastseg.loading.normalization import Normalize
from fastseg.loading.preprocessing import (
    ZSCORE_OR_RAW,
    DTypeName,
    Missing,
    Preprocessing,
    warn_of_missing,
)
from fastseg.loading.schedule import (
    Schedule,
    Together,
    Uneven,
    select_foreground,
    select_groups,
    select_weights,
)
from fastseg.loading.stats import Counters, Stats
from fastseg.loading.workers import WorkerPool
from fastseg.store.reader import Store
from fastseg.store.selection import check_indices
from fastseg.threads import usable_cores

# More threads than this do not help: two fill a memory bus, and a training script
# has other uses for cores.
MOST_THREADS = 4
# So many batches are asked of the disk before they are made, if it is slow to answer.
COLD_AHEAD = 8
# Batches that together are larger than this do not stay in the caches anyway.
STREAM_FROM_BYTES = 2**23
OnError = Literal["raise", "skip"]

ON_ERROR = get_args(OnError)


class Loader:
    """Iterates over a store in batches; each `for` loop over it is one epoch.

    store      : what `fastseg.open` returns
    indices    : places of the samples to load, as `Store.select` and `Store.split`
        return them; by default all

    What comes when:

    batch_size : samples in a batch
    shuffle    : a new order in every epoch, a function of (seed, epoch) alone
    seed       : 0 to 2**64 - 1
    drop_last  : leave out the last batch if it is not full
    rank, world_size : which part of every epoch this process loads, one of how many;
        each has the same number of batches, and no two have a sample in common
    uneven     : what to do where the samples cannot be dealt evenly: "split" makes
        some batches smaller, "repeat" loads some samples twice
    weights    : how often each sample of the store is to come, relative to others,
        float (len(store),); 0 for never
    foreground : share of each batch that has a pixel of any class, at least, as in
        0.5; or of one class, as in ("icontour", 0.5). Where there are too few, they
        come more than once in an epoch, and some others do not
    together   : "patient" or "series": its samples come one after another

    What a sample becomes:

    size       : (h, w) of the batches, or one number for a square: images are cut
        or padded round their centre; by default the images' own, if all have one
    normalize  : "zscore"     mean 0 and standard deviation 1 of each image
                 "percentile" the `percentiles` of each image to 0 and 1, clipped
                 "window"     the DICOM window to 0 and 1, clipped
                 None         image values, rescaled as the DICOM file says; this is
                              the default where dtype is "raw"
    percentiles : (lower, upper) of "percentile", two of those that the store holds
    pad_value  : value around images smaller than `size`, in units of the result
    dtype      : "float32", "float16", or "raw" for stored values, not normalized; or
        numpy's or torch's dtype of that name
    masks      : "labels"  uint8 (B, h, w): 0 background, k + 1 for class k
                 "bits"    the store's bit fields (B, h, w)
                 "onehot"  uint8 (B, K, h, w): a channel of 0 and 1 per class
                 a class   uint8 (B, h, w): 0 and 1
    priority   : classes from top to bottom, for "labels" where classes overlap; by
        default the class with the smaller mean area lies on top
    missing    : what becomes of a class on a sample where nobody outlined it; not
        with "bits"
                 None          background, and a MissingLabelsWarning that counts the
                               samples when the loader is made
                 "background"  the same without a warning
                 "ignore"      255 wherever the class could be: in "labels" where no
                               class above it in `priority` shows, in a mask of one
                               class and in its channel of "onehot" everywhere
                 "error"       MissingLabelsError when the loader is made

    augment    : transforms, see `fastseg.augment`, or the name of a preset: "light",
        "standard"; a function of (seed, epoch, sample), so that a sample that comes
        twice in an epoch is changed alike
    labels     : of augmented samples: "exact" moves the contours and draws them again,
        "nearest" takes the nearest pixels of the masks
    return_params : let `params` of a batch tell what was drawn

    How:

    threads    : how many make batches; by default one per core, at most 4
    prefetch   : batches made ahead of the consumer, at least 1
    on_error   : of a sample that cannot be read: "raise" the error, with a note that
        names it, or "skip" it; then `skipped` lists it and its batch is smaller

    The batches of an epoch depend on the store, the options and (seed, epoch), not
    on threads, prefetch or timing. `epoch` is the number of the next epoch; it may be
    set. `state_dict` and `load_state_dict` go on at any batch.

    Threads live while a loop runs; when it is left, however, they end. `close`, or
    leaving a `with` block, ends all loops and lets go of memory. A loader can be
    pickled and forked, a loop cannot.

    Raises OptionError, MissingLabelsError, UnknownClassError or RenamedError for
    arguments that are invalid or do not fit the store.
    """

    @refuse_renamed(pad="pad_value", workers="threads")
    def __init__(
        self,
        store: Store,
        *,
        indices: ArrayLike | None = None,
        batch_size: int = 16,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        uneven: Uneven = "split",
        weights: ArrayLike | None = None,
        foreground: float | tuple[str, float] | None = None,
        together: Together | None = None,
        size: int | tuple[int, int] | None = None,
        normalize: Normalize | None = ZSCORE_OR_RAW,
        percentiles: tuple[float, float] = (1.0, 99.0),
        pad_value: float = 0.0,
        dtype: DTypeName | DTypeLike = "float32",
        masks: str = "labels",
        priority: Sequence[str] | None = None,
        missing: Missing | None = None,
        augment: Compose | Sequence[Transform] | str | None = None,
        labels: Labels = "exact",
        return_params: bool = False,
        threads: int | None = None,
        prefetch: int = 4,
        on_error: OnError = "raise",
    ):
        options = {k: v for k, v in locals().items() if k not in ("self", "store")}
        self._options = options
        self.store = store
        self.indices = check_indices(store, indices)
        self.schedule = Schedule(
            indices=self.indices,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
            uneven=uneven,
            weights=select_weights(store, self.indices, weights),
            foreground=select_foreground(store, self.indices, foreground),
            groups=select_groups(store, self.indices, together),
        )
        becomes: dict[str, Any] = {
            "size": size,
            "normalize": normalize,
            "percentiles": percentiles,
            "pad_value": pad_value,
            "dtype": dtype,
            "masks": masks,
            "priority": priority,
            "missing": missing,
        }
        if augment is None:
            self.preprocessing = Preprocessing(store, self.indices, **becomes)
        else:
            self.preprocessing = AugmentedPreprocessing(
                store,
                self.indices,
                compose=as_compose(augment),
                labels=labels,
                seed=self.schedule.seed,
                **becomes,
            )
        warn_of_missing(self.preprocessing, stacklevel=3)
        usual = min(usable_cores(), MOST_THREADS)
        self.threads = whole_number("threads", usual if threads is None else threads, 1)
        self.prefetch = whole_number("prefetch", prefetch, 1)
        if on_error not in ON_ERROR:
            raise OptionError(one_of("on_error", on_error, ON_ERROR))
        self.on_error = on_error
        if return_params and augment is None:
            raise OptionError("return_params is given without augment: none are drawn")
        self.return_params = return_params
        # Samples that were left out, and why.
        self.skipped: dict[int, str] = {}
        self._meter = Counters()
        preprocessing, count = self.preprocessing, self.schedule.batch_size
        self.batch_size = count
        image = (count, *preprocessing.image_shape), preprocessing.image_dtype
        mask = (count, *preprocessing.mask_shape), preprocessing.mask_dtype
        # One in the consumer's hands, one being asked for, the others ahead.
        most = self.prefetch + 2
        self._pool = BufferPool([image, mask], most)
        preprocessing.streams = (
            most * count * preprocessing.sample_bytes > STREAM_FROM_BYTES
        )
        self._crews: weakref.WeakSet[WorkerPool[Any, Any]] = weakref.WeakSet()
        # Epoch and batch: where the next loop begins; and what comes after the batch
        # that was handed over last.
        self._start = self._position = (0, 0)

    def __len__(self) -> int:
        return len(self.schedule)

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next loop loads."""
        return self._start[0]

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._start = self._position = (whole_number("epoch", epoch, 0, 2**64 - 1), 0)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self._position = self._start
        self._start = epoch + 1, 0
        return self._run(epoch, first)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on after the last batch.

        A dict for JSON. Asked for in a loop, it goes on with the batch that follows
        the one in hand, no matter how many have been made ahead.
        """
        epoch, batch = self._position
        return {"epoch": epoch, "batch": batch, **self._identity}

    def load_state_dict(self, given: Mapping[str, Any]) -> None:
        """Let the next loop go on where a loader was that had this state.

        What comes then is what would have come, bit for bit, whatever `threads` and
        `prefetch` are. The state of one rank may be loaded by another. Raises
        StateError for a state of another store, seed or configuration.
        """
        self._start = self._position = state.parse_state(
            given, self._identity, len(self)
        )

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return state.identify(self.schedule, self.preprocessing)

    def replay(self, params: Mapping[str, Any]) -> Batch:
        """Return the batch that has these `params`, made again.

        They may come from another loader with the same steps and the same samples, as
        of a store of other images of these patients. Raises OptionError if they do not
        fit.
        """
        preprocessing = self.preprocessing
        if not isinstance(preprocessing, AugmentedPreprocessing):
            raise OptionError("replay needs a loader with augment")
        samples, drawn = preprocessing.parse_params(params)
        if len(samples) and not 0 <= samples.min() <= samples.max() < len(self.store):
            raise OptionError(f"params name samples beyond the {len(self.store)} here")
        count = len(samples)
        image = np.empty((count, *preprocessing.image_shape), preprocessing.image_dtype)
        mask = np.empty((count, *preprocessing.mask_shape), preprocessing.mask_dtype)
        preprocessing.fill_drawn(samples, image, mask, drawn)
        return Batch(image, mask, samples, dict(params))

    def stats(self) -> Stats:
        """Return what has been done so far, and what limits it."""
        return self._meter.stats(
            threads=self.threads,
            prefetch=self.prefetch,
            skipped=len(self.skipped),
            held=self._pool.held,
        )

    def close(self) -> None:
        """End all loops and let go of memory. The loader can still be used."""
        for crew in list(self._crews):
            crew.close()
        self._pool.clear()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        # The copy does not repeat the warning about missing labels.
        made = partial(
            Loader, **{**self._options, "missing": self.preprocessing.missing}
        )
        return made, (self.store,), (self._start, self._position)

    def __setstate__(self, places: Any) -> None:
        self._start, self._position = places

    def _run(self, epoch: int, first: int) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch, from the first wanted on."""
        with BatchQueue(
            self.preprocessing, self._pool, self.threads, self._meter
        ) as line:
            self._crews.add(line.crew)
            self._meter.begin()
            try:
                for job in self._in_order(line, epoch, first):
                    self._check(job)
                    after = job.number + 1
                    self._position = (
                        (epoch, after) if after < len(self) else (epoch + 1, 0)
                    )
                    count = len(job.samples) - len(job.failures)
                    self._meter.lap(count)
                    if count:
                        yield self._described(job.hand_over(), epoch)
            finally:
                self._meter.lap()

    def _in_order(
        self, line: BatchQueue, epoch: int, first: int
    ) -> Iterator[PendingBatch]:
        """Yield finished jobs, each when `prefetch` later ones have begun."""
        samples, bounds = self.schedule.epoch(epoch)
        told = first
        for k in range(first, len(self)):
            if self._meter.is_cold():
                told, wanted = min(k + COLD_AHEAD, len(self)), max(told, k)
                self.store.read_ahead(samples[bounds[wanted] : bounds[told]])
            chosen = samples[bounds[k] : bounds[k + 1]].copy()
            line.begin(PendingBatch(epoch, k, chosen))
            if len(line) > self.prefetch:
                yield line.finish()
        while len(line):
            yield line.finish()

    def _described(self, batch: Batch, epoch: int) -> Batch:
        if self.return_params and isinstance(
            self.preprocessing, AugmentedPreprocessing
        ):
            return replace(
                batch, params=self.preprocessing.describe(batch.index, epoch)
            )
        return batch

    def _check(self, job: PendingBatch) -> None:
        """Raise what failed, or list what is left out."""
        if not job.failures:
            return
        whole = self.store.is_whole
        fatal = [k for k, exc in job.failures.items() if self._is_fatal(exc)]
        if fatal or not whole:
            place = min(fatal or job.failures)
            exc, sample = job.failures[place], int(job.samples[place])
            name = self.preprocessing.describe_sample(sample)
            exc.add_note(
                f"while making {name}, for batch {job.number} of epoch {job.epoch}"
            )
            raise exc
        for place, exc in job.failures.items():
            self.skipped[int(job.samples[place])] = f"{type(exc).__name__}: {exc}"

    def _is_fatal(self, exc: BaseException) -> bool:
        return self.on_error == "raise" or not isinstance(exc, Exception)
