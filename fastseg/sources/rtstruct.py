"""The reader of RT structure sets: contours in millimetres to rings in pixels.

structure set ── parse, once ──> rings, for each link ──> groups in pixels

A link has the contours of one ROI (region of interest) on one image. Its `contour_key`
is the ROINumber, the numbers of the contours and how many the ROI has, "4#17,18/41" or
"4#17-30/41": numbers count the items of its ContourSequence from 1. Contours that lie
more than 0.1 mm off the plane of the image have that distance behind them:
"4#17/41~0.25". So a build finds out if the image or the structure set was replaced
since. `structure_sets` finds the links.
"""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby, pairwise

import numpy as np

from fastseg.bounds import MAX_STRUCTURE_SET_BYTES
from fastseg.dicom import Header
from fastseg.dicom.structure_set import (
    CLOSED_PLANAR,
    CLOSEDPLANAR_XOR,
    StructureSet,
    read_structure_set,
)
from fastseg.errors import ContourError, DicomError, GeometryError
from fastseg.geometry import Plane, have_planes, patient_to_pixel
from fastseg.links import Link
from fastseg.sources.base import Group
from fastseg.sources.stacks import LEAST_TOLERANCE_MM, MAX_PLANE_TOLERANCE_MM

# A spreadsheet would take "4:17" for a time, and change it.
KEY = re.compile(
    r"(?P<roi>[0-9]{1,18})#"
    r"(?P<contours>[0-9]{1,9}(-[0-9]{1,9})?(,[0-9]{1,9}(-[0-9]{1,9})?)*)"
    r"(/(?P<count>[0-9]{1,9}))?"
    r"(~(?P<off>[0-9]{1,2}(\.[0-9]{1,2})?))?"
)
# mm. The distances of points from a plane are computed in two ways.
ARITHMETIC_MM = 1e-6


class RtStruct:
    """Reads the contours of RT structure sets."""

    format = "rtstruct"
    is_point_list = False
    joins = True
    is_in_pixels = False
    max_bytes = MAX_STRUCTURE_SET_BYTES

    def parse(self, data: bytes, name: str) -> StructureSet:
        """Return a structure set, or raise ContourError."""
        try:
            return read_structure_set(data, name)
        except DicomError as exc:
            raise ContourError(str(exc)) from None

    def rings(
        self, parsed: StructureSet, link: Link, header: Header | None
    ) -> list[Group]:
        """Return the contours that a link names, in pixels of its image.

        CLOSEDPLANAR_XOR contours are a group that is always even-odd. Raises
        ContourError for contours that are not there or cannot be used, and if the image
        has no plane, or another one than where the contours lie.
        """
        name = link.contour_path
        named, limit = _named_contours(parsed, link)
        indices = np.array(named, np.int64)
        kinds = {*parsed.contours.kind[indices].tolist()}
        are_valid = bool(parsed.contours.is_valid[indices].all())
        if not are_valid or kinds not in ({CLOSED_PLANAR}, {CLOSEDPLANAR_XOR}):
            raise ContourError(
                f"{name}: contours {link.contour_key} are open, damaged or of several "
                "types; link the images again"
            )
        plane = _plane_of(header, link)
        points, ends = parsed.points(indices)
        pixels, off = plane.patient_to_pixel(points)
        farthest = float(np.abs(off).max(initial=0.0))
        if farthest > limit:
            raise ContourError(
                f"{name}: {link.contour_key} lies {farthest:.4g} mm off the plane of "
                f"{link.dicom_path}, which is not where it was linked: either file was "
                "replaced; link the images again"
            )
        bounds = ends.tolist()
        rings = [pixels[a:b] for a, b in pairwise(bounds)]
        return [Group(rings, is_xor=kinds == {CLOSEDPLANAR_XOR})]

    def many_rings(
        self, parsed: StructureSet, links: Sequence[Link], headers: Sequence[Header]
    ) -> list[list[Group] | None]:
        """Return the contours of many links, each as `rings` does, or None."""
        results: list[list[Group] | None] = [None] * len(links)
        contours: list[int] = []
        stops: list[int] = []
        known = []
        limits = []
        for k, link in enumerate(links):
            with suppress(ContourError):
                named, limit = _named_contours(parsed, link)
                contours += named
                stops.append(len(contours))
                known.append(k)
                limits.append(limit)
        if not known:
            return results
        planes = np.array([_plane_row(headers[k]) for k in known])
        indices = np.array(contours, np.int64)
        sizes = np.diff(stops, prepend=0)
        firsts = np.cumsum(sizes) - sizes
        kind = parsed.contours.kind[indices]
        kinds = np.minimum.reduceat(kind, firsts)
        are_usable = (
            np.logical_and.reduceat(parsed.contours.is_valid[indices], firsts)
            & (kinds == np.maximum.reduceat(kind, firsts))
            & ((kinds == CLOSED_PLANAR) | (kinds == CLOSEDPLANAR_XOR))
            & have_planes(planes[:, :3], planes[:, 3:9], planes[:, 9:])
        )
        usable = np.flatnonzero(are_usable)
        if not len(usable):
            return results
        indices = indices[np.repeat(are_usable, sizes)]
        patient, bounds = parsed.points(indices)
        ends = np.cumsum(sizes[usable])
        counts = np.diff(bounds[ends], prepend=0)
        own = planes[usable]
        pixels, off = patient_to_pixel(
            patient, counts, own[:, :3], own[:, 3:9], own[:, 9:]
        )
        farthest = np.maximum.reduceat(np.abs(off), np.cumsum(counts) - counts)
        rings = [pixels[a:b] for a, b in pairwise(bounds.tolist())]
        start = 0
        for k, stop, is_near, is_xor in zip(
            usable.tolist(),
            ends.tolist(),
            (farthest <= np.array(limits)[usable]).tolist(),
            (kinds[usable] == CLOSEDPLANAR_XOR).tolist(),
            strict=True,
        ):
            if is_near:
                results[known[k]] = [Group(rings[start:stop], is_xor=is_xor)]
            start = stop
        return results


def _plane_row(header: Header) -> tuple[float, ...]:
    """Return origin, directions and spacing of an image, NaN if they are unknown."""
    if header.position_mm and header.directions and header.spacing_mm:
        return *header.position_mm, *header.directions, *header.spacing_mm
    return (math.nan,) * 11


def _named_contours(parsed: StructureSet, link: Link) -> tuple[list[int], float]:
    """Return the indices of the contours that a `contour_key` names.

    Also returns how far these may lie off the plane of the image, in mm. Raises
    ContourError for a key that does not fit the structure set.
    """
    name = link.contour_path
    key = KEY.fullmatch(link.contour_key)
    if key is None:
        raise ContourError(
            f"{name}: contour_key is {link.contour_key!r}, expected a ROINumber and "
            "contours from 1, as in '4#17,18'"
        )
    roi, named, count, off = key.group("roi", "contours", "count", "off")
    number = int(roi)
    try:
        contours = parsed.find(number)
    except ContourError as exc:
        raise ContourError(f"{name}: {exc}; link the images again") from None
    # A key that is written by hand need not say how many contours the ROI has.
    if count and int(count) != len(contours):
        raise ContourError(
            f"{name}: ROI {number} has {len(contours)} contours, and had "
            f"{int(count)} when it was linked; link the images again"
        )
    indices: list[int] = []
    last = 0
    for part in named.split(","):
        start, _, end = part.partition("-")
        first, before = int(start), last
        last = int(end or start)
        if not before < first <= last:
            raise ContourError(
                f"{name}: contour_key is {link.contour_key!r}, expected rising numbers "
                "from 1"
            )
        if last > len(contours):
            raise ContourError(
                f"{name}: ROI {number} has no contour {last}; link the images again"
            )
        indices += contours[first - 1 : last]
    limit = max(float(off or 0), LEAST_TOLERANCE_MM)
    return indices, min(limit, MAX_PLANE_TOLERANCE_MM) + ARITHMETIC_MM


def make_key(
    number: int, contours: Sequence[int], count: int, off_mm: float = 0.0
) -> str:
    """Return the `contour_key` of some contours of an ROI.

    contours : their numbers from 1, rising
    count    : of all contours of the ROI
    off_mm   : how far they lie off the plane of their image
    """
    some = str(contours[0]) if len(contours) == 1 else name_ranges(contours)
    key = f"{number}#{some}/{count}"
    if off_mm <= LEAST_TOLERANCE_MM:
        return key
    return f"{key}~{math.ceil(100 * (off_mm - ARITHMETIC_MM)) / 100:g}"


def name_ranges(numbers: Sequence[int]) -> str:
    """Return rising numbers as text: "1,2,4-9"."""
    parts = []
    for _, some in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [contour for _, contour in some]
        if len(run) > 2:
            parts.append(f"{run[0]}-{run[-1]}")
        else:
            parts += map(str, run)
    return ",".join(parts)


def _plane_of(header: Header | None, link: Link) -> Plane:
    """Return the plane of a link's image, or raise ContourError."""
    problem = "has no position, directions or pixel spacing"
    if header and header.position_mm and header.directions and header.spacing_mm:
        try:
            return Plane(
                origin=np.array(header.position_mm),
                row_direction=np.array(header.directions[:3]),
                column_direction=np.array(header.directions[3:]),
                spacing_mm=header.spacing_mm,
            )
        except GeometryError as exc:
            problem = f"has no plane: {exc}"
    raise ContourError(
        f"{link.contour_path}: cannot be drawn, because {link.dicom_path} {problem}"
    )
