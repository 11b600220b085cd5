"""Planes, times and volumes: exact conversions, rules with tolerances, any order."""

import pickle
import re
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from fastseg import geometry
from fastseg.errors import GeometryError
from fastseg.geometry import Plane, find_volumes, number_times
from tests.conftest import PROJECT

# Of a coordinate, in float64: ten roundings of values of this size.
ROUNDING = 1e-14

AXIAL = [1.0, 0, 0, 0, 1, 0]
SAGITTAL = [0.0, 1, 0, 0, 0, -1]


def rotation(angles):
    """Return the matrix of a rotation about x, then y, then z, in radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


angles = st.tuples(*[st.floats(-3.2, 3.2)] * 3)
coordinates = st.floats(-1e4, 1e4)


@st.composite
def planes(draw):
    """Any plane: turned anyhow, with directions that are a little off."""
    row, column, _ = rotation(draw(angles))
    off = st.floats(-0.0005, 0.0005)
    column = column + draw(off) * row
    return Plane(
        origin=draw(st.tuples(coordinates, coordinates, coordinates)),
        row_direction=row * (1 + draw(off)),
        column_direction=column,
        spacing_mm=draw(st.tuples(*[st.floats(0.01, 10)] * 2)),
    )


points = hnp.arrays(
    np.float64, st.tuples(st.integers(0, 5), st.just(2)), elements=coordinates
)


@given(planes(), points)
def test_a_pixel_returns_from_the_patient(plane, pixels):
    """pixel_to_patient, then patient_to_pixel is where it was, in the plane."""
    patient = plane.pixel_to_patient(pixels)
    assert patient.shape == (len(pixels), 3)
    returned, distances = plane.patient_to_pixel(patient)
    size = np.abs(patient).max(initial=0) + np.abs(plane.origin).max() + 1
    tolerance_mm = ROUNDING * size
    assert_allclose(
        returned, pixels, rtol=ROUNDING, atol=tolerance_mm / min(plane.spacing_mm)
    )
    assert_allclose(distances, 0, atol=tolerance_mm)


@given(planes(), hnp.arrays(np.float64, (4, 3), elements=coordinates))
def test_a_point_returns_from_the_image(plane, patient):
    """Its pixel and its distance along the normal lead back to it."""
    pixels, distances = plane.patient_to_pixel(patient)
    returned = plane.pixel_to_patient(pixels) + distances[:, None] * plane.normal
    size = np.abs(patient).max() + np.abs(plane.origin).max() + 1
    assert_allclose(returned, patient, rtol=0, atol=ROUNDING * size)


def test_the_column_runs_along_the_first_cosines_and_the_second_spacing():
    """x counts columns along a row; PixelSpacing gives the distance of rows first."""
    plane = Plane(
        origin=[10, 20, 30],
        row_direction=[0, 1, 0],
        column_direction=[0, 0, -1],
        spacing_mm=(2, 0.5),
    )
    assert_array_equal(plane.pixel_to_patient([[4, 3]]), [[10, 22, 24]])
    assert_array_equal(plane.normal, [-1, 0, 0])
    pixels, distances = plane.patient_to_pixel([[7, 22, 24]])
    assert_array_equal(pixels, [[4, 3]])
    assert_array_equal(distances, [3])


@given(planes(), hnp.arrays(np.float64, (7, 2), elements=coordinates))
def test_each_point_is_converted_for_itself(plane, pixels):
    """A point has the same bits alone, among others and in another memory layout."""
    patient = plane.pixel_to_patient(pixels)
    for k in range(len(pixels)):
        assert_array_equal(plane.pixel_to_patient(pixels[k : k + 1])[0], patient[k])
    backwards = plane.patient_to_pixel(patient[::-1])
    for one, other in zip(plane.patient_to_pixel(patient), backwards, strict=True):
        assert_array_equal(one, other[::-1])


@pytest.mark.kernel
@given(
    st.lists(st.tuples(planes(), st.integers(0, 3)), max_size=4),
    hnp.arrays(np.float64, (12, 3), elements=coordinates),
)
def test_points_of_many_planes_are_converted_as_those_of_one(chosen, patient):
    """`geometry.patient_to_pixel` gives the bits of `Plane.patient_to_pixel`."""
    ends = np.cumsum([0, *(count for _, count in chosen)])
    columns = [
        np.array([getattr(plane, name) for plane, _ in chosen], float).reshape(-1, k)
        for name, k in (
            *(("origin", 3), ("row_direction", 3), ("column_direction", 3)),
            ("spacing_mm", 2),
        )
    ]
    origins, rows, column_directions, spacings = columns
    pixels, distances = geometry.patient_to_pixel(
        *(patient[: ends[-1]], np.diff(ends), origins),
        *(np.hstack([rows, column_directions]), spacings),
    )
    for (plane, _), (start, stop) in zip(chosen, pairwise(ends), strict=True):
        expected = plane.patient_to_pixel(patient[start:stop])
        assert_array_equal(pixels[start:stop], expected[0], strict=True)
        assert_array_equal(distances[start:stop], expected[1], strict=True)


def plane_with(**changes):
    options = {
        "origin": [0, 0, 0],
        "row_direction": [1, 0, 0],
        "column_direction": [0, 1, 0],
        "spacing_mm": (1, 1),
    }
    return Plane(**(options | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"origin": [0, 0, np.nan]}, "origin is"),
        ({"origin": [0, 0, 2e6]}, "origin is"),
        ({"origin": [0, 0]}, r"origin has shape \(2,\), expected \(3,\)"),
        ({"origin": ["0", "0", "0"]}, "origin has dtype"),
        ({"row_direction": [0, 0, 0]}, "expected two orthogonal unit vectors"),
        ({"row_direction": [1.0011, 0, 0]}, "expected two orthogonal unit vectors"),
        ({"column_direction": [0, 0.9989, 0]}, "expected two orthogonal unit"),
        ({"column_direction": [0.0011, 1, 0]}, "expected two orthogonal unit vectors"),
        ({"column_direction": [1, 0, 0]}, "expected two orthogonal unit vectors"),
        ({"row_direction": [np.inf, 0, 0]}, "expected two orthogonal unit vectors"),
        ({"row_direction": [1e200, 0, 0]}, "expected two orthogonal unit vectors"),
        ({"spacing_mm": (0, 1)}, "spacing_mm is"),
        ({"spacing_mm": (1, -1)}, "spacing_mm is"),
        ({"spacing_mm": (1, np.inf)}, "spacing_mm is"),
        ({"spacing_mm": 1}, r"spacing_mm has shape \(\)"),
        ({"spacing_mm": np.ma.masked_equal([1.0, 2.0], 2.0)}, "masked"),
    ],
)
def test_a_plane_that_is_none_is_refused(changes, message):
    """The error says what was given; `have_planes` and positions say the same."""
    with pytest.raises(GeometryError, match=message):
        plane_with(**changes)
    if "shape" in message or "dtype" in message or message == "masked":
        return
    plane = {"origin": [0.0, 0, 0], "spacing_mm": (1.0, 1.0)} | changes
    directions = [
        *plane.get("row_direction", [1, 0, 0]),
        *plane.get("column_direction", [0, 1, 0]),
    ]
    columns = (
        [plane["origin"], AXIAL],
        [directions, AXIAL],
        [plane["spacing_mm"], (1, 1)],
    )
    columns[0][1] = [0.0, 0, 0]
    assert geometry.have_planes(*columns).tolist() == [False, True]
    known = geometry.positions_along_normal(*columns[:2])
    assert np.isnan(known).tolist() == ["spacing_mm" not in changes, False]


def test_directions_within_the_tolerance_are_taken_as_they_are():
    """They are not normalised, and the conversion back solves for them."""
    plane = plane_with(row_direction=[1.0009, 0, 0], column_direction=[0.0009, 1, 0])
    assert_array_equal(plane.row_direction, [1.0009, 0, 0])
    patient = plane.pixel_to_patient([[100, 200]])
    assert_allclose(patient, [[100.27, 200, 0]], rtol=1e-15)
    assert_allclose(plane.patient_to_pixel(patient)[0], [[100, 200]], rtol=1e-14)


def test_a_plane_keeps_its_own_numbers():
    """What the caller does with arrays later changes nothing; copies convert alike."""
    origin = np.zeros(3)
    plane = plane_with(origin=origin)
    origin[0] = 5
    copy = pickle.loads(pickle.dumps(plane))
    for one in (plane, copy):
        assert_array_equal(one.pixel_to_patient([[1, 2]]), [[1, 2, 0]])
    with pytest.raises(ValueError, match="read-only"):
        plane.origin[0] = 1


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e308])
def test_points_without_a_result_are_refused(value):
    """NaN, infinity and what overflows raise an error that names the point."""
    plane = plane_with(spacing_mm=(0.1, 10))
    with pytest.raises(GeometryError, match="point 1 is"):
        plane.pixel_to_patient([[0, 0], [value, 0]])
    with pytest.raises(GeometryError, match="point 2 is"):
        plane.patient_to_pixel([[0, 0, 0], [0, 0, 0], [0, value, 0]])


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (plane_with().pixel_to_patient, [[0, 0]], r"shape \(2,\), expected \(n, 2\)"),
        (plane_with().patient_to_pixel, [[[0, 0]]], r"shape \(1, 2\)"),
        (geometry.have_planes, [[[0, 0, 0]], [AXIAL] * 2, [[1, 1]]], "lengths"),
        (geometry.positions_along_normal, [[[0, 0, 0]], [[1, 0, 0]]], r"\(n, 6\)"),
        (number_times, [[0.0], [1.0], []], "lengths"),
        (number_times, [[0.0], [1.0], [0.0], [0.5]], "whole numbers"),
        (geometry.number_stacks, [[AXIAL], [[0]]], r"expected \(n,\)"),
        (geometry.volume_affine, [[[0, 0, 0]], AXIAL, [1, 1]], "2 slices or more"),
        (geometry.volume_affine, [[[0, 0, 1], [0, 0, 0]], AXIAL, [1, 1]], "rising"),
        (geometry.volume_affine, [[[0, 0, 0], [0, 0, np.nan]], AXIAL, [1, 1]], "last"),
        (geometry.volume_affine, [[[0, 0, 0], [0, 0, 1]], AXIAL, [0, 1]], "spacing_mm"),
    ],
)
def test_arrays_of_other_shapes_are_refused(function, arguments, message):
    """Each function checks what it is given and says what it expected."""
    with pytest.raises(GeometryError, match=message):
        function(*arguments)


def test_positions_are_along_the_own_normal():
    """A position is the origin's distance along the unit normal, and never -0.0."""
    origins = [[5, 6, 7], [5, 6, 7], [-0.0, -0.0, -0.0], [np.nan, 0, 0]]
    directions = [AXIAL, SAGITTAL, AXIAL, AXIAL]
    positions = geometry.positions_along_normal(origins, directions)
    assert_array_equal(positions, [7, -5, 0, np.nan])
    assert not np.signbit(positions[2])


def series(positions, **changes):
    """The columns of axial images at positions, to be spoiled."""
    n = len(positions)
    columns = {
        "origins": np.stack([np.zeros(n), np.zeros(n), positions], axis=1),
        "directions": np.tile(AXIAL, (n, 1)),
        "spacings_mm": np.full((n, 2), 0.5),
        "thicknesses_mm": np.full(n, np.nan),
        "kinds": np.zeros(n, dtype=np.int64),
        "times": np.full(n, np.nan),
    }
    return columns | {name: np.asarray(value) for name, value in changes.items()}


def moved(by, k=3, n=8, step=2.0):
    """A series whose slice k is moved by a vector."""
    columns = series(np.arange(n) * step)
    columns["origins"][k] += by
    return columns


def tilted(degrees, n=20):
    columns = series(np.arange(n) * 2.0)
    columns["origins"][:, 1] = columns["origins"][:, 2] * np.tan(np.radians(degrees))
    return columns


def turned(degrees):
    """A series with one slice that is turned about the patient's z axis."""
    columns = series(np.arange(8) * 2.0)
    matrix = rotation([0, 0, np.radians(degrees)])
    columns["directions"][2] = np.concatenate([matrix[:, 0], matrix[:, 1]])
    return columns


def localizer():
    directions = np.repeat([AXIAL, SAGITTAL, [1.0, 0, 0, 0, 0, -1]], [4, 3, 3], axis=0)
    return series(np.arange(10) * 2.0, directions=directions)


def with_spacing(factor):
    columns = series(np.arange(8) * 2.0)
    columns["spacings_mm"][5] *= factor
    return columns


VOLUMES = {
    "two slices": series([0.0, 1]),
    "a slice that is off by less than the tolerance": moved([0.05, 0, 0.09]),
    "thin slices that are off by less": moved([0, 0, 0.009], step=0.1),
    "a stack that drifts by less": tilted(0.1),
    "directions that differ by less": turned(0.005),
    "spacings that differ by less": with_spacing(1 + 9e-5),
    "slices with a small gap": series(np.arange(8) * 10.0, thicknesses_mm=[6.0] * 8),
    "slices that overlap": series(np.arange(8) * 1.0, thicknesses_mm=[2.0] * 8),
    "slices of no thickness": series(np.arange(8) * 1.0, thicknesses_mm=[0.0] * 8),
    "slices that are nearly the same": series([0.0, 0.0101]),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_a_stack_within_the_tolerances_is_a_volume(name):
    """All its images are one volume, and there is no problem."""
    columns = VOLUMES[name]
    found = find_volumes(**columns)
    assert found.problems == ()
    assert_array_equal(found.members[0], np.arange(len(columns["kinds"])))
    extent = np.ptp(columns["origins"][:, 2])
    assert found.spacings_mm == pytest.approx([extent / (len(columns["kinds"]) - 1)])


NONE = {
    "no images": (series([]), ()),
    "a single image": (
        series([3.0]),
        ("single: 1 image with no other of the same shape, dtype and time",),
    ),
    "a gantry tilt": (
        tilted(15),
        (
            "gantry tilt: the last of 20 slices is shifted by 10.18 mm over 38 mm, "
            "by 15 degrees",
        ),
    ),
    "a small tilt": (
        tilted(0.2),
        (
            "gantry tilt: the last of 20 slices is shifted by 0.1326 mm over 38 mm, "
            "by 0.2 degrees",
        ),
    ),
    "a slice that is shifted": (
        moved([0, 0.3, 0]),
        ("shifted: slices are shifted by up to 0.3 mm in their planes",),
    ),
    "a slice that is moved": (
        moved([0, 0, 0.11]),
        ("uneven: slices are 1.89 to 2.11 mm apart",),
    ),
    "a slice that is moved by a little": (
        moved([0, 0, 0.11], step=5.0),
        ("uneven: slices are 4.89 to 5.11 mm apart",),
    ),
    "thin slices, one of them moved": (
        moved([0, 0, 0.011], step=0.1),
        ("uneven: slices are 0.089 to 0.111 mm apart",),
    ),
    "a slice that is missing": (
        series([0.0, 5, 10.1, 20.1]),
        (
            "uneven: slices are 5 to 10 mm apart, whole multiples of 5 mm: a slice "
            "may be missing",
        ),
    ),
    "distances that are no multiples": (
        series([0.0, 5, 10, 20.9]),
        ("uneven: slices are 5 to 10.9 mm apart",),
    ),
    "every second slice": (
        series(np.arange(0, 50, 2.5), thicknesses_mm=np.full(20, 1.25)),
        ("gap: slices are 2.5 mm apart and 1.25 mm thick",),
    ),
    "every second slice, rounded": (
        series(np.arange(20) * 2.4999, thicknesses_mm=np.full(20, 1.25)),
        ("gap: slices are 2.5 mm apart and 1.25 mm thick",),
    ),
    "three orientations": (
        localizer(),
        ("mixed orientations: images of 3 directions (4, 3 and 3)",),
    ),
    "a slice that is turned": (
        turned(0.01),
        ("mixed orientations: images of 2 directions (7 and 1)",),
    ),
    "directions that drift": (
        series(
            np.arange(9.0),
            directions=[
                [np.cos(a), np.sin(a), 0, -np.sin(a), np.cos(a), 0]
                for a in np.arange(9) * 5e-5
            ],
        ),
        ("mixed orientations: images of varying directions",),
    ),
    "another spacing": (
        with_spacing(1.001),
        ("mixed spacings: images of 2 pixel spacings (7 and 1)",),
    ),
    "a slice twice": (
        series([0.0, 1, 2, 2.004, 3]),
        ("doubled: 2 images at 2 mm have no time that tells them apart",),
    ),
    "all slices twice": (
        series([0.0, 1, 2, 2, 0, 1]),
        ("doubled: 6 images at 3 positions have no time that tells them apart",),
    ),
    "shapes that all differ": (
        series(np.arange(3.0), kinds=[4, 9, 2]),
        (
            "mixed shapes: images of 3 shapes or dtypes (1, 1 and 1)",
            "single: 3 images with no other of the same shape, dtype and time",
        ),
    ),
    "shapes of which one is uneven": (
        series([0.0, 1, 3, 2, 5], kinds=[0, 0, 0, 1, 1], times=[0, 0, 0, 0, 1]),
        (
            "mixed shapes: images of 2 shapes or dtypes (3 and 2)",
            "single: 2 images with no other of the same shape, dtype and time",
            "uneven: slices are 1 to 2 mm apart, whole multiples of 1 mm: a slice may "
            "be missing (at time 0)",
        ),
    ),
    "times that all differ": (
        series(np.arange(3.0), times=[0, 1, 2]),
        ("single: 3 images with no other of the same shape, dtype and time",),
    ),
    "images without a plane": (
        series(
            [np.nan, 1, 2, 3, 4],
            directions=[AXIAL, [np.nan] * 6, [0] * 6, AXIAL, [1, 0, 0, 0.1, 1, 0]],
            spacings_mm=[[1, 1], [1, 1], [1, 1], [1, np.nan], [1, 1]],
        ),
        (
            "no plane: 1 image without a position, 1 image without directions, 2 "
            "images whose directions are not orthogonal unit vectors, 1 image without "
            "a pixel spacing",
        ),
    ),
}


@pytest.mark.parametrize("name", NONE)
def test_a_stack_that_is_no_volume_says_why(name):
    """The problem is named, with the figures that show it."""
    columns, problems = NONE[name]
    found = find_volumes(**columns)
    assert found == ((), (), problems)
    rules = {text.partition(":")[0] for text in problems}
    assert set(geometry.broken_rules(**columns)) == rules - {"mixed shapes"}


def test_images_without_a_plane_do_not_hide_a_volume():
    """The others are a volume if none is missing among them, else they are uneven."""
    columns = series([0.0, 1, 2, 3, np.nan])
    found = find_volumes(**columns)
    assert [m.tolist() for m in found.members] == [[0, 1, 2, 3]]
    assert found.problems == ("no plane: 1 image without a position",)
    columns["spacings_mm"][1] = np.nan
    found = find_volumes(**columns)
    assert found.members == ()
    assert [text.split(":")[0] for text in found.problems] == ["no plane", "uneven"]


def test_an_image_of_another_shape_does_not_hide_a_volume():
    """A scout of its own shape is named; the slices are a volume."""
    columns = series([0.0, 1, 2, 1], kinds=[7, 7, 7, 3])
    columns["directions"][3] = SAGITTAL
    found = find_volumes(**columns)
    assert [m.tolist() for m in found.members] == [[0, 1, 2]]
    assert found.problems == (
        "mixed shapes: images of 2 shapes or dtypes (3 and 1)",
        "single: 1 image with no other of the same shape, dtype and time",
    )


def cine(slices=4, times=3):
    """The columns of a series with several times, and its trigger times."""
    position, rank = np.divmod(np.arange(slices * times), times)
    columns = series(position * 10.0)
    return columns, 20.0 * rank + 0.3 * position


def test_k_times_are_k_volumes():
    """Trigger times that differ from slice to slice number the same times."""
    columns, trigger = cine()
    unknown = np.full(12, np.nan)
    columns["times"] = number_times(columns["origins"][:, 2], unknown, trigger)
    assert columns["times"].tolist() == [0, 1, 2] * 4
    found = find_volumes(**columns)
    assert [m.tolist() for m in found.members] == [
        [k, k + 3, k + 6, k + 9] for k in range(3)
    ]
    assert found.spacings_mm == (10, 10, 10)
    assert found.problems == ()


def test_volumes_are_sorted_by_time():
    """Then by where they begin, whatever the numbers of their kinds."""
    columns = series([5.0, 6, 0, 1, 5, 6, 0, 1], times=[1, 1, 1, 1, 0, 0, 0, 0])
    for kinds in ([1, 1, 0, 0] * 2, [0, 0, 1, 1] * 2):
        found = find_volumes(**columns | {"kinds": np.array(kinds)})
        assert [m[0] for m in found.members] == [6, 4, 2, 0]


def test_the_normal_of_a_volume_is_that_of_its_least_directions():
    """So its spacing has the same bits, whichever of its slices comes first."""
    turn = rotation([5e-5, 0, 0])
    columns = series(np.arange(8) * 2.0)
    columns["directions"][3] = np.concatenate([turn[:, 0], turn[:, 1]])
    columns["origins"] += [0, 100, 0]
    expected = find_volumes(**columns).spacings_mm
    assert expected != (2.0,)
    for k in range(8):
        moved_on = {name: np.roll(value, k, axis=0) for name, value in columns.items()}
        assert find_volumes(**moved_on).spacings_mm == expected


def test_one_bad_time_does_not_hide_the_others():
    """The times that are fine are volumes; the problem names the one that is not."""
    columns, trigger = cine()
    columns["times"] = number_times(
        columns["origins"][:, 2], np.full(12, np.nan), trigger
    )
    columns["origins"][4, 0] = 1.0
    found = find_volumes(**columns)
    assert [m[0] for m in found.members] == [0, 2]
    assert found.problems == (
        "shifted: slices are shifted by up to 1 mm in their planes (at time 1)",
    )
    columns["origins"][5, 0] = 1.0
    found = find_volumes(**columns)
    assert found.problems == (
        "shifted: slices are shifted by up to 1 mm in their planes (at time 1 and 1 "
        "more)",
    )


NAN = np.nan
TIMES = {
    "one image at each position": ([0, 1, 2], [5, 6, 7], [1, 2, 3], [NAN] * 3),
    "temporal positions": ([0, 0, 1, 1], [3, 1, 1, 3], [NAN] * 4, [1, 0, 0, 1]),
    "trigger times": ([0, 0, 1, 1], [NAN] * 4, [9, 8, 3, 4], [1, 0, 0, 1]),
    "first by temporal position": ([0, 0], [2, 1], [1, 2], [1, 0]),
    "first by temporal positions that count all images": (
        [0, 0, 1, 1],
        [2, 1, 3, 4],
        [1, 2, 2, 1],
        [1, 0, 0, 1],
    ),
    "equal temporal positions": ([0, 0], [1, 1], [2, 1], [1, 0]),
    "a temporal position that one lacks": ([0, 0], [1, NAN], [2, 1], [1, 0]),
    "nothing known": ([0, 0, 1], [NAN] * 3, [NAN] * 3, [NAN] * 3),
    "a trigger time that one lacks": ([0, 0], [NAN] * 2, [1, NAN], [NAN] * 2),
    "a tie": ([0, 0, 0, 1, 1], [NAN] * 5, [1, 2, 2, 1, 2], [NAN, NAN, NAN, 0, 1]),
    "one image where others have two": (
        [0, 0, 1],
        [NAN] * 3,
        [1, 2, 2],
        [0, 1, NAN],
    ),
    "trigger times, one of them missing": (
        [0] * 6 + [1] * 5 + [2] * 6,
        [NAN] * 17,
        [18, 56, 94, 132, 170, 208, 20, 60, 140, 180, 220, 19, 58, 97, 136, 175, 214],
        [0, 1, 2, 3, 4, 5, 0, 1, 3, 4, 5, 0, 1, 2, 3, 4, 5],
    ),
    "trigger times, the last missing": (
        [0] * 5 + [1] * 4,
        [NAN] * 9,
        [0, 10, 20, 30, 40, 0, 11, 22, 33],
        [0, 1, 2, 3, 4, 0, 1, 2, 3],
    ),
    "every second trigger time": (
        [0] * 5 + [1] * 3,
        [NAN] * 8,
        [0, 10, 20, 30, 40, 0, 20, 40],
        [0, 1, 2, 3, 4, 0, 2, 4],
    ),
    "every second trigger time of a slower heart": (
        [0] * 5 + [1] * 3,
        [NAN] * 8,
        [0, 10, 20, 30, 40, 0, 22, 44],
        [0, 1, 2, 3, 4, NAN, NAN, NAN],
    ),
    "trigger times of a slower heart, one of them missing": (
        [0] * 8 + [1] * 7,
        [NAN] * 15,
        [0, 10, 20, 30, 40, 50, 60, 70, 0, 11, 33, 44, 55, 66, 77],
        [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 3, 4, 5, 6, 7],
    ),
    "trigger times of a heart that is too slow": (
        [0] * 8 + [1] * 7,
        [NAN] * 15,
        [0, 10, 20, 30, 40, 50, 60, 70, 0, 12, 36, 48, 60, 72, 84],
        [0, 1, 2, 3, 4, 5, 6, 7, *[NAN] * 7],
    ),
    "two trigger times of six missing": (
        [0] * 6 + [1] * 4,
        [NAN] * 10,
        [0, 10, 20, 30, 40, 50, 0, 10, 20, 30],
        [0, 1, 2, 3, 4, 5, 0, 1, 2, 3],
    ),
    "the first trigger time of four missing": (
        [0] * 4 + [1] * 3,
        [NAN] * 7,
        [0, 10, 20, 30, 11, 22, 33],
        [0, 1, 2, 3, 1, 2, 3],
    ),
    "another trigger time missing at each position": (
        [0] * 4 + [1] * 4 + [2] * 4,
        [NAN] * 12,
        [5, 15, 25, 45, 16.5, 27.5, 38.5, 49.5, 5, 15, 35, 45],
        [0, 1, 2, 4, 1, 2, 3, 4, 0, 1, 3, 4],
    ),
    "trigger times that are all later": (
        [0] * 5 + [1] * 4,
        [NAN] * 9,
        [0, 10, 20, 30, 40, 100, 110, 120, 130],
        [0, 1, 2, 3, 4, 10, 11, 12, 13],
    ),
    "trigger times half an interval later": (
        [0] * 3 + [1] * 3 + [2] * 3,
        [NAN] * 9,
        [0, 10, 20, 0, 10, 20, 5, 15, 25],
        [0, 1, 2] * 3,
    ),
    "trigger times that are late by much, after beats of several lengths, of all": (
        [0] * 4 + [1] * 4 + [2] * 4,
        [NAN] * 12,
        [80, 90, 100, 110, 80, 90, 100, 110, 80, 91.4, 102.8, 114.2],
        [0, 1, 2, 3] * 3,
    ),
    "trigger times of slices that are imaged in turn": (
        [0] * 2 + [1] * 2 + [2] * 2 + [3] * 2 + [4] * 2 + [5] * 2,
        [NAN] * 12,
        [0, 60, 10, 70, 20, 80, 30, 90, 40, 100, 50, 110],
        [0, 1] * 6,
    ),
    "trigger times that go on from slice to slice": (
        [0] * 3 + [1] * 3 + [2] * 3,
        [NAN] * 9,
        [0, 10, 20, 30, 40, 50, 70, 80, 90],
        [0, 1, 2] * 3,
    ),
    "trigger times half an interval later, where one is missing": (
        [0] * 4 + [1] * 4 + [2] * 3,
        [NAN] * 11,
        [0, 10, 20, 30, 0, 10, 20, 30, 5, 15, 25],
        [0, 1, 2, 3, 0, 1, 2, 3, NAN, NAN, NAN],
    ),
    "trigger times half an interval later, where all may miss the first or last": (
        [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4,
        [NAN] * 16,
        [0, 10, 20, 30, 10, 20, 30, 40, 5, 15, 25, 35, 0, 10, 20, 30],
        [0, 1, 2, 3, 1, 2, 3, 4, *[NAN] * 4, 0, 1, 2, 3],
    ),
    "trigger times that are late by much, after beats of several lengths": (
        [0] * 4 + [1] * 4 + [2] * 3,
        [NAN] * 11,
        [80, 90, 100, 110, 80, 90, 100, 110, 80, 91.4, 102.8],
        [0, 1, 2, 3, 0, 1, 2, 3, NAN, NAN, NAN],
    ),
    "a gap of more intervals than are counted": (
        [0] * 7 + [1] * 4,
        [NAN] * 11,
        [0, 10, 20, 30, 40, 50, 60, 0, 11, 66, 77],
        [0, 1, 2, 3, 4, 5, 6, *[NAN] * 4],
    ),
    "coarser trigger times": (
        [0] * 5 + [1] * 5 + [2] * 5 + [3] * 4,
        [NAN] * 19,
        [*[0, 32, 64, 96, 128] * 3, 0, 40, 80, 120],
        [*[0, 1, 2, 3, 4] * 3, *[NAN] * 4],
    ),
    "uneven trigger times, of which some are missing": (
        [0] * 5 + [1] * 5 + [2] * 3 + [3] * 2,
        [NAN] * 15,
        [0, 10, 14, 60, 99, 1, 11, 15, 61, 99, 0, 14, 98, 10, 60],
        [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 2, 4, NAN, NAN],
    ),
    "two trigger times near one of a pattern": (
        [0] * 4 + [1] * 2,
        [NAN] * 6,
        [0, 10, 100, 200, 98, 102],
        [0, 1, 2, 3, NAN, NAN],
    ),
    "uneven trigger times that differ": (
        [0] * 4 + [1] * 4,
        [NAN] * 8,
        [0, 10, 14, 60, 0, 10, 56, 60],
        [NAN] * 8,
    ),
    "two trigger times at each position, far apart and near": (
        [0, 0, 1, 1],
        [NAN] * 4,
        [0, 40, 0, 80],
        [0, 1, NAN, NAN],
    ),
    "trigger times of any size": (
        [0] * 3 + [1] * 3,
        [NAN] * 6,
        [-1.7e308, 0, 1.7e308, 0, 5e-324, 1],
        [NAN] * 6,
    ),
    "a position with fewer images, and one that is doubled": (
        [0] * 5 + [1] * 4 + [2] * 6,
        [NAN] * 15,
        [0, 10, 20, 30, 40, 0, 10, 20, 30, 0, 0, 10, 20, 30, 40],
        [0, 1, 2, 3, 4, 0, 1, 2, 3, *[NAN] * 6],
    ),
    "a temporal position that is missing": (
        [0, 0, 0, 1, 1, 2],
        [10, 20, 30, 10, 30, 20],
        [NAN] * 6,
        [0, 1, 2, 0, 2, 1],
    ),
    "temporal positions of which each slice lacks another": (
        [0, 0, 5, 5, 10, 10],
        [2, 3, 1, 3, 1, 2],
        [NAN] * 6,
        [1, 2, 0, 2, 0, 1],
    ),
    "temporal positions that tell fewer images apart than trigger times": (
        [0, 0, 1, 1],
        [1, 2, 1, NAN],
        [1, 2, 1, 2],
        [0, 1, 0, 1],
    ),
    "temporal positions that count all images": (
        [0, 0, 1, 1],
        [1, 2, 3, 4],
        [NAN] * 4,
        [0, 1, 0, 1],
    ),
    "a temporal position of 0, and one that is unknown": (
        [0, 0, 1],
        [0, 1, NAN],
        [NAN] * 3,
        [0, 1, NAN],
    ),
    "temporal positions that repeat": (
        [0, 0, 1, 1],
        [1, 1, 1, 2],
        [5, 6, 7, 8],
        [0, 1, 0, 1],
    ),
    "no position": ([NAN, NAN, 1, 1], [1, 2, 1, 2], [NAN] * 4, [NAN, NAN, 0, 1]),
    "positions that are nearly the same": ([0, 0.009], [1, 2], [NAN] * 2, [0, 1]),
    "positions that are not the same": ([0, 0.011], [1, 2], [NAN] * 2, [NAN] * 2),
    "an infinite trigger time": ([0, 0], [NAN] * 2, [1, np.inf], [NAN] * 2),
    "zero and minus zero": ([0.0, -0.0], [0.0, -0.0], [1, 2], [0, 1]),
    "no images": ([], [], [], []),
}


@pytest.mark.parametrize("name", TIMES)
def test_times_are_equal_where_images_match(name):
    """By temporal position or trigger time, and NaN where these do not tell."""
    *columns, expected = TIMES[name]
    columns = [np.array(column, dtype=np.float64) for column in columns]
    assert_array_equal(number_times(*columns), expected)
    assert_array_equal(number_times(*(c[::-1] for c in columns)), expected[::-1])


@st.composite
def cines(draw, most_missing, hearts=0.1, jitter=0.02):
    """A cine of 12 x 20 images: columns of `number_times`, and the true times.

    Its hearts beat at each position in their own way, and images are missing.
    """
    seed = draw(st.integers(0, 2**32 - 1))
    share = draw(st.floats(0, most_missing))
    random = np.random.default_rng(seed)
    position, phase = np.divmod(np.arange(240), 20)
    interval = 40 * random.uniform(1 - hearts, 1 + hearts, 12)
    start = draw(st.sampled_from([0.0, 0.5, 1.0]))
    trigger = (phase + start + random.uniform(-jitter, jitter, 240)) * interval[
        position
    ]
    kept = random.permutation(240)[round(share * 240) :]
    columns = position[kept], np.full(len(kept), np.nan), trigger[kept]
    return columns, phase[kept]


def check_matches(times, phases):
    """Check that times are phases, except that a number may be missing for all."""
    known = np.isfinite(times)
    pairs = {*zip(times[known].tolist(), phases[known].tolist(), strict=True)}
    for side in zip(*pairs, strict=True):
        assert len({*side}) == len(pairs)


@given(cines(most_missing=0.2))
def test_images_that_are_missing_change_no_times(case):
    """Wherever they are, images of two phases never get one time, and most get one."""
    columns, phases = case
    times = number_times(*columns)
    check_matches(times, phases)
    assert np.isfinite(times).mean() > 0.5


@given(cines(most_missing=0.4))
def test_many_images_that_are_missing_mix_no_times(case):
    """Then many images have no time, but none has that of another phase."""
    columns, phases = case
    check_matches(number_times(*columns), phases)


@given(
    st.lists(
        st.sets(st.integers(1, 5), min_size=2, max_size=4), min_size=2, max_size=6
    ).filter(lambda sites: len(set.union(*sites)) < sum(map(len, sites)))
)
def test_temporal_positions_are_the_same_time_everywhere(sites):
    """Whichever of them each position has, as long as two have one in common."""
    position = np.repeat(np.arange(len(sites)), [len(site) for site in sites])
    identifiers = np.concatenate([list(site) for site in sites])
    times = number_times(position, identifiers, np.full(len(position), np.nan))
    ranks = np.searchsorted(sorted(set.union(*sites)), identifiers)
    assert_array_equal(times, ranks)


def test_images_without_a_time_are_in_no_volume_where_others_have_one():
    """Alone at even positions they would look like one, of several phases."""
    columns = series([0.0, 0, 1, 1, 2, 3, 4])
    times = number_times(columns["origins"][:, 2], [NAN] * 7, [1, 2, 1, 2, 1, 2, 1])
    assert_array_equal(times, [0, 1, 0, 1, NAN, NAN, NAN])
    found = find_volumes(**columns | {"times": times})
    assert [m.tolist() for m in found.members] == [[0, 2], [1, 3]]
    assert found.problems == (
        "unmatched: 3 images without a time, where others have one: trigger times fit "
        "no time of the series, or are equal or unknown",
    )


def test_images_without_a_time_are_a_volume_of_their_own_direction():
    """A stack beside a cine is one, though its images have no times."""
    columns = series([0.0, 0, 1, 1, 0, 1], times=[0, 1, 0, 1, NAN, NAN])
    columns["directions"][4:] = SAGITTAL
    columns["origins"][4:, 0] = [5, 6]
    columns["origins"][4:, 2] = 0
    found = find_volumes(**columns)
    assert sorted(m.tolist() for m in found.members) in (
        [[0, 2], [1, 3], [4, 5]],
        [[0, 2], [1, 3], [5, 4]],
    )
    assert found.problems == ()


def test_positions_of_other_stacks_are_other_positions():
    """A scout that happens to have the position of a slice doubles nothing."""
    positions, unknown = np.array([0.0, 1, 2, 1]), np.full(4, np.nan)
    directions = [AXIAL, AXIAL, AXIAL, SAGITTAL]
    stacks = geometry.number_stacks(directions, [0, 0, 0, 0])
    assert len({*stacks[:3].tolist()}) == 1
    assert stacks[3] != stacks[0]
    trigger = np.array([1.0, 2, 3, 4])
    assert_array_equal(number_times(positions, unknown, trigger), [NAN, 0, NAN, 1])
    assert_array_equal(number_times(positions, unknown, trigger, stacks), unknown)


def test_stacks_are_of_one_direction_and_kind():
    """Unknown directions are one; numbers are the same in any order."""
    directions = np.array([AXIAL, SAGITTAL, AXIAL, [np.nan] * 6, AXIAL, [np.nan] * 6])
    directions[4, 1] = 9e-5
    kinds = np.array([5, 5, 1, 5, 5, 5])
    stacks = geometry.number_stacks(directions, kinds)
    assert stacks[0] == stacks[4]
    assert stacks[3] == stacks[5]
    assert len({*stacks.tolist()}) == 4
    backwards = geometry.number_stacks(directions[::-1], kinds[::-1])
    assert_array_equal(backwards[::-1], stacks)


# What may spoil an image of a series: a column, and its other value.
SPOILS = [
    ("across", 0.06),
    ("across", 1.0),
    ("across", np.nan),
    ("along", -0.0),
    ("along", 2.005),
    ("along", 4.2),
    ("directions", SAGITTAL),
    ("directions", [1, 8e-5, 0, 0, 1, 0]),
    ("directions", [0] * 6),
    ("spacings_mm", (1, 3)),
    ("spacings_mm", (1, np.nan)),
    ("thicknesses_mm", 0.5),
    ("kinds", 1),
    ("temporal", 1.0),
    ("temporal", np.nan),
    ("trigger", 10.0),
    ("trigger", np.nan),
]


@st.composite
def any_series(draw):
    """A series with one or several times, and up to four values that spoil it."""
    times = draw(st.integers(1, 3))
    n = times * draw(st.integers(0, 5))
    position, rank = np.divmod(np.arange(n), times)
    known = st.sampled_from([1.0, np.nan])
    columns = {
        "across": np.full(n, -0.0),
        "along": 2.0 * position,
        "directions": np.tile(AXIAL, (n, 1)),
        "spacings_mm": np.full((n, 2), (1.0, 2.0)),
        "thicknesses_mm": np.full(n, draw(st.sampled_from([1.1, 2.0, np.nan]))),
        "kinds": np.zeros(n, dtype=np.int64),
        "temporal": (rank + 1.0) * draw(known),
        "trigger": 10.0 * rank * draw(known),
    }
    spoils = st.tuples(st.integers(0, n - 1), st.sampled_from(SPOILS))
    for k, (name, value) in draw(st.lists(spoils, max_size=4)) if n else ():
        columns[name][k] = value
    turn = rotation(draw(angles))
    across, along = columns.pop("across"), columns.pop("along")
    columns["origins"] = np.stack([across, np.full(n, -0.0), along], axis=1) @ turn.T
    directions = columns["directions"].reshape(n, 2, 3) @ turn.T
    columns["directions"] = directions.reshape(n, 6)
    return columns


def with_times(columns):
    """Return the arguments of `find_volumes` for a series."""
    columns = dict(columns)
    stacks = geometry.number_stacks(columns["directions"], columns["kinds"])
    positions = geometry.positions_along_normal(
        columns["origins"], columns["directions"]
    )
    columns["times"] = number_times(
        positions, columns.pop("temporal"), columns.pop("trigger"), stacks
    )
    return columns


def described(columns, names):
    """Return all that geometry says of a series, with names for indices."""
    columns = with_times(columns)
    found = find_volumes(**columns)
    members = [[names[k] for k in one.tolist()] for one in found.members]
    times = {
        name: repr(t) for name, t in zip(names, columns["times"].tolist(), strict=True)
    }
    return members, found.spacings_mm, found.problems, times


@given(any_series(), st.randoms(use_true_random=False))
def test_no_result_depends_on_the_order_of_the_images(columns, random):
    """Members, spacings, problems and times are the same, to the last bit."""
    names = list(range(len(columns["kinds"])))
    shuffled = random.sample(names, len(names))
    expected = described(columns, names)
    other = {name: value[shuffled] for name, value in columns.items()}
    assert described(other, shuffled) == expected


@given(any_series())
def test_every_image_is_in_one_volume_or_explained(columns):
    """No image is in two volumes, and problems are there if and only if one is left."""
    members, spacings, problems, _ = described(columns, range(len(columns["kinds"])))
    flat = [k for one in members for k in one]
    assert len(flat) == len({*flat})
    assert bool(problems) == (len(flat) < len(columns["kinds"]))
    assert list(problems) == sorted({*problems})
    rules = geometry.broken_rules(**with_times(columns))
    assert [k for k, rule in enumerate(rules) if not rule] == sorted(flat)
    named = {text.partition(":")[0] for text in problems}
    assert {rule for rule in rules if rule} == named - {"mixed shapes"}
    have = geometry.have_planes(
        columns["origins"], columns["directions"], columns["spacings_mm"]
    )
    assert have[flat].all()
    for one, spacing in zip(members, spacings, strict=True):
        rising = geometry.positions_along_normal(
            columns["origins"][one], columns["directions"][one]
        )
        assert_allclose(np.diff(rising), spacing, atol=0.2)


@given(planes(), st.integers(2, 6), st.floats(0.1, 10), st.integers(0, 5))
def test_a_voxel_lies_where_its_slice_puts_it(plane, slices, step, column):
    """The affine of a volume agrees with the plane of each of its slices."""
    origins = plane.origin + np.arange(slices)[:, None] * step * plane.normal
    affine = geometry.volume_affine(
        origins,
        np.concatenate([plane.row_direction, plane.column_direction]),
        plane.spacing_mm,
    )
    for z, origin in enumerate(origins):
        one = Plane(
            origin=origin,
            row_direction=plane.row_direction,
            column_direction=plane.column_direction,
            spacing_mm=plane.spacing_mm,
        )
        (patient,) = one.pixel_to_patient([[column, 7]])
        size = np.abs(origins).max() + 100
        voxel = affine @ [z, 7, column, 1]
        assert_allclose(voxel[:3], patient, rtol=0, atol=ROUNDING * size)
    # Slices rise along the normal: columns, rows and slices are right-handed.
    assert np.linalg.det(affine[:, [2, 1, 0, 3]]) > 0


@given(any_series(), any_series())
def test_series_may_be_judged_in_one_call(one, two):
    """If they have kinds of their own, each image breaks the same rule as alone."""
    one, two = with_times(one), with_times(two)
    apart = [*geometry.broken_rules(**one), *geometry.broken_rules(**two)]
    kinds = two["kinds"] + one["kinds"].max(initial=0) + 1
    joined = {
        name: np.concatenate([one[name], column])
        for name, column in (two | {"kinds": kinds}).items()
    }
    assert geometry.broken_rules(**joined) == apart


def test_problems_do_not_depend_on_the_numbers_of_kinds():
    """Of two shapes that are uneven at one time, the text is of the same one."""
    columns = series([0.0, 1, 3, 0, 2, 5])
    found = [
        find_volumes(**columns | {"kinds": np.repeat(kinds, 3)}).problems
        for kinds in ([0, 1], [1, 0])
    ]
    assert found[0] == found[1]


def test_the_step_of_a_volume_is_that_of_its_ends():
    """A slice between whose position is rounded moves no voxel."""
    affine = geometry.volume_affine([[0, 0, 0], [0, 0, 1.04], [0, 0, 2]], AXIAL, [3, 4])
    assert_array_equal(affine @ [1, 1, 1, 1], [4, 3, 1, 1])
    assert_array_equal(affine[:3, :3], [[0, 0, 4], [0, 3, 0], [1, 0, 0]])


def test_other_shapes_are_named_where_slices_are_uneven():
    """A series whose slices have two shapes in turn says so."""
    columns = series([0.0, 1, 3, 2, 5], kinds=[0, 0, 0, 1, 1])
    found = find_volumes(**columns)
    assert [m.tolist() for m in found.members] == [[3, 4]]
    assert [text.split(":")[0] for text in found.problems] == ["mixed shapes", "uneven"]


def test_many_images_take_little_time():
    """The time of 10 000 images grows with their number, not with its square."""
    n = 10_000
    random = np.random.default_rng(0)
    order = random.permutation(n)
    unknown = np.full(n, np.nan)

    def seconds(columns, trigger):
        started = time.process_time()
        stacks = geometry.number_stacks(columns["directions"], columns["kinds"])
        positions = geometry.positions_along_normal(
            columns["origins"], columns["directions"]
        )
        columns["times"] = number_times(positions, unknown, trigger, stacks)
        found = find_volumes(**columns)
        return time.process_time() - started, found

    columns = series(1.0 * (order // 2))
    spent, found = seconds(columns, order % 2 * 10.0)
    assert [len(m) for m in found.members] == [5000, 5000]
    assert spent < 1
    columns = series(1.0 * (order % 2))
    spent, found = seconds(columns, 1.0 * (order // 2))
    assert len(found.members) == 5000
    assert spent < 1
    turns = random.uniform(0, 3, n)
    columns = series(np.arange(n) * 1.0)
    columns["directions"][:, 0] = columns["directions"][:, 4] = np.cos(turns)
    columns["directions"][:, 1] = np.sin(turns)
    columns["directions"][:, 3] = -np.sin(turns)
    spent, found = seconds(columns, unknown)
    assert found.problems[0].startswith("mixed orientations: ")
    assert spent < 1
    columns = series(np.arange(n) % 4 * 4.0, thicknesses_mm=np.full(n, 2.0))
    columns["kinds"] = np.arange(n) // 4
    spent, found = seconds(columns, unknown)
    assert found.problems == ("gap: slices are 4 mm apart and 2 mm thick",)
    assert spent < 1


def test_the_page_of_geometry_gives_the_tolerances():
    """Each constant of its table has the value that the page says."""
    text = (PROJECT / "docs" / "geometry.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"\| `([A-Z_]+)` \| ([\d.]+)", text))
    assert len(told) == 8
    for name, value in told.items():
        assert getattr(geometry, name) == float(value), name
