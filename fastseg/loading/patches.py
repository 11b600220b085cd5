"""PatchLoader: batches of patches of the volumes of a store."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastseg.calls import advise_attributes, check_call
from fastseg.choices import DTypeName
from fastseg.errors import OptionError, whole_number
from fastseg.loading.base import BatchLoader, OnError
from fastseg.loading.format import (
    MINIMUM,
    ZSCORE_OR_RAW,
    BatchFormat,
    Labels,
    Missing,
    PadValue,
)
from fastseg.loading.grids import find_grids
from fastseg.loading.normalization import Normalize, ValueStatistics
from fastseg.loading.patch_preprocessing import PatchPreprocessing
from fastseg.loading.placement import (
    CentredBy,
    PatchSchedule,
    Placement,
    entries_of,
    select_weights,
    volumes_of,
)
from fastseg.loading.preprocessing import warn_of_missing
from fastseg.loading.schedule import Together, Uneven, select_groups
from fastseg.paths import StrPath
from fastseg.reprs import many
from fastseg.store.reader import Store, as_store
from fastseg.store.selection import check_indices

if TYPE_CHECKING:
    from fastseg.augment import Compose, Transform


@advise_attributes(
    dataset="loader.store is the store, loader.volumes the volumes",
    num_workers="loader.threads is the number of threads",
    sampler="loader.schedule says which patches come when",
    batch_sampler="loader.schedule says which patches come when",
    set_epoch="set loader.epoch",
    transform="loader.preprocessing makes the patches",
    next="next(iter(loader)) is a batch, for batch in loader all of an epoch",
)
class PatchLoader(BatchLoader):
    """Iterates over patches of volumes; each `for` loop over it is one epoch.

    store      : a store, as `fastseg.open` returns it, or the path of one
    patch      : (slices, rows, columns) of a patch. A volume that is smaller along an
        axis lies in the middle of its patches; `pad_value` is around it. Along each
        axis, at least one volume must be as large
    spacing    : mm between the slices, rows and columns of a patch, or one number for
        all three: volumes are resampled to it when they are loaded. By default, each
        keeps its own
    indices    : indices of the samples to load, as `Store.select` and `Store.split`
        return them: all slices of the volumes; by default all samples

    Options of where patches lie:

    per_volume : patches of each volume in an epoch
    centred    : the probability that a patch is centred on a voxel of a class, or as
        near to it as the volume's border allows: on one of any class, as in 1/3; or of
        one class, as in ("heart", 0.5). With `masks` of one class, it is that class.
        The other patches, and those of volumes without such a voxel, lie anywhere in
        their volume, all positions alike
    centred_by : how the class of such a patch is drawn:
                 "class"   each class alike that has a voxel in the volume
                 "voxels"  a class with twice as many voxels twice as often
        Each voxel of the class in the volume is as likely as the others

    Options of the order, as those of `Loader`; an entry is a patch:

    batch_size, shuffle, seed, drop_last, rank, world_size, uneven, together

    weights    : how often each volume of the store comes, relative to the others, float
        (len(store.volumes),); 0 for never. An epoch has as many patches as without

    Options of images and masks, as those of `Loader`, but with volumes for samples:

    normalize  : "zscore", "percentile" and "window" scale each volume by the image
        values of all its slices, each rescaled as its DICOM file says; "foreground" is
        over all volumes that are loaded, or by the `value_statistics`
    window     : (centre, width) of "window", in image values
    percentiles : (lower, upper) of "percentile", from 0 to 100
    value_statistics : those of another loader, for "foreground"
    pad_value  : what lies around volumes: "minimum", the least value of the volume, or
        a number
    dtype      : "float32", "float16" or "raw"
    masks      : "labels"  uint8 (B, d, h, w): 0 background, k + 1 for class k
                 "bits"    the store's bit fields (B, d, h, w)
                 "onehot"  uint8 (B, K, d, h, w): a channel of 0 and 1 per class
                 a class   uint8 (B, d, h, w): 0 and 1
    priority   : classes from top to bottom, for "labels" where classes overlap
    missing    : what the mask shows for a class that nobody outlined in a volume. A
        class that is outlined on some slices is background on the others

    Options of augmentation:

    augment    : a Compose, transforms or a preset, of which "standard" is that of
        `augment.standard_3d`. Geometric transforms happen in the
        plane of the slices, about the centre of the patch, to all slices alike; what
        they show is what the slices have there, also beyond the patch. Flip("slices")
        reverses them, and Affine3D turns patches about any axis. Steps that
        change values have one set of parameters for a patch; those that look at
        neighbouring pixels (blur, low resolution, bias field) change slice by slice.
        Not Crop and Resize, which set a size
    labels, return_params : as those of `Loader`

    Options of the work, as those of `Loader`: threads, prefetch, on_error. `skipped`
    lists the volumes of patches that could not be read

    Batches have images (B, 1, d, h, w); `index` is the volume of each patch, and
    `corner` its first voxel there, counted at the spacing. Where a patch lies is a
    function of the seed, the epoch, its volume and its number among the volume's
    patches, not of the batch size or of other volumes. What `Loader` says of epochs,
    states, ranks, threads and errors holds here.

    Raises OptionError, MissingLabelsError or UnknownClassError for arguments that are
    invalid or do not fit the store, ArgumentError for those that do not exist, and what
    `fastseg.open` raises for a path.
    """

    _entry = "patch"
    preprocessing: PatchPreprocessing

    @check_call(pad="pad_value", workers="threads", patch_size="patch")
    def __init__(
        self,
        store: Store | StrPath,
        patch: tuple[int, int, int],
        *,
        indices: ArrayLike | None = None,
        spacing: float | tuple[float, float, float] | None = None,
        per_volume: int = 1,
        centred: float | tuple[str, float] = 1 / 3,
        centred_by: CentredBy = "class",
        batch_size: int = 2,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        uneven: Uneven = "split",
        weights: ArrayLike | None = None,
        together: Together | None = None,
        normalize: Normalize | None = ZSCORE_OR_RAW,
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
        self.volumes = _whole_volumes(store, indices)
        placement = Placement(**{f.name: options[f.name] for f in fields(Placement)})
        entries = entries_of(self.volumes, placement.per_volume)
        first = store.tables["volumes"]["first"][volumes_of(entries)]
        self.schedule = PatchSchedule(
            indices=entries,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
            uneven=uneven,
            weights=select_weights(store, entries, weights),
            groups=select_groups(store, first, together),
        )
        if isinstance(augment, str) and augment == "standard":
            grids = find_grids(store, self.volumes, placement.spacing)
            options = {**options, "augment": _standard(grids.spacing_mm[self.volumes])}
        format = BatchFormat(
            normalize_by="volume",
            **{
                f.name: options[f.name]
                for f in fields(BatchFormat)
                if f.name in options
            },
        )
        self.preprocessing = _make_preprocessing(
            store, self.volumes, format, placement, seed=self.schedule.seed
        )
        warn_of_missing(self.preprocessing, stacklevel=3)
        self._prepare(
            threads=threads,
            prefetch=prefetch,
            on_error=on_error,
            return_params=return_params,
        )

    def load_volume(self, volume: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return image and mask of a whole volume, with the values that patches have.

        volume : index of a volume of the store, also of one that is not loaded, such as
            one to validate on; "foreground" scales it as those that are

        The image is (1, D, H, W) and the mask (D, H, W), or (K, D, H, W) with "onehot":
        new arrays, not padded and not augmented. `fastseg.windows` divides the image
        into patches for prediction. Raises OptionError or MissingLabelsError for a
        volume that does not exist or that the loader's options do not fit, StoreError
        if the file has changed or the volume is damaged.
        """
        number = whole_number("volume", volume, 0, len(self.store.volumes) - 1)
        preprocessing = self.preprocessing
        if number not in self.volumes:
            preprocessing = self._preprocessing_of(number)
        return preprocessing.make_volume(number)

    def _preprocessing_of(self, volume: int) -> PatchPreprocessing:
        """Return what makes a volume as `preprocessing` makes those that are loaded."""
        format = replace(
            self.preprocessing.format,
            value_statistics=self.value_statistics,
            augment=None,
            pad_value=MINIMUM,  # nothing is padded
        )
        spacing = self.preprocessing.placement.spacing
        placement = Placement(patch=(1, 1, 1), centred=0, spacing=spacing)
        return _make_preprocessing(self.store, np.array([volume]), format, placement)


def _standard(spacing_mm: NDArray[np.float64]) -> "Compose":
    """Return the preset "standard" for volumes of these spacings, float64 (v, 3)."""
    from fastseg.augment import standard_3d
    from fastseg.augment.spatial import ANISOTROPIC

    ratios = np.sort(spacing_mm[:, 0] / spacing_mm[:, 1:].min(axis=1))
    return standard_3d(inplane=bool(ratios[len(ratios) // 2] > ANISOTROPIC))


def _whole_volumes(store: Store, indices: ArrayLike | None) -> NDArray[np.int64]:
    """Return the volumes whose slices are chosen, int64 (v,), ascending.

    Raises OptionError if there are other samples among them, or slices are lacking.
    """
    chosen = check_indices(store, indices)
    if not len(store.volumes):
        raise OptionError(
            f"{store.path} has no volumes, only single images: a Loader loads them"
        )
    volume = store.items["volume"][chosen]
    single = int((volume < 0).sum())
    if single:
        raise OptionError(
            f"{single} of {many(len(chosen), 'chosen sample')} are in no volume: "
            "choose those that are, as store.select(in_volume=True) does"
        )
    counts = np.bincount(volume, minlength=len(store.volumes))
    slices = store.tables["volumes"]["slices"]
    partial = np.flatnonzero((counts > 0) & (counts < slices))
    if partial.size:
        k = int(partial[0])
        raise OptionError(
            f"of volume {k}, {counts[k]} of {slices[k]} slices are chosen, expected "
            "all or none: choose by patient, series or volume, as store.split does"
        )
    return np.flatnonzero(counts)


def _make_preprocessing(
    store: Store,
    volumes: NDArray[np.int64],
    format: BatchFormat,
    placement: Placement,
    *,
    seed: int = 0,
) -> PatchPreprocessing:
    """Return the PatchPreprocessing that can make patches of volumes.

    Raises what it raises.
    """
    make = PatchPreprocessing
    grids = find_grids(store, volumes, placement.spacing)
    if format.augment is not None or not grids.are_stored(volumes).all():
        from fastseg.loading import augmented_patches  # 20 ms that plain ones save

        make = augmented_patches.AugmentedPatchPreprocessing
    return make(store, volumes, format, placement, seed=seed)
