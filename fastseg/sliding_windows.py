"""Whole volumes in order: windows that overlap, and their predictions joined again."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.arrays import as_array
from fastseg.calls import advise_attributes, check_call
from fastseg.errors import (
    OptionError,
    choice,
    in_order,
    is_iterable,
    is_single,
    real_number,
    shown,
    whole_number,
)
from fastseg.loading.format import MINIMUM, PadValue
from fastseg.loading.placement import Shape3, patch_shape
from fastseg.reprs import many
from fastseg.store.volumes import Volume

Weights = Literal["gaussian", "mean"]

WEIGHTS = get_args(Weights)
# Standard deviation of Gaussian weights as a fraction of the patch, as in nnU-Net and
# MONAI. On the rim of a patch they are at least exp(-8) along each axis, never 0.
SIGMA = 1 / 8
# How far a number of steps may exceed a whole number by rounding: 1 - 0.9 is
# 0.09999999999999998, and 10.000000000000002 steps are 10.
STEP_TOLERANCE = 1e-9


class Window(NamedTuple):
    """A window of a volume: where it lies, and what it shows.

    corner : index (z, y, x) in the volume of its first voxel; negative along an axis on
        which the volume is smaller than the patch, because it lies in the middle then
    patch  : values (d, h, w), or (C, d, h, w) of an image with channels; a read-only
        view of the image, or a copy if it is padded
    """

    corner: tuple[int, int, int]
    patch: NDArray[Any]


class _Axis(NamedTuple):
    """Windows along one axis of a volume.

    size   : voxels of the volume
    length : voxels of a window
    starts : first voxel of each window, rising; one negative number if size < length
    """

    size: int
    length: int
    starts: tuple[int, ...]

    def parts(self, k: int) -> tuple[slice, slice]:
        """Return the voxels of window k in the volume, and the same in the window."""
        start = self.starts[k]
        first = max(start, 0)
        last = min(start + self.length, self.size)
        return slice(first, last), slice(first - start, last - start)

    def weights(self, kind: Weights) -> list[NDArray[np.float64]]:
        """Return the weights of the voxels of each window that lie in the volume.

        Those of all windows add up to 1 in each voxel. A voxel in one window has
        exactly 1 there, as x / x is 1.
        """
        profile = np.ones(self.length)
        if kind == "gaussian":
            distance = np.arange(self.length) - (self.length - 1) / 2
            profile = np.exp(-0.5 * (distance / (SIGMA * self.length)) ** 2)
        parts = [self.parts(k) for k in range(len(self.starts))]
        total = np.zeros(self.size)
        for inside, within in parts:
            total[inside] += profile[within]
        return [profile[within] / total[inside] for inside, within in parts]


@advise_attributes(
    patches="windows[k].patch is one of them, batches(4) stacks them",
    slices="windows[k].corner is where window k begins, patch_shape its shape",
    starts="windows[k].corner is where window k begins",
    size="shape is that of the volume, patch_shape that of a window",
    patch="patch_shape is the shape, windows[k].patch the values of window k",
)
class Windows(Sequence[Window]):
    """The windows of a volume: z changes slowest, x fastest.

    shape       : (D, H, W) of the volume
    patch_shape : (d, h, w) of a window
    channels    : number of channels; None if the image has no such axis
    """

    __slots__ = ("_axes", "_image", "_pad", "channels", "patch_shape", "shape")

    def __init__(self, image: NDArray[Any], axes: tuple[_Axis, _Axis, _Axis], pad: Any):
        self.shape: Shape3 = (axes[0].size, axes[1].size, axes[2].size)
        self.patch_shape: Shape3 = (axes[0].length, axes[1].length, axes[2].length)
        self.channels = len(image) if image.ndim == 4 else None
        self._image = image
        self._axes = axes
        # What lies around the image: an array (C, 1, 1, 1), or one number.
        self._pad = pad

    def __len__(self) -> int:
        return math.prod(len(axis.starts) for axis in self._axes)

    @overload
    def __getitem__(self, index: int) -> Window: ...
    @overload
    def __getitem__(self, index: slice) -> list[Window]: ...
    def __getitem__(self, index: int | slice) -> Window | list[Window]:
        numbers = range(len(self))
        if isinstance(index, slice):
            return [self._window(k) for k in numbers[index]]
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            raise TypeError(
                f"windows are indexed by one whole number, not {type(index).__name__}"
            )
        try:
            return self._window(numbers[index])
        except IndexError:
            raise IndexError(
                f"window {shown(index)} is outside {many(len(self), 'window')}"
            ) from None

    def __iter__(self) -> Iterator[Window]:
        return map(self._window, range(len(self)))

    @check_call("windows.batches(4)")
    def batches(self, batch_size: int) -> Iterator[NDArray[Any]]:
        """Yield the patches in order, as arrays (batch_size, C, d, h, w).

        The last batch may have fewer. C is 1 if the image has no channels. Each batch
        is a copy, which may be written to.
        """
        size = whole_number("batch_size", batch_size, 1)
        return (
            self._batch(range(len(self))[first : first + size])
            for first in range(0, len(self), size)
        )

    def __repr__(self) -> str:
        channels = "" if self.channels is None else f"{many(self.channels, 'channel')} "
        return (
            f"<Windows: {len(self)} of {_by(self.patch_shape)} in "
            f"{channels}{_by(self.shape)} {self._image.dtype.name}>"
        )

    def _window(self, index: int) -> Window:
        numbers = self._numbers(index)
        parts = [a.parts(k) for a, k in zip(self._axes, numbers, strict=True)]
        z, y, x = (a.starts[k] for a, k in zip(self._axes, numbers, strict=True))
        inside, within = zip(*parts, strict=True)
        patch = self._image[(..., *inside)]
        if patch.shape[-3:] != self.patch_shape:
            padded = np.empty((*patch.shape[:-3], *self.patch_shape), patch.dtype)
            padded[...] = self._pad
            padded[(..., *within)] = patch
            patch = padded
        return Window((z, y, x), patch)

    def _batch(self, indices: range) -> NDArray[Any]:
        shape = (len(indices), self.channels or 1, *self.patch_shape)
        batch = np.empty(shape, self._image.dtype)
        for row, k in zip(batch, indices, strict=True):
            row[...] = self._window(k).patch
        return batch

    def _numbers(self, index: int) -> tuple[int, int, int]:
        """Return the numbers along each axis of a window."""
        _, rows, columns = (len(axis.starts) for axis in self._axes)
        row, x = divmod(index, columns)
        z, y = divmod(row, rows)
        return z, y, x


@check_call("fastseg.windows(volume, (32, 128, 128))")
def windows(
    image: Volume | ArrayLike,
    patch: Sequence[int],
    *,
    overlap: float | Sequence[float] = 0.5,
    pad_value: PadValue = MINIMUM,
) -> Windows:
    """Return the windows that cover a volume, in order.

    image     : a Volume, of which these are the stored values; or an array (D, H, W) or
        (C, D, H, W), which is not copied
    patch     : shape (d, h, w) of each window
    overlap   : fraction of the patch that neighbours share at least, to within a voxel,
        from 0 to less than 1; one number, or one for each axis
    pad_value : what lies around an image that is smaller than the patch: "minimum", the
        least value of each channel, or a number

    Along each axis, the first window begins with the volume, the last one ends with it,
    and the others lie evenly between, rounded to voxels. Where the volume is smaller
    than the patch, it lies in the middle of the only one. Raises OptionError.
    """
    array = _as_image(image)
    lengths = patch_shape(patch)
    fractions = _overlaps(overlap)
    z, y, x = (
        _Axis(size, length, _starts(size, length, fraction))
        for size, length, fraction in zip(
            array.shape[-3:], lengths, fractions, strict=True
        )
    )
    is_padded = any(axis.size < axis.length for axis in (z, y, x))
    return Windows(array, (z, y, x), _pad_of(array, pad_value, is_padded))


@check_call("fastseg.stitch(windows, predictions)")
def stitch(
    windows: Windows, predictions: Iterable[Any], *, weights: Weights = "gaussian"
) -> NDArray[np.float32]:
    """Return the predictions of all windows as one array of the volume's shape.

    windows     : what `fastseg.windows` returned
    predictions : of each window in order, floats (d, h, w) or (C, d, h, w); or of
        several in a batch (b, C, d, h, w). They are arrays, or tensors of any device,
        and are asked for one by one
    weights     : of a voxel in the windows that overlap there: "gaussian" falls
        towards the rim of a window, with a standard deviation of an eighth of its
        length; "mean" is 1

    The result is float32 (D, H, W), or (C, D, H, W). A voxel in one window has the
    value that was predicted there, to the last bit. Raises OptionError, also if there
    are fewer or more predictions than windows.
    """
    if not isinstance(windows, Windows):
        raise OptionError(
            f"windows is {shown(windows)}, expected what fastseg.windows returned"
        )
    if not is_iterable(predictions):
        raise OptionError(
            f"predictions is {shown(predictions)}, expected one for each window"
        )
    kind: Any = choice("weights", weights, WEIGHTS)
    factors = [axis.weights(kind) for axis in windows._axes]
    joined: NDArray[np.float32] | None = None
    done = 0
    for prediction in _one_by_one(predictions, windows.patch_shape):
        if done == len(windows):
            raise OptionError(f"there are more predictions than {done} windows")
        if joined is None:
            joined = np.zeros((*prediction.shape[:-3], *windows.shape), np.float32)
        if prediction.shape[:-3] != joined.shape[:-3]:
            raise OptionError(
                f"prediction {done} has shape {prediction.shape}, the first one has "
                f"{(*joined.shape[:-3], *windows.patch_shape)}"
            )
        numbers = windows._numbers(done)
        parts = [a.parts(k) for a, k in zip(windows._axes, numbers, strict=True)]
        inside, within = zip(*parts, strict=True)
        z, y, x = (w[k] for w, k in zip(factors, numbers, strict=True))
        _add(joined[(..., *inside)], prediction[(..., *within)], z, y, x)
        done += 1
    if joined is None or done < len(windows):
        raise OptionError(
            f"there are predictions for {done} of {many(len(windows), 'window')}, "
            "expected one for each"
        )
    return joined


def _as_image(given: Any) -> NDArray[Any]:
    """Return the values of a Volume or an array, or raise OptionError."""
    if isinstance(given, Volume):
        return given.image
    array = as_array(given, "image", kinds="biuf")
    if array.ndim not in (3, 4) or array.size == 0:
        raise OptionError(
            f"image has shape {array.shape}, expected a volume (D, H, W), or "
            "(C, D, H, W) with channels"
        )
    view = array.view()
    view.flags.writeable = False
    return view


def _overlaps(given: Any) -> tuple[float, ...]:
    """Return the overlap along each axis, or raise OptionError."""
    expected = "a number from 0 to less than 1, or one for each of three axes"
    try:
        z, y, x = (given,) * 3 if is_single(given) else in_order(given)
    except (TypeError, ValueError):
        raise OptionError(f"overlap is {shown(given)}, expected {expected}") from None
    fractions = tuple(real_number("overlap", part, expected) for part in (z, y, x))
    if not all(0 <= fraction < 1 for fraction in fractions):
        raise OptionError(f"overlap is {shown(given)}, expected {expected}")
    return fractions


def _starts(size: int, length: int, overlap: float) -> tuple[int, ...]:
    """Return where windows begin along an axis."""
    last = size - length
    if last <= 0:
        return (-(-last // 2),)
    steps = math.ceil(last / (length * (1 - overlap)) - STEP_TOLERANCE)
    count = min(steps, last) + 1
    return tuple(np.rint(np.linspace(0, last, count)).astype(np.int64).tolist())


def _pad_of(image: NDArray[Any], given: Any, is_padded: bool) -> Any:
    """Return what lies around an image: numbers of its dtype."""
    if isinstance(given, str) and given == MINIMUM:
        return image.min(axis=(-3, -2, -1), keepdims=True) if is_padded else 0
    number = real_number("pad_value", given, f"a number or {MINIMUM!r}")
    dtype = image.dtype
    if dtype.kind == "b":
        fits = number in (0, 1)
    elif dtype.kind == "f":
        fits = abs(number) <= float(np.finfo(dtype).max)
    else:
        limits = np.iinfo(dtype)
        fits = number.is_integer() and limits.min <= number <= limits.max
    if not fits:
        raise OptionError(f"pad_value is {number:g}, expected a value of {dtype.name}")
    return number if dtype.kind == "f" else int(number)


def _one_by_one(predictions: Iterable[Any], patch: Shape3) -> Iterator[NDArray[Any]]:
    """Yield the predictions of each window, also of those in batches."""
    done = 0
    for given in predictions:
        prediction = _as_floats(given, f"prediction {done}")
        if prediction.ndim not in (3, 4, 5) or prediction.shape[-3:] != patch:
            d, h, w = patch
            raise OptionError(
                f"prediction {done} has shape {prediction.shape}, expected "
                f"({d}, {h}, {w}), (C, {d}, {h}, {w}) or (b, C, {d}, {h}, {w})"
            )
        ones = prediction if prediction.ndim == 5 else (prediction,)
        yield from ones
        done += len(ones)


def _as_floats(given: Any, name: str) -> NDArray[Any]:
    """Return a prediction as an array of floats, or raise OptionError."""
    if hasattr(given, "detach"):  # a tensor, perhaps with a gradient or on a device
        given = given.detach().cpu()
        given = given.float() if given.is_floating_point() else given
    if isinstance(given, tuple):
        raise OptionError(f"{name} is a tuple, expected an array")
    array = as_array(given, name, kinds="biuf")
    if array.dtype.kind != "f":
        raise OptionError(
            f"{name} has dtype {array.dtype}, expected floats: the mean of labels is "
            "none, so take the largest class of what stitch returns"
        )
    return array


def _add(
    joined: NDArray[np.float32],
    prediction: NDArray[Any],
    z: NDArray[np.float64],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
) -> None:
    """Add a prediction to (..., d, h, w), with weights along each axis."""
    weights = (z[:, None, None] * (y[:, None] * x)).astype(np.float32)
    joined += prediction * weights


def _by(shape: Shape3) -> str:
    return "x".join(map(str, shape))
