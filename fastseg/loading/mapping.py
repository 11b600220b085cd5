"""Where the pixels of a batch come from: all geometric steps of a sample as one.

A mapping leads from the batch to the image: inner(bend(outer(x, y))), of which outer
and inner are affine and bend adds the displacement of an Elastic, if there is one.
Points are (x, y), pixel centres at integers; matrices (b, 3, 3) act on (x, y, 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg import augment
from fastseg.augment.base import Transform, Values
from fastseg.errors import OptionError
from fastseg.store.reader import Store

Matrices = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mappings:
    """The mappings of b samples.

    inner, outer : float64 (b, 3, 3)
    bent  : whether there is an Elastic in between
    sizes : int64 (b, 2), height and width of the frame that it bends
    """

    inner: Matrices
    outer: Matrices
    bent: bool
    sizes: NDArray[np.int64]


class Frames:
    """What b samples have become so far.

    height, width : int64 (b,), pixels
    spacing       : float64 (b, 2), millimetres between rows and between columns
    matrix        : float64 (b, 3, 3), leads back to where it was set to identity last
    """

    def __init__(self, store: Store, samples: NDArray[np.int64]):
        shapes = np.array([b.shape for b in store.buckets.values()], np.int64)
        self.store, self.samples = store, samples
        sizes = shapes[store.items["bucket"][samples]]
        self.height, self.width = sizes[:, 0].copy(), sizes[:, 1].copy()
        self.spacing = store.items["spacing_mm"][samples].copy()
        self.matrix = _identities(len(samples))
        # The same, but never set back: an Elastic in between is left out of it.
        self.whole = self.matrix

    def follow(self, step: Matrices, where: NDArray[np.bool_] | None = None) -> None:
        """Add a step, given by the way back; only where it is on, if told so."""
        if where is not None:
            step = np.where(where[:, None, None], step, np.eye(3))
        joined = self.matrix @ step
        self.whole = joined if self.whole is self.matrix else self.whole @ step
        self.matrix = joined


def find_mapping(
    steps: Sequence[Transform],
    values: Sequence[Values],
    store: Store,
    samples: NDArray[np.int64],
    size: tuple[int, int] | None,
) -> tuple[Mappings, Frames]:
    """Return the mapping of all geometric steps, and the frames that they end in.

    values  : of each step, its parameters for b samples
    samples : int64 (b,), places in the store
    size    : (h, w) that images are cut or padded to at last, about their centre

    Raises OptionError where a Crop is larger than an image, or a spacing unknown.
    """
    frames = Frames(store, samples)
    inner, bent = frames.matrix, False
    sizes = np.stack([frames.height, frames.width], axis=1)
    reach = np.zeros(len(samples))
    for step, value in zip(steps, values, strict=True):
        if isinstance(step, augment.Elastic):
            inner, bent = frames.matrix, True
            frames.matrix = _identities(len(samples))
            sizes = np.stack([frames.height, frames.width], axis=1)
            reach = np.where(value["on"], value["magnitude"], 0.0)
        elif isinstance(step, augment.Crop):
            _crop(frames, step, value, reach)
        elif type(step) in _WAYS:
            _WAYS[type(step)](frames, step, value)
    if size is not None:
        _centre(frames, size)
    return Mappings(inner=inner, outer=frames.matrix, bent=bent, sizes=sizes), frames


def _identities(count: int) -> Matrices:
    matrices = np.zeros((count, 3, 3))
    matrices.reshape(count, 9)[:, ::4] = 1
    return matrices


def _affine(frames: Frames, step: Any, values: Values) -> None:
    angle, tilt = np.radians(values["rotate"]), np.tan(np.radians(values["shear"]))
    cos, sin = np.cos(angle), np.sin(angle)
    across = values["scale"] * values["scale_x"]
    down = values["scale"] * values["scale_y"]
    # Back: undo the turn, then the tilt, then the scale. Rows point down.
    matrix = _identities(len(angle))
    matrix[:, 0, 0] = (cos + tilt * sin) / across
    matrix[:, 0, 1] = (tilt * cos - sin) / across
    matrix[:, 1, 0], matrix[:, 1, 1] = sin / down, cos / down
    x, y = (frames.width - 1) / 2, (frames.height - 1) / 2
    moved_x = x + values["translate_x"] * frames.width
    moved_y = y + values["translate_y"] * frames.height
    for axis, centre in enumerate((x, y)):
        away = matrix[:, axis, 0] * moved_x + matrix[:, axis, 1] * moved_y
        matrix[:, axis, 2] = centre - away
    frames.follow(matrix, values["on"])


def _flip(frames: Frames, step: Any, values: Values) -> None:
    axis = ("horizontal", "vertical").index(step.axis)
    matrix = _identities(len(frames.samples))
    matrix[:, axis, axis] = -1
    matrix[:, axis, 2] = (frames.width, frames.height)[axis] - 1
    frames.follow(matrix, values["on"])


def _rot90(frames: Frames, step: Any, values: Values) -> None:
    for quarter in range(1, 4):
        turned = values["on"] & (values["quarters"] >= quarter)
        matrix = np.zeros((len(turned), 3, 3))
        matrix[:, 0, 1], matrix[:, 0, 2] = -1, frames.width - 1
        matrix[:, 1, 0] = matrix[:, 2, 2] = 1
        frames.follow(matrix, turned)
        height, width = frames.height, frames.width
        frames.height = np.where(turned, width, height)
        frames.width = np.where(turned, height, width)
        frames.spacing = np.where(
            turned[:, None], frames.spacing[:, ::-1], frames.spacing
        )


def _resize(frames: Frames, step: Any, values: Values) -> None:
    height, width = step.size
    _stretch(frames, frames.height / height, frames.width / width)
    frames.height, frames.width = (np.full_like(frames.height, n) for n in step.size)


def _resample(frames: Frames, step: Any, values: Values) -> None:
    unknown = np.flatnonzero(~np.isfinite(frames.spacing).all(axis=1))
    if unknown.size:
        raise OptionError(
            f"Resample: spacing_mm is {step.spacing_mm}, but sample "
            f"{frames.samples[unknown[0]]} has no spacing in the store; leave such "
            "samples out, or use Resize"
        )
    ratio = np.array(step.spacing_mm) / frames.spacing
    _stretch(frames, ratio[:, 0], ratio[:, 1])
    for name, factor in (("height", ratio[:, 0]), ("width", ratio[:, 1])):
        size = np.rint(getattr(frames, name) / factor)
        setattr(frames, name, np.maximum(size, 1).astype(np.int64))
    frames.spacing = np.broadcast_to(step.spacing_mm, frames.spacing.shape).copy()


def _stretch(frames: Frames, down: Any, across: Any) -> None:
    """Let a pixel be as large as so many; the image's outer edges stay."""
    matrix = _identities(len(frames.samples))
    for axis, factor in enumerate((across, down)):
        matrix[:, axis, axis] = factor
        matrix[:, axis, 2] = (factor - 1) / 2
    frames.follow(matrix)
    frames.spacing = frames.spacing * np.stack([down, across], axis=1)


def _crop(
    frames: Frames, step: augment.Crop, values: Values, reach: NDArray[np.float64]
) -> None:
    height, width = step.size  # type: ignore[misc]
    small = np.flatnonzero((frames.height < height) | (frames.width < width))
    if small.size and not step.pad:
        first = small[0]
        raise OptionError(
            f"Crop: size is {step.size}, larger than sample {frames.samples[first]}, "
            f"which has {frames.height[first]}x{frames.width[first]} pixels there; "
            "pad=True puts it into the centre"
        )
    boxes = (
        _boxes(frames, step, reach) if step.where not in ("random", "center") else None
    )
    starts = []
    for axis, (room, share) in enumerate(
        ((frames.width - width, "across"), (frames.height - height, "down"))
    ):
        low, high = np.zeros_like(room), np.maximum(room, 0)
        if step.where == "center":
            low = high = high // 2
        elif boxes is not None:
            low, high = _room_around(boxes[:, axis], (width, height)[axis], high)
        start = low + np.floor(values[share] * (high - low + 1)).astype(np.int64)
        starts.append(np.where(room < 0, -(-room // 2), start))  # stands in the centre
    _cut(frames, starts[0], starts[1], (height, width))


def _boxes(
    frames: Frames, step: augment.Crop, reach: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (b, 2, 2): least and greatest x, then y, of a class; NaN without it."""
    k = frames.store.class_index(step.where)
    box = frames.store.items["bbox"][frames.samples, k].astype(np.float64)
    top, left, bottom, right = box.T
    x, y = np.stack([left, right - 1] * 2), np.stack([top, top, bottom - 1, bottom - 1])
    corners = np.stack([x, y, np.ones_like(x)], axis=1).transpose(2, 1, 0)
    moved = np.linalg.solve(frames.whole, corners)[:, :2]
    margin = (step.margin + reach)[:, None]
    ends = np.stack([moved.min(axis=2) - margin, moved.max(axis=2) + margin], axis=2)
    ends[bottom == top] = np.nan
    return ends


def _room_around(
    ends: NDArray[np.float64], length: int, high: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the least and greatest start of a window that holds an interval.

    Of one that is longer than the window, it holds as much as it can.
    """
    none = np.isnan(ends[:, 0])
    ends = np.where(none[:, None], 0.0, ends)
    first = np.ceil(ends[:, 1]).astype(np.int64) - length + 1
    last = np.floor(ends[:, 0]).astype(np.int64)
    low, most = np.minimum(first, last), np.maximum(first, last)
    low, most = (np.clip(start, 0, high) for start in (low, most))
    return np.where(none, 0, low), np.where(none, high, most)


def _centre(frames: Frames, size: tuple[int, int]) -> None:
    """Cut or pad about the centre; halves go to the top left, as without transforms."""
    starts = [
        np.where(have >= want, (have - want) // 2, -((want - have) // 2))
        for have, want in ((frames.width, size[1]), (frames.height, size[0]))
    ]
    _cut(frames, starts[0], starts[1], size)


def _cut(frames: Frames, left: Any, top: Any, size: tuple[int, int]) -> None:
    if left.any() or top.any():
        matrix = _identities(len(frames.samples))
        matrix[:, 0, 2], matrix[:, 1, 2] = left, top
        frames.follow(matrix)
    frames.height, frames.width = (np.full_like(frames.height, n) for n in size)


_WAYS = {
    augment.Affine: _affine,
    augment.Flip: _flip,
    augment.Rot90: _rot90,
    augment.Resize: _resize,
    augment.Resample: _resample,
}
