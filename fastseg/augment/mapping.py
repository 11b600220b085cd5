"""All geometric transforms of a sample, combined into one mapping.

A mapping leads from pixels of the batch to points of the image: inner(bend(outer(p))).
outer and inner are affine; bend adds a displacement, if a transform bends the image.
Points are (x, y), pixel centres at integers; matrices (b, 3, 3) act on (x, y, 1).

Patches of volumes also have a mapping in space, from voxels of the patch to those of
the volume: matrices (b, 4, 4) act on (z, y, x, 1). Only the slices of a tilted patch
cross those of the volume; the others are mapped slice by slice, as images.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg import randomness
from fastseg._kernels.augment.batch import draw_fields
from fastseg._kernels.augment.bend import bend_rings
from fastseg._kernels.augment.mapping import Affines, Displacements
from fastseg._kernels.augment.noise import Keys

Matrices = NDArray[np.float64]

# Along each axis, control points in addition to the spacings that cover the image: each
# pixel depends on four of them.
EXTRA_CONTROL_POINTS = 4
# Axes x and y, and the constant, of matrices that act on (z, y, x, 1).
IN_PLANE = np.array([2, 1, 3])


def identities(count: int, size: int) -> Matrices:
    """Return so many identity matrices, float64 (count, size, size)."""
    matrices = np.zeros((count, size, size))
    matrices.reshape(count, -1)[:, :: size + 1] = 1
    return matrices


def pixel_ratios(spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many times as high as wide pixels are, float64 (b,); 1 if unknown.

    spacing_mm : float64 (b, 2), between rows and between columns, NaN if unknown
    """
    rows, columns = spacing_mm.T
    with np.errstate(all="ignore"):
        ratios: NDArray[np.float64] = rows / columns
    return np.where(np.isnan(ratios), 1.0, ratios)


class MappingArrays(NamedTuple):
    """The mappings of b samples, as the kernels take them.

    displacements : None if no transform bends the images
    """

    affines: Affines
    displacements: Displacements | None

    def select(self, subset: Any) -> "MappingArrays":
        """Return the mappings of some samples, an index along the first axis."""
        (outer, inner), displacements = self
        if displacements is not None:
            control, spacing = displacements
            displacements = Displacements(control[subset], spacing)
        return MappingArrays(Affines(outer[subset], inner[subset]), displacements)

    def repeat(self, count: int) -> "MappingArrays":
        """Return the mapping of each sample so many times, one after the other."""
        if count == 1:
            return self
        return self.select(np.repeat(np.arange(len(self.affines.outer)), count))

    def with_displacements(self) -> "MappingArrays":
        """Return the same with displacements, of an empty grid if there are none."""
        if self.displacements is not None:
            return self
        control = np.empty((len(self.affines.outer), 0, 0, 2))
        return MappingArrays(self.affines, Displacements(control, 1.0))

    def move_rings(
        self, points: NDArray[np.float64], offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return rings of the first sample's image as they are in its output.

        points  : float64 (P, 2), (x, y) in pixels
        offsets : int64 (R + 1,), ring k is points[offsets[k]:offsets[k + 1]]
        """
        moved_offsets = np.empty_like(offsets)
        count = len(points)
        while True:
            moved = np.empty((count, 2))
            count = bend_rings(points, offsets, *self, moved, moved_offsets)
            if count <= len(moved):
                return moved[:count], moved_offsets


class Mappings:
    """Size, spacing and mapping of b samples after the transforms so far.

    samples       : int64 (b,), indices in the store
    height, width : int64 (b,), pixels
    spacing_mm    : float64 (b, 2), between rows and between columns; where the store
        has none, as if its pixels were squares of 1 mm
    has_spacing   : bool (b,), whether the store has a spacing
    boxes         : function that returns the bounding boxes of a class in the original
        images, (b, 4): top, left, bottom, right; the last two are one pixel beyond
    outer, inner  : float64 (b, 3, 3); without a bend, inner is the identity
    matrix        : float64 (b, 3, 3), to the original image, as if nothing was bent
    bent          : whether a transform has bent the images
    bent_sizes    : int64 (b, 2), height and width of the images that it has bent
    max_displacement : float64 (b,), of a control point along an axis, pixels

    Of patches of volumes, see `begin_patches`:

    depth      : slices of each, 0 for images
    between_mm : float64 (b,), between slices
    in_space   : float64 (b, 4, 4), to the original volume, as if nothing was bent
    is_tilted  : bool (b,), whether slices of the patch cross those of the volume
    """

    def __init__(
        self,
        samples: NDArray[np.int64],
        sizes: NDArray[np.int64],
        spacing_mm: NDArray[np.float64],
        boxes: Callable[[str], NDArray[Any]],
    ):
        """Take the original images.

        sizes      : int64 (b, 2), height and width
        spacing_mm : float64 (b, 2), NaN if unknown
        """
        self.samples = samples
        self.height = sizes[:, 0]
        self.width = sizes[:, 1]
        rows, columns = spacing_mm.T
        self.has_spacing = np.isfinite(rows) & np.isfinite(columns)
        self.spacing_mm = np.where(self.has_spacing[:, None], spacing_mm, 1.0)
        self.boxes = boxes
        self.outer = self.inner = self.matrix = self.identities()
        self.bent = False
        self.bent_sizes = sizes
        self.max_displacement = np.zeros(len(samples))
        self._control_spacing = 1.0
        self.depth = 0
        self.between_mm = np.ones(len(samples))
        self._in_space = np.empty((0, 4, 4))
        # What has happened in plane since _in_space was up to date.
        self._since: Matrices | None = None
        self.is_tilted = np.zeros(len(samples), np.bool_)

    def identities(self) -> Matrices:
        """Return an identity matrix for each sample, float64 (b, 3, 3)."""
        return identities(len(self.samples), 3)

    def compose(self, matrix: Matrices, on: NDArray[np.bool_] | None = None) -> None:
        """Compose the mapping with that of one more transform.

        matrix : from points after the transform to points before it
        on     : samples to which the transform happens, by default all
        """
        if on is not None and not on.all():
            if not on.any():
                return
            matrix = np.where(on[:, None, None], matrix, self.identities())
        self._compose_in_plane(matrix)
        if self.depth:
            self._since = matrix if self._since is None else self._since @ matrix

    @property
    def in_space(self) -> Matrices:
        """The mappings of patches to the volumes."""
        if self._since is not None:
            self._in_space = self._in_space @ _as_spatial(self._since)
            self._since = None
        return self._in_space

    def compose_in_space(self, matrix: Matrices, on: NDArray[np.bool_]) -> None:
        """Compose the mappings of patches with that of one more transform in space.

        matrix : float64 (b, 4, 4), from voxels after the transform to those before it
        on     : patches to which the transform happens
        """
        if not on.any():
            return
        matrix = np.where(on[:, None, None], matrix, identities(len(on), 4))
        self._in_space = self.in_space @ matrix
        self._compose_in_plane(matrix[:, IN_PLANE[:, None], IN_PLANE])
        across = (matrix[:, 0, 1:3] != 0) | (matrix[:, 1:3, 0] != 0)
        self.is_tilted = self.is_tilted | across.any(axis=1)

    def _compose_in_plane(self, matrix: Matrices) -> None:
        composed = self.outer @ matrix
        is_whole = self.matrix is self.outer
        self.matrix = composed if is_whole else self.matrix @ matrix
        self.outer = composed

    def begin_patches(
        self,
        depth: int,
        in_space: Matrices,
        between_mm: NDArray[np.float64],
        spacing_mm: NDArray[np.float64],
    ) -> None:
        """Show patches of volumes, of this height and width, before all transforms.

        depth      : slices of a patch
        in_space   : float64 (b, 4, 4), to the volume, without turns and shears
        between_mm : float64 (b,), between slices of the patch
        spacing_mm : float64 (b, 2), between its rows and columns
        """
        self.depth = depth
        self._in_space = in_space
        self.outer = self.matrix = in_space[:, IN_PLANE[:, None], IN_PLANE]
        self.between_mm, self.spacing_mm = between_mm, spacing_mm

    def scale(self, factor_y: Any, factor_x: Any) -> None:
        """Make pixels larger by these factors; the outer edges of the image stay."""
        matrix = self.identities()
        for axis, factor in enumerate((factor_x, factor_y)):
            matrix[:, axis, axis] = factor
            matrix[:, axis, 2] = (factor - 1) / 2
        self.compose(matrix)
        self.spacing_mm = self.spacing_mm * np.stack([factor_y, factor_x], axis=1)

    def bend(self, spacing: float, displacements: NDArray[np.float64]) -> None:
        """Add a random cubic B-spline to the points; only one transform may do this.

        spacing       : distance between control points, pixels
        displacements : float64 (b,), most by which a control point moves along each
            axis, pixels
        """
        assert not self.bent
        self.inner = self.outer
        self.outer = self.identities()
        self.bent = True
        self.bent_sizes = np.stack([self.height, self.width], axis=1)
        self.max_displacement = displacements
        self._control_spacing = spacing

    def set_window(self, left: Any, top: Any, size: tuple[int, int]) -> None:
        """Show height x width pixels from (left, top), each int64 (b,)."""
        if left.any() or top.any():
            matrix = self.identities()
            matrix[:, 0, 2] = left
            matrix[:, 1, 2] = top
            self.compose(matrix)
        self.set_size(size)

    def set_size(self, size: tuple[int, int]) -> None:
        """Set height and width of all samples."""
        self.height, self.width = (np.full_like(self.height, n) for n in size)

    def crop_or_pad(self, size: tuple[int, int]) -> None:
        """Crop or pad about the centre, to the same pixels as without augmentation."""
        if (self.height == size[0]).all() and (self.width == size[1]).all():
            return
        left, top = (
            np.where(have >= want, (have - want) // 2, -((want - have) // 2))
            for have, want in ((self.width, size[1]), (self.height, size[0]))
        )
        self.set_window(left, top, size)

    def arrays(self, key: int) -> MappingArrays:
        """Return the mappings for the kernels; key is that of the random numbers."""
        outer, inner = (
            np.ascontiguousarray(m[:, :2]) for m in (self.outer, self.inner)
        )
        if not self.bent:
            return MappingArrays(Affines(outer, inner), None)
        count = len(self.samples)
        spacing = self._control_spacing
        grids = np.ceil((self.bent_sizes - 1) / spacing).astype(np.int64)
        grids += EXTRA_CONTROL_POINTS
        control = np.empty((count, *grids.max(axis=0).tolist(), 2))
        draw_fields(
            Keys(key, self.samples.astype(np.uint64)),
            randomness.ELASTIC,
            self.max_displacement,
            grids,
            control,
        )
        return MappingArrays(Affines(outer, inner), Displacements(control, spacing))


def _as_spatial(matrix: Matrices) -> Matrices:
    """Return matrices that act on (x, y, 1) as those that act on (z, y, x, 1)."""
    spatial = identities(len(matrix), 4)
    spatial[:, IN_PLANE[:, None], IN_PLANE] = matrix
    return spatial
