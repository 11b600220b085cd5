"""Batch: the arrays that a loader yields, how they are unpacked and indexed."""

import operator
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from fastseg.calls import advise_attributes
from fastseg.errors import one_of
from fastseg.notebook import MAX_SAMPLES, Thumbnail, as_html, join_regions

# Of a batch; those of them that are arrays, and those that it may lack, as None.
FIELDS = ("image", "mask", "index", "corner", "is_beyond", "params")
ARRAYS = FIELDS[:5]
OPTIONAL = FIELDS[3:]


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
    corner: Any
    is_beyond: Any
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

        Without those that are None, which a dict to be collated must not hold.
        """
        return tuple(name for name in FIELDS if getattr(self, name) is not None)

    def arrays(self) -> tuple[str, ...]:
        """Return the names of the fields that are arrays, each with an axis of samples.

        image, mask and index are among them whatever somebody has put into the batch.
        """
        lacking = {name for name in OPTIONAL if getattr(self, name) is None}
        return tuple(name for name in ARRAYS if name not in lacking)

    def __repr__(self) -> str:
        count = getattr(self.index, "shape", ())[:1]
        size = " of {}".format(*count) if count else ""
        fields = [f"{name} {_describe(self[name])}" for name in ("image", "mask")]
        fields += [name for name in OPTIONAL if getattr(self, name) is not None]
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

    image  : float32 (B, 1, h, w), or of the loader's `dtype`; with n `neighbours`
        (B, 2n + 1, h, w), of patches (B, 1, d, h, w)
    mask   : of the shape and dtype that the loader's `masks` names
    index  : int64 (B,), the samples' indices in the store; of patches, the volumes'
    corner : int64 (B, 3), only of patches: slice, row and column of the first voxel of
        each in its volume; negative where the patch begins before the volume
    is_beyond : bool (B, 2n + 1), only of loaders with `neighbours`: which channels of
        the images are of no slice, because they lie beyond the volume
    params : the parameters that augmentation drew, if the loader has `return_params`:
        a dict for JSON and for `Loader.replay`

    `batch[0]` and `batch["image"]` are the image, `batch[1]` and `batch["mask"]` the
    mask, and `dict(batch)` has all fields that are not None; they may be assigned to.
    `len(batch)` is the number of samples B, although two arrays are unpacked: sample k
    is `batch.image[k]` and `batch.mask[k]`.

    The arrays are writable and support DLPack, so that other libraries can use them
    without a copy. Their memory is reused only when no array, view or tensor refers to
    it any more. For JAX, if it is imported, a batch is a pytree of its arrays.
    """

    image: NDArray[Any]
    mask: NDArray[Any]
    index: NDArray[np.int64]
    params: dict[str, Any] | None = None
    corner: NDArray[np.int64] | None = None
    is_beyond: NDArray[np.bool_] | None = None

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

    image : (B, C, h, w), the middle one of an odd number of channels is shown; of
        patches (B, 1, d, h, w), the middle slice
    mask  : (B, h, w) or (B, K, h, w), of the middle; or of all slices (B, K, C, h, w);
        of patches (B, d, h, w) or (B, K, d, h, w)
    index : (B,), indices in the store; of patches, those of volumes

    Of masks (B, C, h, w), which may be those of classes or of slices, nothing is shown.
    Yields nothing for anything else that somebody has put into the batch.
    """
    for array in (image, mask, index):
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            return
    noun = "sample"
    if image.ndim == 5 and image.shape[2] and mask.ndim in (4, 5):
        noun = "patch of volume"
        middle = image.shape[2] // 2
        if mask.shape[-3] != image.shape[2]:
            return
        image, mask = image[:, :, middle], mask[..., middle, :, :]
    if image.ndim != 4 or mask.ndim not in (3, 4, 5) or index.ndim != 1:
        return
    channels = image.shape[1]
    if not channels:
        return
    middle = channels // 2
    if mask.ndim == 5 and mask.shape[2] == channels:
        mask = mask[:, :, middle]
    elif mask.ndim == 4 and mask.shape[1] == channels > 1:
        mask = np.zeros_like(mask[:, middle])
    first = slice(MAX_SAMPLES)
    for pixels, labels, number in zip(
        image[first], mask[first], index[first], strict=False
    ):
        whole = np.nan_to_num(labels).astype(np.int64)
        if labels.ndim == 3:
            whole = join_regions(whole)
        if whole.shape == pixels[middle].shape:
            yield Thumbnail(pixels[middle], whole, f"{noun} {number}")


def _describe(value: Any) -> str:
    """Return dtype and shape of an array or tensor, else the name of its type."""
    if not (hasattr(value, "dtype") and hasattr(value, "shape")):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


class _Identity:
    """The names of a batch's arrays, and its params; equal if those are the same."""

    __slots__ = ("names", "value")

    def __init__(self, names: tuple[str, ...], value: Any):
        self.names = names
        self.value = value

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Identity)
            and self.names == other.names
            and self.value is other.value
        )

    def __hash__(self) -> int:
        return hash((self.names, id(self.value)))


@cache
def _register_with_jax() -> None:
    """Make a Batch a pytree of JAX, whose children are its arrays.

    Two batches have the same structure if their params are the same object, or both
    None. So a function that `jax.jit` compiled for one batch never returns its params
    for another.
    """
    from jax import tree_util

    def flatten(batch: Batch) -> tuple[list[Any], _Identity]:
        names = batch.arrays()
        return [batch[name] for name in names], _Identity(names, batch.params)

    def flatten_with_keys(batch: Batch) -> tuple[list[Any], _Identity]:
        children, identity = flatten(batch)
        keys = map(tree_util.GetAttrKey, identity.names)
        return list(zip(keys, children, strict=True)), identity

    def unflatten(identity: _Identity, children: Iterable[Any]) -> Batch:
        arrays = dict(zip(identity.names, children, strict=True))
        return Batch(**arrays, params=identity.value)

    tree_util.register_pytree_with_keys(Batch, flatten_with_keys, unflatten, flatten)
