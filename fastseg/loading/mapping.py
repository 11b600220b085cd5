"""All geometric transforms of a sample, combined into one mapping.

A mapping leads from pixels of the batch to points of the image: inner(bend(outer(p))).
outer and inner are affine; bend adds the displacement of an Elastic, if there is one.
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
    bent  : whether there is an Elastic between them
    sizes : int64 (b, 2), height and width of the images that it bends
    """

    inner: Matrices
    outer: Matrices
    bent: bool
    sizes: NDArray[np.int64]


class Frames:
    """Size, spacing and mapping of b samples after the transforms so far.

    height, width : int64 (b,), pixels
    spacing       : float64 (b, 2), millimetres between rows and between columns
    matrix        : float64 (b, 3, 3), mapping to the original image, or to the output
        of the Elastic if there was one
    full_matrix   : float64 (b, 3, 3), mapping to the original image in any case, as if
        there was no Elastic
    """

    def __init__(self, store: Store, samples: NDArray[np.int64]):
        shapes = np.array([b.shape for b in store.buckets.values()], np.int64)
        self.store = store
        self.samples = samples
        sizes = shapes[store.items["bucket"][samples]]
        self.height = sizes[:, 0].copy()
        self.width = sizes[:, 1].copy()
        self.spacing = store.items["spacing_mm"][samples].copy()
        self.matrix = _identities(len(samples))
        self.full_matrix = self.matrix

    def compose(self, matrix: Matrices, on: NDArray[np.bool_] | None = None) -> None:
        """Compose the mapping with that of one more transform.

        matrix : from points after the transform to points before it
        on     : samples to which the transform happens, by default all
        """
        if on is not None:
            matrix = np.where(on[:, None, None], matrix, np.eye(3))
        composed = self.matrix @ matrix
        if self.full_matrix is self.matrix:
            self.full_matrix = composed
        else:
            self.full_matrix = self.full_matrix @ matrix
        self.matrix = composed


def find_mapping(
    steps: Sequence[Transform],
    values: Sequence[Values],
    store: Store,
    samples: NDArray[np.int64],
    size: tuple[int, int] | None,
) -> tuple[Mappings, Frames]:
    """Return the mappings of all geometric transforms, and the frames after them.

    steps   : transforms; those that change intensities are skipped
    values  : the drawn parameters of each step for b samples
    samples : int64 (b,), indices in the store
    size    : (h, w) to which images are cropped or padded at the end, about their
        centre

    Raises OptionError if a Crop is larger than an image or a spacing is unknown.
    """
    frames = Frames(store, samples)
    inner = frames.matrix
    bent = False
    sizes = np.stack([frames.height, frames.width], axis=1)
    max_displacement = np.zeros(len(samples))  # pixels
    for step, value in zip(steps, values, strict=True):
        if isinstance(step, augment.Elastic):
            inner = frames.matrix
            bent = True
            frames.matrix = _identities(len(samples))
            sizes = np.stack([frames.height, frames.width], axis=1)
            max_displacement = np.where(value["on"], value["magnitude"], 0.0)
        elif isinstance(step, augment.Crop):
            _crop(frames, step, value, max_displacement)
        elif type(step) in _FUNCTIONS:
            _FUNCTIONS[type(step)](frames, step, value)
    if size is not None:
        _crop_or_pad(frames, size)
    return Mappings(inner=inner, outer=frames.matrix, bent=bent, sizes=sizes), frames


def _identities(count: int) -> Matrices:
    matrices = np.zeros((count, 3, 3))
    matrices.reshape(count, 9)[:, ::4] = 1
    return matrices


def _affine(frames: Frames, step: Any, values: Values) -> None:
    angle = np.radians(values["rotate"])
    tilt = np.tan(np.radians(values["shear"]))
    cos = np.cos(angle)
    sin = np.sin(angle)
    scale_x = values["scale"] * values["scale_x"]
    scale_y = values["scale"] * values["scale_y"]
    # The mapping undoes the rotation, then the shear, then the scale. y points down.
    matrix = _identities(len(angle))
    matrix[:, 0, 0] = (cos + tilt * sin) / scale_x
    matrix[:, 0, 1] = (tilt * cos - sin) / scale_x
    matrix[:, 1, 0] = sin / scale_y
    matrix[:, 1, 1] = cos / scale_y
    x = (frames.width - 1) / 2
    y = (frames.height - 1) / 2
    moved_x = x + values["translate_x"] * frames.width
    moved_y = y + values["translate_y"] * frames.height
    for axis, centre in enumerate((x, y)):
        mapped = matrix[:, axis, 0] * moved_x + matrix[:, axis, 1] * moved_y
        matrix[:, axis, 2] = centre - mapped
    frames.compose(matrix, values["on"])


def _flip(frames: Frames, step: Any, values: Values) -> None:
    axis = ("horizontal", "vertical").index(step.axis)
    matrix = _identities(len(frames.samples))
    matrix[:, axis, axis] = -1
    matrix[:, axis, 2] = (frames.width, frames.height)[axis] - 1
    frames.compose(matrix, values["on"])


def _rot90(frames: Frames, step: Any, values: Values) -> None:
    for quarter in range(1, 4):
        turned = values["on"] & (values["quarters"] >= quarter)
        matrix = np.zeros((len(turned), 3, 3))
        matrix[:, 0, 1] = -1
        matrix[:, 0, 2] = frames.width - 1
        matrix[:, 1, 0] = 1
        matrix[:, 2, 2] = 1
        frames.compose(matrix, turned)
        height, width = frames.height, frames.width
        frames.height = np.where(turned, width, height)
        frames.width = np.where(turned, height, width)
        frames.spacing = np.where(
            turned[:, None], frames.spacing[:, ::-1], frames.spacing
        )


def _resize(frames: Frames, step: Any, values: Values) -> None:
    height, width = step.size
    _scale(frames, frames.height / height, frames.width / width)
    frames.height, frames.width = (np.full_like(frames.height, n) for n in step.size)


def _resample(frames: Frames, step: Any, values: Values) -> None:
    unknown = np.flatnonzero(~np.isfinite(frames.spacing).all(axis=1))
    if unknown.size:
        raise OptionError(
            f"Resample: spacing_mm is {step.spacing_mm}, but sample "
            f"{frames.samples[unknown[0]]} has no spacing in the store; leave out the "
            "samples without spacing, or use Resize"
        )
    ratio = np.array(step.spacing_mm) / frames.spacing
    _scale(frames, ratio[:, 0], ratio[:, 1])
    for name, factor in (("height", ratio[:, 0]), ("width", ratio[:, 1])):
        size = np.rint(getattr(frames, name) / factor)
        setattr(frames, name, np.maximum(size, 1).astype(np.int64))
    frames.spacing = np.broadcast_to(step.spacing_mm, frames.spacing.shape).copy()


def _scale(frames: Frames, factor_y: Any, factor_x: Any) -> None:
    """Make pixels larger by these factors; the outer edges of the image stay."""
    matrix = _identities(len(frames.samples))
    for axis, factor in enumerate((factor_x, factor_y)):
        matrix[:, axis, axis] = factor
        matrix[:, axis, 2] = (factor - 1) / 2
    frames.compose(matrix)
    frames.spacing = frames.spacing * np.stack([factor_y, factor_x], axis=1)


def _crop(
    frames: Frames,
    step: augment.Crop,
    values: Values,
    max_displacement: NDArray[np.float64],
) -> None:
    height, width = step.size  # type: ignore[misc]
    small = np.flatnonzero((frames.height < height) | (frames.width < width))
    if small.size and not step.pad:
        first = small[0]
        raise OptionError(
            f"Crop: size is {step.size}, larger than sample {frames.samples[first]}, "
            f"which has {frames.height[first]}x{frames.width[first]} pixels at this "
            "step; use pad=True to put such images into the centre of the window"
        )
    boxes = None
    if step.where not in ("random", "center"):
        boxes = _bounding_boxes(frames, step, max_displacement)
    starts = []
    for axis, (surplus, name) in enumerate(
        ((frames.width - width, "across"), (frames.height - height, "down"))
    ):
        low = np.zeros_like(surplus)
        high = np.maximum(surplus, 0)
        if step.where == "center":
            low = high = high // 2
        elif boxes is not None:
            low, high = _range_of_starts(boxes[:, axis], (width, height)[axis], high)
        start = low + np.floor(values[name] * (high - low + 1)).astype(np.int64)
        # An image that is smaller than the window lies in its centre.
        starts.append(np.where(surplus < 0, -(-surplus // 2), start))
    _set_window(frames, starts[0], starts[1], (height, width))


def _bounding_boxes(
    frames: Frames, step: augment.Crop, max_displacement: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the bounding boxes of a class with their margin, float64 (b, 2, 2).

    The last two axes are (x, y) and (least, greatest); NaN for samples without the
    class.
    """
    k = frames.store.class_index(step.where)
    box = frames.store.items["bbox"][frames.samples, k].astype(np.float64)
    top, left, bottom, right = box.T
    x = np.stack([left, right - 1] * 2)
    y = np.stack([top, top, bottom - 1, bottom - 1])
    corners = np.stack([x, y, np.ones_like(x)], axis=1).transpose(2, 1, 0)
    moved = np.linalg.solve(frames.full_matrix, corners)[:, :2]
    margin = (step.margin + max_displacement)[:, None]
    ends = np.stack([moved.min(axis=2) - margin, moved.max(axis=2) + margin], axis=2)
    ends[bottom == top] = np.nan
    return ends


def _range_of_starts(
    ends: NDArray[np.float64], length: int, limit: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the least and greatest start of a window that contains an interval.

    ends  : float64 (b, 2), the intervals; a window may start anywhere if NaN
    limit : int64 (b,), the greatest start that is allowed

    If the interval is longer than the window, the window lies inside the interval.
    """
    missing = np.isnan(ends[:, 0])
    ends = np.where(missing[:, None], 0.0, ends)
    first = np.ceil(ends[:, 1]).astype(np.int64) - length + 1
    last = np.floor(ends[:, 0]).astype(np.int64)
    low = np.clip(np.minimum(first, last), 0, limit)
    high = np.clip(np.maximum(first, last), 0, limit)
    return np.where(missing, 0, low), np.where(missing, limit, high)


def _crop_or_pad(frames: Frames, size: tuple[int, int]) -> None:
    """Crop or pad about the centre, to the same pixels as without augmentation."""
    starts = [
        np.where(have >= want, (have - want) // 2, -((want - have) // 2))
        for have, want in ((frames.width, size[1]), (frames.height, size[0]))
    ]
    _set_window(frames, starts[0], starts[1], size)


def _set_window(frames: Frames, left: Any, top: Any, size: tuple[int, int]) -> None:
    if left.any() or top.any():
        matrix = _identities(len(frames.samples))
        matrix[:, 0, 2] = left
        matrix[:, 1, 2] = top
        frames.compose(matrix)
    frames.height, frames.width = (np.full_like(frames.height, n) for n in size)


# Functions that compose the mapping with a transform.
_FUNCTIONS = {
    augment.Affine: _affine,
    augment.Flip: _flip,
    augment.Rot90: _rot90,
    augment.Resize: _resize,
    augment.Resample: _resample,
}
