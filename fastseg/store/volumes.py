"""Volumes of a store: the images of a series as one array, and where they lie."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from fastseg import geometry
from fastseg.calls import advise_attributes
from fastseg.errors import missing_extra, shown
from fastseg.geometry import Plane
from fastseg.notebook import MAX_SAMPLES, as_html
from fastseg.reprs import many, short
from fastseg.store.pixels import signed_view
from fastseg.store.selection import has_class
from fastseg.store.text import decode

if TYPE_CHECKING:
    import torch

    from fastseg.store.reader import Store


@advise_attributes(
    images="image is the whole volume, (D, H, W)",
    masks="mask is a bit field of all classes, mask_of(name) the mask of one",
    data="image is the whole volume, (D, H, W)",
    array="image is the whole volume, (D, H, W)",
    pixel_array="image is the whole volume, (D, H, W)",
    label="mask is a bit field of all classes, mask_of(name) the mask of one",
    labels="mask is a bit field of all classes, mask_of(name) the mask of one",
    segmentation="mask is a bit field of all classes, mask_of(name) the mask of one",
    outlined="labelled is a bit field of the classes with a contour, slice by slice",
    modalities="modality is that of its series",
    slices="samples has the indices of the slices, store[k] is one of them",
    spacing="spacing_mm is that between slices, rows and columns",
    zooms="spacing_mm is that between slices, rows and columns",
    origin="affine maps indices to mm, planes[0].origin is the first slice's",
    direction="affine maps indices to mm, planes[0] has the directions",
    meta="store[k].meta holds what the store knows of slice k of `samples`",
)
class Volume:
    """A volume of a store: slices of one series that are parallel and evenly spaced.

    Arrays have the axes (slice, row, column), and slices are in rising position along
    their normal. They are read-only views of the file; those of a compressed store are
    decompressed by each access.
    """

    __slots__ = ("_store", "index")

    def __init__(self, store: "Store", index: int):
        self._store = store
        self.index = index

    def __getitem__(self, name: object) -> Any:
        raise TypeError(
            f"a volume has no [{shown(name)}]: volume.image is the array, volume.mask "
            "the masks, and its slices are the samples store[k] for k in volume.samples"
        )

    def __len__(self) -> int:
        return int(self._value("slices"))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of slices, rows and columns (D, H, W)."""
        height, width = self._store.buckets[self._bucket].shape
        return len(self), height, width

    @property
    def samples(self) -> range:
        """Indices of its samples in the store, slice by slice."""
        first = int(self._value("first"))
        return range(first, first + len(self))

    @property
    def image(self) -> NDArray[Any]:
        """Stored values (D, H, W), read-only."""
        self._store.check()
        return self._store._pixels.images_of(self.samples)

    @property
    def mask(self) -> NDArray[Any]:
        """Bit fields (D, H, W), read-only: bit k is set where class k covers."""
        self._store.check()
        return self._store._pixels.masks_of(self.samples)

    def mask_of(self, name: str) -> NDArray[np.bool_]:
        """Return one class's mask, bool (D, H, W), or raise UnknownClassError."""
        mask = self.mask
        bit = mask.dtype.type(1 << self._store.class_index(name))
        covered: NDArray[np.bool_] = (mask & bit) != 0
        return covered

    def tensor(self) -> "torch.Tensor":
        """Return the stored values as a tensor (D, H, W) that may be written to.

        It is a view of the file, without a copy: a page that is written to becomes one
        first, so that the file stays as it is, and so do other arrays and tensors. The
        values of a compressed store are decompressed. The dtype is that of `image`.

        Raises MissingExtraError without torch.
        """
        torch = _import_torch("Volume.tensor")
        self._store.check()
        return torch.from_numpy(
            self._store._pixels.images_of(self.samples, writable=True)
        )

    def mask_tensor(self) -> "torch.Tensor":
        """Return the bit fields as a tensor (D, H, W) that may be written to.

        As `tensor` does for the stored values. If there are more than 8 classes, they
        are int16, int32 or int64 with the same bits, because torch cannot shift
        unsigned integers wider than 8 bits.
        """
        torch = _import_torch("Volume.mask_tensor")
        self._store.check()
        masks = self._store._pixels.masks_of(self.samples, writable=True)
        return torch.from_numpy(signed_view(masks))

    @property
    def contours(self) -> tuple[dict[str, list[NDArray[np.float64]]], ...]:
        """The rings of each slice by class, as `Sample.contours` has those of one."""
        return tuple(self._store[k].contours for k in self.samples)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that have a contour on any slice."""
        labelled = np.bitwise_or.reduce(self.labelled)
        names = enumerate(self._store.classes)
        return tuple(name for k, name in names if has_class(labelled, k))

    @property
    def labelled(self) -> NDArray[Any]:
        """Bit fields (D,), read-only: bit k is set where class k has a contour.

        On the other slices, the mask of class k is 0 because nobody outlined it.
        """
        return self._column("labelled")

    @property
    def modality(self) -> str:
        """Modality, as in "MR", of its first slice; "" if unknown."""
        (text,) = decode(self._store, self._column("modality")[:1].tolist())
        return text

    @property
    def patient(self) -> str:
        """ID of the patient."""
        return self._text("patient")

    @property
    def series(self) -> str:
        """SeriesInstanceUID, "" if the images have none."""
        return self._text("series")

    @property
    def time(self) -> float | None:
        """The time that tells it apart from other volumes of its series, or None.

        Times of a series are counted from 0.
        """
        time = float(self._value("time"))
        return None if np.isnan(time) else time

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distances in mm between slices, between rows and between columns."""
        rows, columns = self._column("spacing_mm")[0].tolist()
        return float(self._value("spacing_mm")), rows, columns

    @property
    def affine(self) -> NDArray[np.float64]:
        """Float64 (4, 4): from the index of a voxel to its centre in the patient.

        It times (slice, row, column, 1), the index in `image`, is (x, y, z, 1) in mm,
        in the patient's coordinate system of DICOM, which is LPS: its x axis points to
        the left, its y axis to the back and its z axis to the head.
        """
        return geometry.volume_affine(
            self._column("origin_mm"),
            self._column("directions")[0],
            self._column("spacing_mm")[0],
        )

    def plane(self, k: int) -> Plane:
        """Return the plane of slice k, counted from 0."""
        if isinstance(k, bool) or not hasattr(k, "__index__"):
            raise TypeError(
                f"slices of a volume are numbered, expected a whole number, not "
                f"{type(k).__name__}"
            )
        try:
            item = self.samples[k]
        except IndexError:
            count = many(len(self), "slice")
            raise IndexError(
                f"slice {shown(k)} is outside volume {self.index}, which has {count}"
            ) from None
        items = self._store.items
        return Plane(
            origin=items["origin_mm"][item],
            row_direction=items["directions"][item, :3],
            column_direction=items["directions"][item, 3:],
            spacing_mm=items["spacing_mm"][item],
        )

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes of all slices."""
        return tuple(self.plane(k) for k in range(len(self)))

    def __repr__(self) -> str:
        store = self._store
        name = f"{self.index} of {short(store.name)}"
        if store.state:
            return f"<Volume {name}, which is {store.state}>"
        bucket = store.buckets[self._bucket]
        patient = bytes(self._value("patient")).decode("utf-8", "backslashreplace")
        words = [
            f"{'x'.join(map(str, self.shape))} {bucket.dtype.name}",
            f"{' x '.join(f'{mm:.4g}' for mm in self.spacing_mm)} mm",
            f"patient {short(patient)}",
        ]
        if self.time is not None:
            words.append(f"time {self.time:g}")
        return f"<Volume {name}: {', '.join(words)}>"

    def _repr_html_(self) -> str:
        store = self._store
        if store.state:
            return as_html(repr(self), ())
        shown = np.linspace(0, len(self) - 1, min(MAX_SAMPLES, len(self)))
        samples = [store[self.samples[round(k)]] for k in shown.tolist()]
        thumbnails = (sample._thumbnail() for sample in samples)
        return as_html(repr(self), thumbnails, store.classes)

    @property
    def _bucket(self) -> str:
        """Name of its bucket."""
        name: str = self._store._bucket_names[self._column("bucket")[0]]
        return name

    def _column(self, name: str) -> NDArray[Any]:
        """Return the rows of its samples in a column of /items."""
        samples = self.samples
        column: NDArray[Any] = self._store.items[name][samples.start : samples.stop]
        return column

    def _value(self, name: str) -> Any:
        """Return its row of a column of /volumes."""
        return self._store.tables["volumes"][name][self.index]

    def _text(self, name: str) -> str:
        (text,) = decode(self._store, [self._value(name)])
        return text


def _import_torch(purpose: str) -> Any:
    """Return torch, or raise MissingExtraError."""
    try:
        import torch
    except ModuleNotFoundError as exc:
        raise missing_extra(purpose, "torch") from exc
    return torch


@advise_attributes(
    items="each volume has patient, series, time, spacing_mm and samples",
    image="store.volumes[k].image is that of volume k",
    mask="store.volumes[k].mask is that of volume k",
    shape="store.volumes[k].shape is that of volume k, len(store.volumes) their number",
)
class VolumeSequence(Sequence[Volume]):
    """The volumes of a store, made when they are asked for."""

    __slots__ = ("_store",)

    def __init__(self, store: "Store"):
        self._store = store

    def __len__(self) -> int:
        return len(self._store.tables["volumes"]["first"])

    @overload
    def __getitem__(self, index: int) -> Volume: ...
    @overload
    def __getitem__(self, index: slice) -> list[Volume]: ...
    def __getitem__(self, index: int | slice) -> Volume | list[Volume]:
        numbers = range(len(self))
        if isinstance(index, slice):
            return [Volume(self._store, k) for k in numbers[index]]
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            raise TypeError(
                f"volumes are indexed by one whole number, not {type(index).__name__}"
            )
        try:
            return Volume(self._store, numbers[index])
        except IndexError:
            count = many(len(self), "volume")
            raise IndexError(
                f"volume {shown(index)} is outside a store of {count}"
            ) from None

    def __iter__(self) -> Iterator[Volume]:
        return (Volume(self._store, k) for k in range(len(self)))

    def __repr__(self) -> str:
        name = short(self._store.name)
        if self._store.state:
            return f"<Volumes of {name}, which is {self._store.state}>"
        return f"<{many(len(self), 'volume')} of {name}>"


def samples_of_volumes(
    store: "Store", volumes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the slices of volumes, one volume after the other, int64 (n,).

    volumes : int64 (v,), indices of volumes

    Also returns the index in the result of the first slice of each volume, int64 (v,).
    """
    table = store.tables["volumes"]
    counts = table["slices"][volumes]
    first = np.cumsum(counts) - counts
    samples = np.repeat(table["first"][volumes] - first, counts)
    return samples + np.arange(len(samples)), first
