"""Loader: threads fill batches, a few ahead of the consumer."""

import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastseg.bounds import MAX_PREFETCH
from fastseg.calls import advise_attributes, check_call, refuse_renamed_attributes
from fastseg.choices import DTypeName
from fastseg.errors import (
    OptionError,
    choice,
    true_or_false,
    whole_number,
)
from fastseg.loading import state
from fastseg.loading.batches import Batch, BatchQueue, PendingBatch
from fastseg.loading.buffers import BufferPool
from fastseg.loading.format import (
    ZSCORE_OR_RAW,
    BatchFormat,
    Labels,
    Missing,
    PadValue,
)
from fastseg.loading.normalization import Normalize
from fastseg.loading.preprocessing import Preprocessing, warn_of_missing
from fastseg.loading.schedule import (
    Schedule,
    Together,
    Uneven,
    select_foreground,
    select_groups,
    select_weights,
)
from fastseg.loading.stats import Counters, Stats
from fastseg.paths import StrPath
from fastseg.reprs import listed, many, once_made, short
from fastseg.store.reader import Store, as_store
from fastseg.store.selection import check_indices
from fastseg.threads import WorkerPool, check_threads, usable_cores

if TYPE_CHECKING:
    from fastseg.augment import Compose, Transform
    from fastseg.loading.augmented import AugmentedPreprocessing

# The default is at most this many threads, because a training script needs cores for
# other work, and because memory limits plain batches: two threads make 1.5 times as
# many as one. Two threads augment 1.9 times as many (docs/benchmarks.md).
MOST_DEFAULT_THREADS = 4
# While the store has to be read from the disk, the system is asked for the pixels of
# this many batches in advance.
READ_AHEAD_BATCHES = 8
# If all buffers together are larger than this, they do not stay in the caches, and
# kernels write past the caches.
STREAM_FROM_BYTES = 2**23
OnError = Literal["raise", "skip"]

ON_ERROR = get_args(OnError)


@advise_attributes(
    dataset="loader.store is the store, loader.indices the samples",
    num_workers="loader.threads is the number of threads",
    sampler="loader.schedule says which samples come when",
    batch_sampler="loader.schedule says which samples come when",
    set_epoch="set loader.epoch",
    transform="loader.preprocessing makes the samples",
    next="next(iter(loader)) is a batch, for batch in loader all of an epoch",
)
@refuse_renamed_attributes(recipe="preprocessing")
class Loader:
    """Iterates over a store in batches; each `for` loop over it is one epoch.

    store      : a store, as `fastseg.open` returns it, or the path of one
    indices    : indices of the samples to load, as `Store.select` and `Store.split`
        return them; by default all. Their order does not matter

    Options of the order:

    batch_size : samples in a batch; if fewer are chosen, they are one smaller batch
    shuffle    : whether each epoch has a new random order, which depends on the
        options, the seed and the epoch; otherwise samples come in store order
    seed       : 0 to 2**64 - 1
    drop_last  : leave out the last batch if it is not full; OptionError if none is
    rank, world_size : number of this process, from 0, and number of processes. They
        divide every epoch among themselves: all load the same number of batches, and no
        two load the same sample, unless `uneven`, `weights` or `foreground` repeat it
    uneven     : what to do if the samples do not divide evenly among the ranks: "split"
        makes some batches smaller, "repeat" loads some samples twice. No effect with
        drop_last, which leaves the surplus out
    weights    : how often each sample of the store comes, relative to the others,
        float (len(store),); 0 for never
    foreground : at least this fraction of the samples of each batch has a pixel of any
        class, as in 0.5; or of one class, as in ("icontour", 0.5). If there are too few
        of them, they come more than once in an epoch, and some other samples are left
        out
    together   : "patient" or "series": the samples of each come one after another

    Options of images and masks:

    size       : (h, w) of the batches, or one number for a square: images are cropped
        or padded about their centre. By default that of the last Crop or Resize of
        `augment`, else that of the images, which must all have the same
    normalize  : "zscore"     mean 0 and standard deviation 1 of each image
                 "percentile" the `percentiles` of each image to 0 and 1, clipped
                 "window"     the DICOM window to 0 and 1, clipped
                 None         image values, rescaled as the DICOM file says; with
                              dtype "raw", where only None is allowed, stored values
    percentiles : (lower, upper) of "percentile", two of those that the store holds
    pad_value  : what lies around images: "minimum", the least value of each image, or a
        number. Both are values after normalization and before transforms that change
        values; with dtype "raw", stored values
    dtype      : "float32", "float16", or "raw" for stored values, not normalized; or
        numpy's or torch's dtype of that name. With `augment`, only float32
    masks      : "labels"  uint8 (B, h, w): 0 background, k + 1 for class k
                 "bits"    the store's bit fields (B, h, w)
                 "onehot"  uint8 (B, K, h, w): a channel of 0 and 1 per class
                 a class   uint8 (B, h, w): 0 and 1
    priority   : classes from top to bottom, for "labels" where classes overlap; by
        default the class with the smaller mean area lies on top
    missing    : what the mask shows for a class that nobody outlined on a sample; not
        with "bits"
                 None          background; if there are such samples, making the loader
                               issues a MissingLabelsWarning with their number
                 "background"  the same without a warning
                 "ignore"      255 wherever the class could be: in "labels" where no
                               class above it in `priority` shows, in a mask of one
                               class and in its channel of "onehot" everywhere. If
                               labels are then 255 all over samples that have
                               outlines, a MissingLabelsWarning says so
                 "error"       MissingLabelsError when the loader is made

    Options of augmentation:

    augment    : transforms, see `fastseg.augment`, or the name of a preset: "light",
        "standard". Their random parameters are a function of (seed, epoch, sample): a
        sample that comes twice in an epoch looks the same both times
    labels     : how masks of augmented samples are made: "exact" moves the contours and
        draws them again, "nearest" takes the nearest pixel of the stored mask
    return_params : whether batches carry the drawn parameters in `params`

    Options of the work:

    threads    : number of threads that make batches; by default one per core, at most 4
    prefetch   : number of batches made ahead of the consumer, at least 1
    on_error   : for a sample that cannot be read: "raise" the error, with a note that
        names the sample, or "skip" it: `skipped` lists it, and its batch is smaller, or
        not yielded if it is empty. A changed store raises StoreError in any case

    The batches of an epoch depend on the store, the options and (seed, epoch), not
    on threads, prefetch or timing. `epoch` is the number of the next epoch and may be
    set. `state_dict` and `load_state_dict` save and resume a loop at any batch.

    The threads run only while a loop runs; they end however the loop is left. `close`,
    or leaving a `with` block, ends all loops and frees the unused buffers. A loader can
    be pickled and forked, a loop cannot.

    Raises OptionError, MissingLabelsError, UnknownClassError or RenamedError for
    arguments that are invalid or do not fit the store, ArgumentError for those that do
    not exist, and what `fastseg.open` raises for a path.
    """

    @check_call(pad="pad_value", workers="threads")
    def __init__(
        self,
        store: Store | StrPath,
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
        pad_value: PadValue = "minimum",
        dtype: DTypeName | DTypeLike = "float32",
        masks: str = "labels",
        priority: Sequence[str] | None = None,
        missing: Missing | None = None,
        augment: "Compose | Sequence[Transform] | str | None" = None,
        labels: Labels = "exact",
        return_params: bool = False,
        threads: int | None = None,
        prefetch: int = 4,
        on_error: OnError = "raise",
    ):
        options = {k: v for k, v in locals().items() if k not in ("self", "store")}
        self._options = options
        self.store = store = as_store(store)
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
        format = BatchFormat(**{f.name: options[f.name] for f in fields(BatchFormat)})
        self._augmented: AugmentedPreprocessing | None = None
        if format.augment is not None:
            from fastseg.loading import augmented  # 20 ms that plain batches save

            self._augmented = augmented.AugmentedPreprocessing(
                store, self.indices, format, seed=self.schedule.seed
            )
        self.preprocessing = self._augmented or Preprocessing(
            store, self.indices, format
        )
        warn_of_missing(self.preprocessing, stacklevel=3)
        if threads is None:
            threads = min(usable_cores(), MOST_DEFAULT_THREADS)
        self.threads = check_threads(threads)
        self.prefetch = whole_number("prefetch", prefetch, 1, MAX_PREFETCH)
        self.on_error = choice("on_error", on_error, ON_ERROR)
        self.return_params = true_or_false("return_params", return_params)
        if self.return_params and augment is None:
            raise OptionError(
                "return_params is given without augment: give both, or leave it out"
            )
        # Error text of each skipped sample, by its index.
        self.skipped: dict[int, str] = {}
        self._counters = Counters()
        preprocessing = self.preprocessing
        self.batch_size = self.schedule.batch_size
        count = self.schedule.largest_batch
        image = (count, *preprocessing.image_shape), preprocessing.image_dtype
        mask = (count, *preprocessing.mask_shape), preprocessing.mask_dtype
        # `prefetch` batches ahead, the one that the consumer waits for, and the one
        # that it uses.
        buffers = self.prefetch + 2
        self._pool = BufferPool([image, mask], buffers)
        preprocessing.streams = (
            buffers * count * preprocessing.sample_bytes > STREAM_FROM_BYTES
        )
        # Of loops; each reference removes itself when its pool is collected. Unlike
        # those of a WeakSet, all steps are single calls into C, which no interrupt
        # leaves half done.
        self._worker_pools: set[weakref.ref[WorkerPool[Any, Any]]] = set()
        # Epoch and batch at which the next loop starts.
        self._start = (0, 0)
        # Epoch and batch that follow the batch that the consumer got last.
        self._position = (0, 0)

    def __len__(self) -> int:
        return len(self.schedule)

    @once_made("_position")
    def __repr__(self) -> str:
        preprocessing = self.preprocessing
        schedule = self.schedule
        words = [
            f"{many(len(self.indices), 'sample')} in {many(len(self), 'batch')} of "
            f"{self.batch_size}"
        ]
        if schedule.world_size > 1:
            words.append(f"rank {schedule.rank} of {schedule.world_size}")
        words += [
            f"image {_describe(preprocessing.image_shape, preprocessing.image_dtype)}",
            f"mask {_describe(preprocessing.mask_shape, preprocessing.mask_dtype)} "
            f"({short(preprocessing.format.masks)})",
        ]
        if self._augmented is not None:
            steps = [type(step).__name__ for step in self._augmented.compose]
            words.append(f"augment {listed(steps)}")
        words.append(many(self.threads, "thread"))
        if self.store.state:
            words.append(f"store {self.store.state}")
        return f"<Loader of {short(self.store.path.name)}: {', '.join(words)}>"

    def __getitem__(self, index: object) -> Any:
        raise TypeError(
            "a Loader has no batch by number: next(iter(loader)) is one, for batch in "
            "loader all of an epoch, and store[k] is a sample"
        )

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next loop loads; may be set."""
        return self._start[0]

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._start = (whole_number("epoch", epoch, 0, 2**64 - 1), 0)
        self._position = self._start

    def __iter__(self) -> Iterator[Batch]:
        self.store.check()
        self._position = self._start
        return self._run()

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which `load_state_dict` resumes, a dict for JSON.

        The resumed loop starts with the batch after the one that the consumer got
        last, however many have been made ahead.
        """
        epoch, batch = self._position
        return {"epoch": epoch, "batch": batch, **self._identity}

    def load_state_dict(self, given: Mapping[str, Any]) -> None:
        """Make the next loop continue where `state_dict` was called.

        The batches are the same, bit for bit, whatever `threads` and `prefetch` are.
        A rank may load the state of any other rank. Raises StateError for a state of
        another store, seed or configuration.
        """
        self._start = state.parse_state(given, self._identity, len(self))
        self._position = self._start

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return state.identify(self.store, self.schedule, self.preprocessing.format)

    def replay(self, params: Mapping[str, Any]) -> Batch:
        """Make a batch again from its `params`.

        They may come from a loader of another store with the same transforms, if sample
        i of both shows the same anatomy, as in two sequences of one scan. Raises
        OptionError if they do not fit.
        """
        preprocessing = self._augmented
        if preprocessing is None:
            raise OptionError("replay needs a loader with augment")
        samples, drawn = preprocessing.parse_params(params)
        count = len(samples)
        low, high = (samples.min(), samples.max()) if count else (0, 0)
        if not 0 <= low <= high < len(self.store):
            raise OptionError(
                f"params hold samples {low} to {high}, expected 0 to "
                f"{len(self.store) - 1}"
            )
        image = np.empty((count, *preprocessing.image_shape), preprocessing.image_dtype)
        mask = np.empty((count, *preprocessing.mask_shape), preprocessing.mask_dtype)
        preprocessing.fill_drawn(samples, image, mask, drawn)
        return Batch(image, mask, samples, dict(params))

    def stats(self) -> Stats:
        """Return counts, times and the bottleneck of all loops so far."""
        return self._counters.stats(
            threads=self.threads,
            prefetch=self.prefetch,
            skipped=len(self.skipped),
            buffer_bytes=self._pool.total_bytes,
        )

    def close(self) -> None:
        """End all loops and free the unused buffers. The loader can still be used."""
        references = list(self._worker_pools)
        pools = [pool for pool in (each() for each in references) if pool is not None]
        for pool in pools:  # all, before an interrupt can come while waiting for one
            pool.end()
        for pool in pools:
            pool.close()
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
        # `missing` has its default filled in, so that the copy does not warn again.
        make = partial(
            Loader, **{**self._options, "missing": self.preprocessing.format.missing}
        )
        return make, (self.store,), (self._start, self._position)

    def __setstate__(self, positions: Any) -> None:
        self._start, self._position = positions

    def _run(self) -> Generator[Batch, None, None]:
        """Yield the batches of the next epoch, from the one on at which it starts.

        The epoch is used up when its first batch is asked for: Lightning calls `iter`
        twice before it trains, and drops the first iterator.
        """
        epoch, first = self._position = self._start
        self._start = (epoch + 1, 0)
        queue = BatchQueue(self.preprocessing, self._pool, self.threads, self._counters)
        pools = self._worker_pools
        pools.add(weakref.ref(queue.workers, pools.discard))
        with queue, queue:  # twice, see WorkerPool
            self._counters.start_loop()
            try:
                for pending in self._finished_batches(queue, epoch, first):
                    self._handle_failures(pending)
                    count = len(pending.samples) - len(pending.failures)
                    self._counters.add_batch(count)
                    if count:
                        yield self._deliver(pending)
                    else:
                        self._position = self._after(pending)
            finally:
                # Add the time since the last batch.
                self._counters.add_batch(0)

    def _deliver(self, pending: PendingBatch) -> Batch:
        """Return a finished batch, and move the position behind it at the last moment.

        So a batch that an interrupt takes away is not counted as one that the consumer
        got. The store is checked again, because the batch may be of bytes that have
        been changed after the check before it was made.
        """
        self.store.check()
        batch = self._with_params(pending.release(), pending.epoch)
        self._position = self._after(pending)
        return batch

    def _after(self, pending: PendingBatch) -> tuple[int, int]:
        """Return epoch and number of the batch that follows a batch."""
        after = pending.number + 1
        return (pending.epoch, after) if after < len(self) else (pending.epoch + 1, 0)

    def _finished_batches(
        self, queue: BatchQueue, epoch: int, first: int
    ) -> Iterator[PendingBatch]:
        """Yield each batch when it is finished and `prefetch` later ones are queued."""
        samples, bounds = self.schedule.epoch(epoch)
        requested = first  # batches before this one have been read ahead
        for k in range(first, len(self)):
            if self._counters.is_cold():
                start = max(requested, k)
                requested = min(k + READ_AHEAD_BATCHES, len(self))
                self.store.read_ahead(samples[bounds[start] : bounds[requested]])
            chosen = samples[bounds[k] : bounds[k + 1]].copy()
            queue.submit(PendingBatch(epoch, k, chosen))
            if len(queue) > self.prefetch:
                yield queue.pop()
        while len(queue):
            yield queue.pop()

    def _with_params(self, batch: Batch, epoch: int) -> Batch:
        if self._augmented is None or not self.return_params:
            return batch
        return replace(batch, params=self._augmented.describe(batch.index, epoch))

    def _handle_failures(self, pending: PendingBatch) -> None:
        """Raise the exception of the first failed sample, or add all to `skipped`."""
        if not pending.failures:
            return
        unchanged = self.store.is_unchanged
        fatal = [k for k, exc in pending.failures.items() if self._is_fatal(exc)]
        if fatal or not unchanged:
            first = min(fatal or pending.failures)
            exc = pending.failures[first]
            name = self.preprocessing.describe_sample(int(pending.samples[first]))
            exc.add_note(
                f"while making {name}, for batch {pending.number} of epoch "
                f"{pending.epoch}"
            )
            raise exc
        for k, exc in pending.failures.items():
            self.skipped[int(pending.samples[k])] = f"{type(exc).__name__}: {exc}"

    def _is_fatal(self, exc: BaseException) -> bool:
        return self.on_error == "raise" or not isinstance(exc, Exception)


def _describe(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{dtype.name} {'x'.join(map(str, shape))}"
