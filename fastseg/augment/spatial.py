"""Geometric transforms: they move pixels and contours."""

import math
from dataclasses import field
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fastseg.augment.base import (
    GeometricTransform,
    Range,
    Transform,
    Uniforms,
    Values,
    between,
    between_logs,
    check_choice,
    check_number,
    check_p_is_one,
    check_size,
    set_field,
    set_flags,
    set_ranges,
    set_symmetric,
    transform,
)
from fastseg.augment.mapping import Mappings, identities, pixel_ratios
from fastseg.bounds import MAX_GRID_CELLS, MAX_SPACING_RATIO
from fastseg.errors import OptionError, is_single, shown, whole_number

# The public transforms of this module; `Compose` takes those that are listed here.
__all__ = [
    "Affine",
    "Affine3D",
    "Crop",
    "Elastic",
    "Flip",
    "Resample",
    "Resize",
    "Rot90",
]

# Greatest displacement of a control point along an axis, in units of the spacing of the
# control points. A cubic B-spline field cannot fold below 1 / 2.0464 = 0.4887 (Choi &
# Lee, "Injectivity conditions of 2D and 3D uniform cubic B-spline functions", Graphical
# Models 62, 2000); a little less keeps its inverse smooth.
MAX_DISPLACEMENT = 0.48

# Of a volume whose slices are farther apart than this, in units of the distance between
# pixels, nnU-Net turns and scales patches in plane alone.
ANISOTROPIC = 3.0
# Axes of (z, y, x).
Z, Y, X = range(3)

Axis = Literal["horizontal", "vertical", "slices"]
AXES = get_args(Axis)
InPlane = Literal["anisotropic", "always", "never"]
IN_PLANE = get_args(InPlane)


@transform
class Affine(GeometricTransform):
    """Scale, shear and rotate about the centre of the image, in this order, then shift.

    rotate           : degrees, counter-clockwise
    scale            : factor along both axes, 0.001 to 1000; above 1 magnifies
    scale_x, scale_y : additional factor along one axis, 0.001 to 1000
    shear            : degrees by which vertical lines tilt, -80 to 80; positive angles
        move the top to the right
    translate_x      : fraction of the image's width, positive to the right
    translate_y      : fraction of the image's height, positive down
    in_mm            : whether angles are those in millimetres (default): a rotation
        is then rigid also where pixels are not square. If False, pixels count as
        squares
    p                : probability, by default 1

    All but in_mm and p are a range or a single number; the defaults change nothing. A
    single number n means (-n, n) for rotate, shear and the translations, and a constant
    for the scales. Scales are uniform in their logarithm, the others are uniform.

    The spacing is that of the image after the transforms before this one: Resample and
    Resize change it, Rot90 swaps it. Where the store has none, its pixels count as
    squares. Scales and translations are the same with both values of in_mm.
    """

    rotate: float | Range = 0.0
    scale: float | Range = 1.0
    scale_x: float | Range = 1.0
    scale_y: float | Range = 1.0
    shear: float | Range = 0.0
    translate_x: float | Range = 0.0
    translate_y: float | Range = 0.0
    in_mm: bool = True

    draws: ClassVar[int] = 8

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_symmetric(self, math.inf, "rotate", "translate_x", "translate_y")
        set_symmetric(self, 80.0, "shear")
        set_ranges(self, 1e-3, 1e3, "scale", "scale_x", "scale_y")
        set_flags(self, "in_mm")

    @property
    def needs_ratio(self) -> bool:
        """Whether it turns or shears in millimetres."""
        return self.in_mm and [self.rotate, self.shear] != [(0.0, 0.0), (0.0, 0.0)]

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on", and a parameter for each field by its name."""
        values = Transform.draw(self, uniforms)
        names = ("rotate", "shear", "translate_x", "translate_y")
        for k, name in enumerate(names, 1):
            values[name] = between(getattr(self, name), uniforms[:, k])
        for k, name in enumerate(("scale", "scale_x", "scale_y"), 1 + len(names)):
            values[name] = between_logs(getattr(self, name), uniforms[:, k])
        return values

    def extend(self, mappings: Mappings, values: Values) -> None:
        """Undo the shift, the rotation, the shear, and the scale; y points down.

        Raises OptionError if an image is turned or sheared in millimetres, and one of
        its spacings is more than MAX_SPACING_RATIO times the other.
        """
        angle = np.radians(values["rotate"])
        tilt = np.tan(np.radians(values["shear"]))
        cos = np.cos(angle)
        sin = np.sin(angle)
        scale_x = values["scale"] * values["scale_x"]
        scale_y = values["scale"] * values["scale_y"]
        matrix = mappings.identities()
        matrix[:, 0, 0] = (cos + tilt * sin) / scale_x
        matrix[:, 0, 1] = (tilt * cos - sin) / scale_x
        matrix[:, 1, 0] = sin / scale_y
        matrix[:, 1, 1] = cos / scale_y
        if self.needs_ratio:
            # From pixels to millimetres, and back after the rotation; exactly 1 if both
            # spacings are equal.
            ratio = _pixel_ratios(mappings)
            matrix[:, 0, 1] *= ratio
            matrix[:, 1, 0] /= ratio
        x = (mappings.width - 1) / 2
        y = (mappings.height - 1) / 2
        moved_x = x + values["translate_x"] * mappings.width
        moved_y = y + values["translate_y"] * mappings.height
        for axis, centre in enumerate((x, y)):
            mapped = matrix[:, axis, 0] * moved_x + matrix[:, axis, 1] * moved_y
            matrix[:, axis, 2] = centre - mapped
        mappings.compose(matrix, values["on"])


def _pixel_ratios(mappings: Mappings) -> NDArray[np.float64]:
    """Return how many times as high as wide pixels are, or raise OptionError."""
    ratios = pixel_ratios(mappings.spacing_mm)
    valid = (ratios >= 1 / MAX_SPACING_RATIO) & (ratios <= MAX_SPACING_RATIO)
    if not valid.all():
        first = int(np.argmin(valid))
        raise OptionError(
            f"Affine: sample {mappings.samples[first]} has pixels of "
            f"{mappings.spacing_mm[first].tolist()} mm at this step, expected one side "
            f"to be at most {MAX_SPACING_RATIO} times the other; leave the sample out "
            "if its spacing is wrong, or use in_mm=False"
        )
    return ratios


@transform
class Affine3D(GeometricTransform):
    """Scale a patch of a volume and turn it about any axis, in millimetres.

    It is scaled, then turned about the x, the y and the z axis, in this order, all
    about its centre. x runs along rows, y along columns, and z from slice to slice.

    rotate  : degrees about each axis that has no range of its own, by default 0
    rotate_x, rotate_y, rotate_z : degrees about one axis, counter-clockwise as seen
        along it; about z, that is on the screen
    scale   : factor along all axes, 0.001 to 1000; above 1 magnifies
    scale_x, scale_y, scale_z : additional factor along one axis, 0.001 to 1000
    inplane : which patches are turned about z and scaled along x and y alone:
        "anisotropic" (default), those of volumes whose slices are more than 3 times as
        far apart as pixels, which nnU-Net treats so; "always" or "never"
    p       : probability, by default 1

    A single number n means (-n, n) for rotations, and a constant for scales. Scales are
    uniform in their logarithm, rotations are uniform, each about its axis.

    Only a PatchLoader takes this transform. Labels are drawn from the contours, exactly
    in plane; if a patch is scaled along z, those of the nearest slice. A patch that is
    turned about x or y has the labels of the nearest stored voxels, and its values are
    interpolated linearly.
    """

    rotate: float | Range = 0.0
    rotate_x: float | Range | None = None
    rotate_y: float | Range | None = None
    rotate_z: float | Range | None = None
    scale: float | Range = 1.0
    scale_x: float | Range = 1.0
    scale_y: float | Range = 1.0
    scale_z: float | Range = 1.0
    inplane: InPlane = "anisotropic"

    draws: ClassVar[int] = 8
    in_space: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        turns = ("rotate_x", "rotate_y", "rotate_z")
        set_symmetric(self, math.inf, "rotate")
        for name in turns:
            if getattr(self, name) is None:
                set_field(self, name, self.rotate)
        set_symmetric(self, math.inf, *turns)
        set_ranges(self, 1e-3, 1e3, "scale", "scale_x", "scale_y", "scale_z")
        check_choice(self, "inplane", self.inplane, IN_PLANE)

    @property
    def tilts(self) -> bool:
        """Whether it turns patches about x or y."""
        turns = [self.rotate_x, self.rotate_y]
        return self.inplane != "always" and turns != [(0.0, 0.0), (0.0, 0.0)]

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on", and an angle or a factor for each field but `rotate`."""
        values = Transform.draw(self, uniforms)
        for k, name in enumerate(("rotate_x", "rotate_y", "rotate_z"), 1):
            values[name] = between(getattr(self, name), uniforms[:, k])
        for k, name in enumerate(("scale", "scale_x", "scale_y", "scale_z"), 4):
            values[name] = between_logs(getattr(self, name), uniforms[:, k])
        return values

    def extend(self, mappings: Mappings, values: Values) -> None:
        """Undo the rotations and the scale.

        Raises OptionError if a spacing of a volume is more than MAX_SPACING_RATIO times
        another one.
        """
        spacing = np.column_stack([mappings.between_mm, mappings.spacing_mm])
        _check_ratios(mappings, spacing)
        match self.inplane:
            case "anisotropic":
                flat = spacing[:, 0] > ANISOTROPIC * spacing[:, 1:].min(axis=1)
            case other:
                flat = np.full(len(spacing), other == "always")
        tilt_x, tilt_y = (
            np.where(flat, 0.0, values[name]) for name in ("rotate_x", "rotate_y")
        )
        scale_z = np.where(flat, 1.0, values["scale"] * values["scale_z"])
        scale_y, scale_x = (values["scale"] * values[f"scale_{axis}"] for axis in "yx")
        inverse = _turn(X, tilt_x) @ _turn(Y, tilt_y) @ _turn(Z, values["rotate_z"])
        inverse /= np.stack([scale_z, scale_y, scale_x], axis=1)[:, :, None]
        # From voxels to millimetres, and back; exactly 1 if spacings are equal.
        inverse *= spacing[:, None, :] / spacing[:, :, None]
        matrix = identities(len(spacing), 4)
        matrix[:, :3, :3] = inverse
        depth = np.full_like(mappings.height, mappings.depth)
        centre = (np.stack([depth, mappings.height, mappings.width], axis=1) - 1) / 2
        matrix[:, :3, 3] = centre - (inverse @ centre[:, :, None])[:, :, 0]
        mappings.compose_in_space(matrix, values["on"])


def _turn(axis: int, degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return matrices (b, 3, 3) that undo turns about an axis of (z, y, x).

    Turns are counter-clockwise as seen along the axis.
    """
    angle = np.radians(degrees)
    # The two other axes, as they are seen along this one: to the right and down.
    first, second = ((X, Y), (Z, X), (Y, Z))[axis]
    matrix = identities(len(angle), 3)
    matrix[:, first, first] = matrix[:, second, second] = np.cos(angle)
    matrix[:, first, second] = -np.sin(angle)
    matrix[:, second, first] = np.sin(angle)
    return matrix


def _check_ratios(mappings: Mappings, spacing: NDArray[np.float64]) -> None:
    """Raise OptionError if voxels are too long along one axis, float64 (b, 3)."""
    ratios = spacing.max(axis=1) / spacing.min(axis=1)
    wrong = np.flatnonzero(~(ratios <= MAX_SPACING_RATIO))
    if wrong.size:
        first = int(wrong[0])
        raise OptionError(
            f"Affine3D: sample {mappings.samples[first]} has voxels of "
            f"{spacing[first].tolist()} mm at this step, expected one side to be at "
            f"most {MAX_SPACING_RATIO} times another; leave its volume out if its "
            "spacing is wrong"
        )


@transform
class Flip(GeometricTransform):
    """Mirror the image.

    p    : probability, by default 0.5
    axis : "horizontal" (default) swaps left and right, "vertical" top and bottom;
        "slices" reverses the slices of a patch of a volume, or of a sample and its
        neighbours
    """

    p: float = 0.5
    axis: Axis = field(default="horizontal", kw_only=False)

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        if not isinstance(self.axis, str):
            raise OptionError(
                f"Flip: axis is {shown(self.axis)}, expected one of 'horizontal', "
                "'vertical', 'slices'; a probability has its name, as in Flip(p=0.5)"
            )
        check_choice(self, "axis", self.axis, AXES)

    def extend(self, mappings: Mappings, values: Values) -> None:
        """Mirror one axis."""
        if self.axis == "slices":
            if mappings.depth:
                matrix = np.diag([-1.0, 1.0, 1.0, 1.0])
                matrix[0, 3] = mappings.depth - 1
                mappings.compose_in_space(matrix, values["on"])
            return
        axis = AXES.index(self.axis)
        matrix = mappings.identities()
        matrix[:, axis, axis] = -1
        matrix[:, axis, 2] = (mappings.width, mappings.height)[axis] - 1
        mappings.compose(matrix, values["on"])


@transform
class Rot90(GeometricTransform):
    """Rotate by 90, 180 or 270 degrees, with equal probability.

    p : probability that the image is rotated, by default 1
    """

    draws: ClassVar[int] = 2

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "quarters", the number of counter-clockwise quarter turns."""
        quarters = 1 + np.floor(3 * uniforms[:, 1]).astype(np.int64)
        return {**Transform.draw(self, uniforms), "quarters": quarters}

    def extend(self, mappings: Mappings, values: Values) -> None:
        """Turn by one quarter up to three times; sizes and spacings swap each time."""
        for quarter in range(1, 4):
            turned = values["on"] & (values["quarters"] >= quarter)
            matrix = np.zeros((len(turned), 3, 3))
            matrix[:, 0, 1] = -1
            matrix[:, 0, 2] = mappings.width - 1
            matrix[:, 1, 0] = 1
            matrix[:, 2, 2] = 1
            mappings.compose(matrix, turned)
            height, width = mappings.height, mappings.width
            mappings.height = np.where(turned, width, height)
            mappings.width = np.where(turned, height, width)
            spacing = mappings.spacing_mm
            mappings.spacing_mm = np.where(turned[:, None], spacing[:, ::-1], spacing)


@transform
class Elastic(GeometricTransform):
    """Bend the image by a smooth random displacement field, a cubic B-spline.

    magnitude : greatest displacement of a control point along each axis, in pixels, at
        least 0; a range or a constant, by default (0, 8). The displacements of the
        control points are uniform between -magnitude and magnitude
    spacing   : distance between control points in pixels, 2 to 4096, by default 32. The
        magnitude may be at most 0.48 times this, because the field could fold beyond
    p         : probability, by default 1

    Pixels are those of the image after the transforms before this one.
    """

    magnitude: float | Range = field(default=(0.0, 8.0), kw_only=False)
    spacing: float = 32.0

    draws: ClassVar[int] = 2
    bends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        set_field(
            self, "spacing", check_number(self, "spacing", self.spacing, 2.0, 4096.0)
        )
        most = MAX_DISPLACEMENT * self.spacing
        set_ranges(self, 0.0, most, "magnitude")

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on" and "magnitude"; a kernel draws the control points."""
        return {
            **Transform.draw(self, uniforms),
            "magnitude": between(self.magnitude, uniforms[:, 1]),
        }

    def extend(self, mappings: Mappings, values: Values) -> None:
        """Bend the image by at most the magnitude."""
        mappings.bend(self.spacing, np.where(values["on"], values["magnitude"], 0.0))


@transform
class _Sized(GeometricTransform):
    """Base class of transforms that give all images the same size."""

    size: int | tuple[int, int] = field(kw_only=False)

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        check_p_is_one(self)
        set_field(self, "size", check_size(self, self.size))

    def output_size(self) -> tuple[int, int]:
        """Return (height, width)."""
        return self.size  # type: ignore[return-value]  # checked above


@transform
class Crop(_Sized):
    """Crop a window from the image.

    size   : (height, width) of the window in pixels, or one number for a square
    where  : "random" (default) or "center"; or the name of a class: a random window
        that contains the whole class and `margin` around it, as far as window and image
        are large enough; for a sample without pixels of the class, any window
    margin : pixels around the class, by default 0
    pad    : whether images may be smaller than the window; they then lie in its centre,
        and the `border` of Compose fills the rest. By default, such an image is an
        error

    Pixels outside the window are not lost: a later step, such as a rotation, may move
    them into view again. p must be 1.
    """

    where: str = "random"
    margin: int = 0
    pad: bool = False

    draws: ClassVar[int] = 3

    def __post_init__(self) -> None:
        _Sized.__post_init__(self)
        margin = whole_number("Crop: margin", self.margin, 0, MAX_GRID_CELLS)
        set_field(self, "margin", margin)
        set_flags(self, "pad")
        if not isinstance(self.where, str):
            raise OptionError(
                f"Crop: where is {shown(self.where)}, expected 'random', 'center' or "
                "the name of a class"
            )

    def draw(self, uniforms: Uniforms) -> Values:
        """Return "on", "across" and "down".

        "across" and "down" say where the window lies among all that `where` allows, as
        fractions in [0, 1): 0 is the leftmost and the topmost one.
        """
        return {
            **Transform.draw(self, uniforms),
            "across": uniforms[:, 1].copy(),
            "down": uniforms[:, 2].copy(),
        }

    def extend(self, mappings: Mappings, values: Values) -> None:
        """Move the window to the origin.

        Raises OptionError if an image is smaller than the window, unless `pad` is set,
        and UnknownClassError if `where` is no class.
        """
        height, width = size = self.output_size()
        small = np.flatnonzero((mappings.height < height) | (mappings.width < width))
        if small.size and not self.pad:
            first = small[0]
            raise OptionError(
                f"Crop: size is {size}, larger than sample {mappings.samples[first]}, "
                f"which has {mappings.height[first]}x{mappings.width[first]} pixels at "
                "this step; use pad=True to put such images into the centre of the "
                "window"
            )
        boxes = None
        if self.where not in ("random", "center"):
            boxes = self._bounding_boxes(mappings)
        starts = []
        for axis, (surplus, name) in enumerate(
            ((mappings.width - width, "across"), (mappings.height - height, "down"))
        ):
            low = np.zeros_like(surplus)
            high = np.maximum(surplus, 0)
            if self.where == "center":
                low = high = high // 2
            elif boxes is not None:
                length = (width, height)[axis]
                low, high = _range_of_starts(boxes[:, axis], length, high)
            start = low + np.floor(values[name] * (high - low + 1)).astype(np.int64)
            # An image that is smaller than the window lies in its centre.
            starts.append(np.where(surplus < 0, -(-surplus // 2), start))
        mappings.set_window(starts[0], starts[1], size)

    def _bounding_boxes(self, mappings: Mappings) -> NDArray[np.float64]:
        """Return the bounding boxes of a class with their margin, float64 (b, 2, 2).

        The last two axes are (x, y) and (least, greatest); NaN for samples without the
        class.
        """
        box = mappings.boxes(self.where).astype(np.float64)
        top, left, bottom, right = box.T
        x = np.stack([left, right - 1] * 2)
        y = np.stack([top, top, bottom - 1, bottom - 1])
        corners = np.stack([x, y, np.ones_like(x)], axis=1).transpose(2, 1, 0)
        moved = np.linalg.solve(mappings.matrix, corners)[:, :2]
        margin = (self.margin + mappings.max_displacement)[:, None]
        least, greatest = moved.min(axis=2) - margin, moved.max(axis=2) + margin
        ends: NDArray[np.float64] = np.stack([least, greatest], axis=2)
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


@transform
class Resize(_Sized):
    """Scale the image to a size, whatever its aspect ratio.

    size : (height, width) in pixels, or one number for a square

    The outer edges of the outermost pixels stay where they are, not their centres (as
    with align_corners=False in PyTorch). p must be 1.
    """

    def extend(self, mappings: Mappings, values: Values) -> None:
        """Scale both axes."""
        height, width = size = self.output_size()
        mappings.scale(mappings.height / height, mappings.width / width)
        mappings.set_size(size)


@transform
class Resample(GeometricTransform):
    """Scale the image to a pixel spacing in millimetres.

    spacing_mm : (between rows, between columns), 0.001 to 1000 mm, or one number for
        both

    The size of the image changes accordingly, rounded to whole pixels. The spacing of
    all images must be known. p must be 1.
    """

    spacing_mm: float | tuple[float, float] = field(kw_only=False)

    needs_spacing: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Transform.__post_init__(self)
        check_p_is_one(self)
        given = self.spacing_mm
        pair = (given, given) if is_single(given) else tuple(given)  # type: ignore[arg-type]
        if isinstance(given, set | frozenset | dict) or len(pair) != 2:
            raise OptionError(
                f"Resample: spacing_mm is {given!r}, expected one number or (between "
                "rows, between columns)"
            )
        checked = tuple(check_number(self, "spacing_mm", x, 1e-3, 1e3) for x in pair)
        set_field(self, "spacing_mm", checked)

    def extend(self, mappings: Mappings, values: Values) -> None:
        """Scale both axes.

        Raises OptionError if the spacing of a sample is unknown, or its image would
        have too many pixels or less than half of one.
        """
        unknown = np.flatnonzero(~mappings.has_spacing)
        if unknown.size:
            raise OptionError(
                f"Resample: spacing_mm is {self.spacing_mm}, but sample "
                f"{mappings.samples[unknown[0]]} has no spacing in the store; leave "
                "out the samples without spacing, or use Resize"
            )
        down, across = (np.array(self.spacing_mm) / mappings.spacing_mm).T
        sizes = (mappings.height / down, mappings.width / across)
        # The centre of a pixel twice as large as its image lies outside of the image.
        for wrong, expected, advice in (
            (
                sizes[0] * sizes[1] > MAX_GRID_CELLS,
                f"at most {MAX_GRID_CELLS}",
                "larger",
            ),
            (np.minimum(*sizes) < 0.5, "at least half a pixel a side", "smaller"),
        ):
            if wrong.any():
                first = int(np.argmax(wrong))
                spacing = mappings.spacing_mm[first].tolist()
                raise OptionError(
                    f"Resample: sample {mappings.samples[first]} has pixels of "
                    f"{spacing} mm and would become {sizes[0][first]:.3g}x"
                    f"{sizes[1][first]:.3g} pixels, expected {expected}; leave the "
                    f"sample out if its spacing is wrong, or give a {advice} spacing_mm"
                )
        mappings.scale(down, across)
        mappings.height, mappings.width = (
            np.maximum(np.rint(size), 1).astype(np.int64) for size in sizes
        )
        shape = mappings.spacing_mm.shape
        mappings.spacing_mm = np.broadcast_to(self.spacing_mm, shape)
