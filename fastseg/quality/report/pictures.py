"""Pictures of findings: pixels as JPEG, contours as paths of SVG over them.

An outline stays sharp however much it is enlarged, and can be switched off to see what
it hides. Coordinates of paths count tenths of a pixel of the page.
"""

import io
from base64 import b64encode
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.pictures.view import aspect_of
from fastseg.pictures.window import Limits, find_limits, to_grey
from fastseg.quality.findings import Finding
from fastseg.quality.report.panels import (
    Box,
    Panel,
    choose_panels,
    rings_of,
    shape_of,
)
from fastseg.store.reader import Store

# The longer side of a picture on the page, in pixels of CSS.
LARGE, SMALL = 372, 182
# A picture that would be longer than wide by more than this is drawn wider, or it would
# vanish, and so for wide ones.
LONGEST = 12
# Units of paths in one of these pixels.
UNITS = 10
# Vertices farther outside a picture are moved to this distance, in its own sides.
FAR = 4
# A vertex is left out if that moves the outline by no more than this, in units, and so
# on, several times: by half a pixel at most.
NEAR, PASSES = 1.0, 5


class Quality(NamedTuple):
    """Longer sides of large and small pictures in pixels of the file, and JPEG's own.

    No image is enlarged.
    """

    large: int
    small: int
    quality: int


# The first one with which the pictures of a finding are small enough is taken. WebP
# would take a quarter less space, but seven times the time.
QUALITIES = (
    Quality(2 * LARGE, 2 * SMALL, 93),
    Quality(LARGE, SMALL, 88),
    Quality(300, 160, 84),
    Quality(240, 128, 78),
    Quality(180, 96, 70),
    Quality(120, 72, 50),
    Quality(80, 48, 30),
)


class Outline(NamedTuple):
    """The rings of a class on a picture, as a path of SVG."""

    klass: int
    is_concerned: bool
    path: str


class Picture(NamedTuple):
    """A picture as the page shows it; lengths of `outlines` and so on are in units.

    image  : a data URI
    width, height : on the page, in pixels of CSS
    edge   : path of the edge of the image, "" if that is not in the picture
    frame  : x, y, width and height of a rectangle
    """

    image: str
    width: int
    height: int
    caption: str
    is_large: bool
    outlines: list[Outline]
    marks: list[tuple[int, int]]
    edge: str
    frame: tuple[int, int, int, int] | None

    @property
    def size(self) -> int:
        """About the number of bytes on the page."""
        return len(self.image) + sum(len(x.path) + 60 for x in self.outlines) + 400


class Pictures(NamedTuple):
    """The pictures of a finding, and the classes that are outlined on them."""

    pictures: list[Picture]
    classes: list[int]


def draw_finding(store: Store, finding: Finding, budget: int) -> Pictures:
    """Return the pictures of a finding, in about `budget` bytes at most."""
    panels = choose_panels(store, finding)
    pixels = [_grey_of(store, panel, panels[0].box) for panel in panels]
    bare = [_draw(store, finding, panel) for panel in panels]
    pictures: list[Picture] = []
    for quality in QUALITIES:
        pictures = [
            picture._replace(image=_encoded(grey, picture.is_large, quality))
            for picture, grey in zip(bare, pixels, strict=True)
        ]
        if sum(picture.size for picture in pictures) <= budget:
            break
    classes = {x.klass for picture in pictures for x in picture.outlines}
    return Pictures(pictures, sorted(classes))


def _grey_of(store: Store, panel: Panel, main: Box) -> NDArray[np.uint8]:
    """Return what a picture shows of an image, uint8 (h, w), black beyond it."""
    sample = store[panel.sample]
    image, meta = sample.image, sample.meta
    limits = _limits(image, meta, main)
    slope, intercept = meta["slope"], meta["intercept"]
    black, white = ((value - intercept) / slope for value in limits)
    step = max(1, max(panel.box.width, panel.box.height) // (2 * QUALITIES[0].large))
    inner = _cut(image, panel.box)
    grey: NDArray[np.uint8] = to_grey(inner[::step, ::step], black, white)[..., 0]
    if inner.shape == (panel.box.height, panel.box.width):
        return grey
    box = panel.box
    padded = np.zeros((-(-box.height // step), -(-box.width // step)), np.uint8)
    top, left = max(-box.top, 0) // step, max(-box.left, 0) // step
    height, width = (min(n, m) for n, m in zip(grey.shape, padded.shape, strict=True))
    padded[top : top + height, left : left + width] = grey[
        : padded.shape[0] - top, : padded.shape[1] - left
    ]
    return padded


def _limits(image: NDArray[Any], meta: dict[str, Any], main: Box) -> Limits:
    """Return the image values that are black and white: by what the crop shows."""
    shown = _cut(image, main)
    return find_limits("auto", meta, shown if shown.size else image)


def _cut(image: NDArray[Any], box: Box) -> NDArray[Any]:
    rows = slice(max(box.top, 0), max(box.bottom, 0))
    return image[rows, max(box.left, 0) : max(box.right, 0)]


def _draw(store: Store, finding: Finding, panel: Panel) -> Picture:
    """Return a picture without pixels."""
    box = panel.box
    aspect = aspect_of(store.items["spacing_mm"][panel.sample])
    side = LARGE if panel.is_large else SMALL
    in_mm = np.array([box.width, box.height * aspect])
    width, height = np.rint(in_mm * side / in_mm.max()).clip(side / LONGEST).astype(int)
    scale = np.array([width / box.width, height / box.height]) * UNITS
    origin = np.array([box.left, box.top]) - 0.5
    far = FAR * UNITS * side

    def place(points: Any) -> NDArray[np.int64]:
        placed = (np.asarray(points, np.float64).reshape(-1, 2) - origin) * scale
        whole: NDArray[np.int64] = np.rint(placed.clip(-far, far)).astype(np.int64)
        return whole

    frame = None
    if panel.frame:
        corners = np.array(panel.frame).reshape(2, 2) - 0.5
        (x, y), (right, bottom) = place(corners).tolist()
        frame = (x, y, right - x, bottom - y)
    shape = shape_of(store, panel.sample)
    edge = ""
    if box.left < 0 or box.top < 0 or box.right > shape[1] or box.bottom > shape[0]:
        x, y = shape[1] - 0.5, shape[0] - 0.5
        corners = np.array([(-0.5, -0.5), (x, -0.5), (x, y), (-0.5, y)])
        (edge,) = paths_of(place(corners), np.array([len(corners)]))
    return Picture(
        image="",
        width=int(width),
        height=int(height),
        caption=panel.caption,
        is_large=panel.is_large,
        outlines=_outlines(store, finding, panel, place),
        marks=[(x, y) for x, y in place(panel.marks).tolist()],
        edge=edge,
        frame=frame,
    )


def _outlines(
    store: Store, finding: Finding, panel: Panel, place: Any
) -> list[Outline]:
    """Return the outlines on a picture, those that the finding is about on top."""
    low, high = np.array(panel.box).reshape(2, 2)
    rings = [
        (row, k, ring)
        for row, k, ring in rings_of(store, panel.sample)
        if (ring.max(axis=0) >= low).all() and (ring.min(axis=0) <= high).all()
    ]
    if not rings:
        return []
    named = {row for row, *_ in rings} & set(finding.rings)
    classes = {store.class_index(name) for name in finding.classes}
    sizes = np.array([len(ring) for *_, ring in rings])
    drawn = paths_of(place(np.concatenate([ring for *_, ring in rings])), sizes)
    paths: dict[tuple[bool, int], list[str]] = {}
    for (row, k, _), path in zip(rings, drawn, strict=True):
        is_concerned = row in named if named else k in classes
        paths.setdefault((is_concerned, k), []).append(path)
    return [
        Outline(k, is_concerned, "".join(parts))
        for (is_concerned, k), parts in sorted(paths.items())
    ]


def paths_of(points: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[str]:
    """Return closed rings as paths of SVG, without vertices that nobody would see.

    points : int64 (n, 2), of all rings, one behind the other
    sizes  : int64 (r,), how many each has
    """
    ring = np.repeat(np.arange(len(sizes)), sizes)
    is_first = np.append(True, ring[1:] != ring[:-1])
    is_new = np.append(True, (points[1:] != points[:-1]).any(axis=1)) | is_first
    points, ring = points[is_new], ring[is_new]
    for _ in range(PASSES):
        is_kept = ~_is_straight(points, ring)
        points, ring = points[is_kept], ring[is_kept]
    steps = np.diff(points, axis=0, prepend=points[:1])
    bounds = np.searchsorted(ring, np.arange(len(sizes) + 1)).tolist()
    starts = points[bounds[:-1]].tolist()
    paths = []
    for (x, y), first, last in zip(starts, bounds[:-1], bounds[1:], strict=True):
        numbers = steps[first + 1 : last].ravel().tolist()
        lines = " ".join(map(str, numbers)).replace(" -", "-")
        paths.append(f"M{x} {y}l{lines}z" if lines else f"M{x} {y}z")
    return paths


def _is_straight(
    points: NDArray[np.int64], ring: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return of every other vertex whether it lies near the line of its neighbours."""
    is_straight = np.zeros(len(points), np.bool_)
    if len(points) < 3:
        return is_straight
    middle, before, after = points[1:-1:2], points[:-2:2], points[2::2]
    along, there = (after - before).T, (middle - before).T
    length2 = along[0] ** 2 + along[1] ** 2
    across = along[0] * there[1] - along[1] * there[0]
    # A spike goes there and back: it does not lie between its neighbours.
    onward = along[0] * there[0] + along[1] * there[1]
    is_between = (onward >= 0) & (onward <= length2)
    is_inner = (ring[:-2:2] == ring[1:-1:2]) & (ring[2::2] == ring[1:-1:2])
    is_straight[1:-1:2] = (across**2 <= NEAR**2 * length2) & is_between & is_inner
    return is_straight


def _encoded(grey: NDArray[np.uint8], is_large: bool, quality: Quality) -> str:
    """Return an image as a data URI, made smaller if it has more pixels than needed."""
    side = quality.large if is_large else quality.small
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(grey))
    longest = max(image.size)
    if longest > side:
        size = [max(1, round(n * side / longest)) for n in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality.quality, optimize=True)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"
