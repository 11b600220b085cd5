"""The reader of structure sets finds the contours that a key names, or says why not."""

import re
import tracemalloc

import pytest

import fastseg
from fastseg import dicom, sources
from fastseg.errors import ContourError
from fastseg.sources.rtstruct import make_key
from tests.sources.dicom_files import save_slice
from tests.sources.outlined_slices import (
    contour,
    link,
)
from tests.structure_sets import (
    make_structure_set,
    save,
)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "contour_key is ''"),
        ("1", "contour_key is '1'"),
        ("1:1", "contour_key is '1:1'"),
        ("1#", "contour_key is '1#'"),
        ("1#2~", "contour_key is '1#2~'"),
        ("1#2,", "contour_key is '1#2,'"),
        ("1#0", "expected rising numbers from 1"),
        ("1#2,1", "expected rising numbers from 1"),
        ("1#3-2", "expected rising numbers from 1"),
        ("1#1-999999999", "has no contour 999999999"),
        ("1#4", "ROI 1 has no contour 4"),
        ("7#1", "no ROI with number 7 can be used"),
        ("1#2", "are open, damaged or of several types"),
        ("1#1,3", "are open, damaged or of several types"),
    ],
)
def test_a_key_that_the_file_does_not_have_is_refused(scan, key, reason):
    """ContourError says what is wrong with it."""
    contours = [contour(1), contour(1, [(1, 1)], kind="POINT")]
    contours.append(contour(1, kind="CLOSEDPLANAR_XOR"))
    save(make_structure_set({"A": contours}), scan / "set")
    reader = sources.READERS["rtstruct"]
    parsed = reader.parse((scan / "set").read_bytes(), "set")
    row = fastseg.links.Link("P1", "ct/1.dcm", "set", contour_key=key)
    header = dicom.read_header(scan / "ct" / "1.dcm")
    with pytest.raises(ContourError, match=f"set: .*{re.escape(reason)}"):
        reader.rings(parsed, row, header)


def test_a_key_takes_no_more_memory_than_its_roi(scan):
    """A few bytes of a table that name four million contours are refused at once."""
    save(make_structure_set({"A": [contour(1)]}), scan / "set")
    reader = sources.READERS["rtstruct"]
    parsed = reader.parse((scan / "set").read_bytes(), "set")
    row = fastseg.links.Link("P1", "ct/1.dcm", "set", contour_key="1#1-4000000")
    header = dicom.read_header(scan / "ct" / "1.dcm")
    tracemalloc.start()
    try:
        assert reader.many_rings(parsed, [row], [header]) == [None]
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_rings_need_the_plane_where_they_lie(scan):
    """An image that was replaced by one beside it, or without a plane, is refused."""
    save(make_structure_set({"A": [contour(1)]}), scan / "set")
    (row,) = link(scan, slices="labelled").links
    reader = sources.READERS["rtstruct"]
    parsed = reader.parse((scan / "set").read_bytes(), "set")
    for changes, reason in (
        ({"ImagePositionPatient": [-8, -8, 12.5]}, "lies 10.5 mm off the plane of ct"),
        (
            {"ImagePositionPatient": [-8, -8, 2.2]},
            "0.2 mm off .*: either file was repl",
        ),
        ({"ImagePositionPatient": None}, "has no position, directions or pixel"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "has no plane: directions"),
    ):
        save_slice(scan / "ct" / "1.dcm", 1, **changes)
        header = dicom.read_header(scan / "ct" / "1.dcm")
        with pytest.raises(ContourError, match=reason):
            reader.rings(parsed, row, header)
    with pytest.raises(ContourError, match="has no position"):
        reader.rings(parsed, row, None)


def test_a_structure_set_that_was_replaced_is_not_drawn_on_other_images(scan):
    """Whose contours have other numbers, lie farther off, or are more than before."""
    reader = sources.READERS["rtstruct"]
    save(make_structure_set({"A": [contour(1, dz=0.15), contour(2)]}), scan / "set")
    links = link(scan, slices="labelled").links
    assert [row.contour_key for row in links] == ["1#1/2~0.15", "1#2/2"]
    headers = [dicom.read_header(scan / row.dicom_path) for row in links]
    for contours, reason in (
        ([contour(0), contour(1)], "which is not where it was linked"),
        ([contour(1, dz=0.16)] * 2, "which is not where it was linked"),
        ([contour(1), contour(2), contour(1)], "has 3 contours, and had 2 when"),
    ):
        save(make_structure_set({"A": contours}), scan / "set")
        parsed = reader.parse((scan / "set").read_bytes(), "set")
        assert reader.many_rings(parsed, links, headers) == [None, None]
        for row, header in zip(links, headers, strict=True):
            with pytest.raises(ContourError, match=reason):
                reader.rings(parsed, row, header)


def test_keys_shorten_numbers_that_follow_each_other():
    """Three and more of them are a range."""
    assert make_key(4, [17], 41) == "4#17/41"
    assert make_key(4, [17], 41, 0.1) == "4#17/41"
    assert make_key(4, [17], 41, 0.101) == "4#17/41~0.11"
    assert make_key(4, [17, 18], 41, 10.0) == "4#17,18/41~10"
    assert make_key(4, [1, 2, 4], 4) == "4#1,2,4/4"
    assert make_key(0, [1, 2, 3, 5, 7, 8, 9, 10], 10) == "0#1-3,5,7-10/10"
