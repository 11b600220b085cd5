"""Loader: batches of the samples of a store."""

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike, DTypeLike

from fastseg.calls import advise_attributes, check_call, refuse_renamed_attributes
from fastseg.choices import DTypeName
from fastseg.loading.base import BatchLoader, OnError
from fastseg.loading.format import (
    ZSCORE_OR_RAW,
    BatchFormat,
    Beyond,
    Labels,
    MasksOf,
    Missing,
    PadValue,
)
from fastseg.loading.normalization import Normalize, NormalizeBy, ValueStatistics
from fastseg.loading.preprocessing import Preprocessing, warn_of_missing
from fastseg.loading.schedule import (
    Schedule,
    Together,
    Uneven,
    select_foreground,
    select_groups,
    select_weights,
)
from fastseg.paths import StrPath
from fastseg.store.reader import Store, as_store
from fastseg.store.selection import check_indices

if TYPE_CHECKING:
    from fastseg.augment import Compose, Transform


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
class Loader(BatchLoader):
    """Iterates over a store in batches; each `for` loop over it is one epoch.

    Its samples are images, alone or with their neighbours; a PatchLoader loads patches
    of volumes.

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
    together   : "patient", "series" or "volume": the samples of each come one after
        another. A sample in no volume counts as one

    Options of images and masks:

    size       : (h, w) of the batches, or one number for a square: images are cropped
        or padded about their centre. By default that of the last Crop or Resize of
        `augment`, else that of the images, which must all have the same
    neighbours : number n of slices on each side of a sample, by rising position in its
        volume, that are channels of its image, too: (B, 2n + 1, h, w). They may be
        samples that are not in `indices`. Each channel is what the loader makes of that
        slice as a sample; `augment` changes all channels of an image alike
    beyond     : what neighbours are beyond the ends of a volume, and of samples in no
        volume: "nearest", the last slice there is, or "pad", an image of `pad_value`,
        whose "minimum" is that of the last slice. `batch.is_beyond` tells which
    masks_of   : which slices have masks: the "middle" one, which is the sample, or
        "all": masks then have an axis of 2n + 1 slices before h and w
    normalize  : "zscore"     mean 0 and standard deviation 1 of each image
                 "percentile" the `percentiles` of each image to 0 and 1, clipped
                 "window"     the DICOM window, or `window`, to 0 and 1, clipped
                 "foreground" mean 0 and standard deviation 1 of the pixels of any
                              class on all samples of `indices` together, clipped to
                              their 0.5th and 99.5th percentile, as nnU-Net scales CT
                 None         image values, rescaled as the DICOM file says; with
                              dtype "raw", where only None is allowed, stored values
    normalize_by : over what mean, deviation and percentiles are taken: each "image", or
        the image values of all slices of its "volume", also of those that are not in
        `indices`; the DICOM window is then that of the first slice. No effect with
        "foreground", a `window` that is given, and None
    window     : (centre, width) in image values: for "window" instead of those in the
        DICOM headers. Its ends, centre - width / 2 and centre + width / 2, become 0
        and 1
    percentiles : (lower, upper) of "percentile", two of those that the store holds; by
        volume, any two
    value_statistics : (mean, std, low, high) in image values, by which "foreground"
        scales instead of finding them on the samples: those of another loader, which
        has them under this name, so that validation is scaled as training is
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
        neighbours: int = 0,
        beyond: Beyond = "nearest",
        masks_of: MasksOf = "middle",
        normalize: Normalize | None = ZSCORE_OR_RAW,
        normalize_by: NormalizeBy = "image",
        window: tuple[float, float] | None = None,
        percentiles: tuple[float, float] = (1.0, 99.0),
        value_statistics: ValueStatistics | None = None,
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
        make = Preprocessing
        if format.augment is not None:
            from fastseg.loading import augmented  # 20 ms that plain batches save

            make = augmented.AugmentedPreprocessing
        self.preprocessing = make(store, self.indices, format, seed=self.schedule.seed)
        warn_of_missing(self.preprocessing, stacklevel=3)
        self._prepare(
            threads=threads,
            prefetch=prefetch,
            on_error=on_error,
            return_params=return_params,
        )
