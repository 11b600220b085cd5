"""Polygons survive the way from pixels to the text of a structure set and back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fastseg.dicom.structure_set import read_structure_set
from fastseg.geometry import Plane
from tests.structure_sets import encode, make_contour, make_structure_set

# mm. A text of 16 characters has 10 decimals if there are up to four digits, a sign and
# a point before them; it is rounded to the last one.
PRECISION_MM = 0.5e-10
# Pixels. Planes compute in float64: numbers up to 10 000 have this precision.
ROUNDING = 1e-10


@st.composite
def planes(draw):
    """Draw a plane in any direction, with pixels of any shape."""
    angles = st.floats(-np.pi, np.pi)
    a, b, c = draw(st.tuples(angles, angles, angles))
    about_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    again = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    directions = np.array(about_z) @ about_x @ again
    position = st.floats(-1000, 1000)
    spacing = st.floats(0.1, 5)
    return Plane(
        origin=draw(st.tuples(position, position, position)),
        row_direction=directions[0],
        column_direction=directions[1],
        spacing_mm=draw(st.tuples(spacing, spacing)),
    )


polygons = npst.arrays(
    np.float64,
    st.tuples(st.integers(3, 20), st.just(2)),
    elements=st.floats(-1000, 1000),
)


@given(planes(), polygons)
def test_a_polygon_survives_as_text(plane, ring):
    """Pixels to mm to text to a structure set and back: exact but for the text."""
    contour = make_contour(plane.pixel_to_patient(ring))
    data = encode(make_structure_set({"A": [contour]}))
    points, _ = read_structure_set(data, "a.dcm").points([0])
    pixels, off = plane.patient_to_pixel(points)
    off_mm = np.sqrt(3) * PRECISION_MM + ROUNDING
    assert np.abs(off).max() <= off_mm
    assert np.abs(pixels - ring).max() <= off_mm / min(plane.spacing_mm) + ROUNDING
