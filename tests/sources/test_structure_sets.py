"""Structure sets are linked by the images that contours name, or by their positions."""

import re

import numpy as np
import pytest

import fastseg
from fastseg import dicom, sources
from fastseg.errors import LinkError, OptionError
from fastseg.store import layout
from tests.sources.dicom_files import make_frames, save_slice, uid
from tests.sources.dicom_files import save as save_image
from tests.sources.outlined_slices import (
    SMALL,
    SQUARE,
    bare,
    contour,
    image,
    link,
    link_some,
    masks,
    ring,
    rows,
)
from tests.structure_sets import (
    make_contour,
    make_structure_set,
    save,
)


def test_contours_belong_to_the_images_that_they_name(scan):
    """Each row has the contours of an ROI on an image, numbered from 1."""
    contours = [contour(2), contour(0), contour(2, SMALL), contour(3)]
    rois = {"Heart": contours, "Lung": [contour(0, SMALL)]}
    save(make_structure_set(rois, series=()), scan / "rs" / "set.dcm")
    table = link(scan)
    assert rows(table) == [
        ("0.dcm", "Heart", "1#2"),
        ("0.dcm", "Lung", "2#1"),
        ("2.dcm", "Heart", "1#1,3"),
        ("3.dcm", "Heart", "1#4"),
    ]
    assert {row.contour_path for row in table.links} == {"rs/set.dcm", ""}
    assert {row.format for row in table.links if row.contour_path} == {"rtstruct"}
    assert [row.position_mm for row in table.links] == [0, 0, 2, 4, 6]
    assert table.unlabelled == 1
    assert table.notes == (
        "1 CT series of 1 patient",
        "1 image without a contour: 1 linked",
        "1 structure set, 5 contours matched: 5 by the images that they name",
    )
    assert table.left_out == {}


def test_masks_of_links_have_holes_and_are_not_rounded(scan):
    """Rings of an ROI on an image are one group, in pixels with their fractions."""
    odd = [(0.5, 0.25), (6.75, 1.125), (3.375, 6.875)]
    rois = {"Heart": [contour(1), contour(1, SMALL)], "Apex": [contour(1, odd)]}
    save(make_structure_set(rois), scan / "set.dcm")
    drawn = masks(link(scan))
    whole = fastseg.rasterize([SQUARE, SMALL], (8, 8))
    np.testing.assert_array_equal(drawn["ct/1.dcm", "Heart"], whole)
    apex = fastseg.rasterize(odd, (8, 8))
    np.testing.assert_array_equal(drawn["ct/1.dcm", "Apex"], apex)


def test_contours_without_references_lie_in_the_series_that_is_named(scan):
    """Of two series in one frame of reference, that of RTReferencedSeriesSequence."""
    for k in range(4):
        save_slice(scan / "mr" / f"{k}.dcm", k, series="S2", Modality="MR")
    save(make_structure_set({"Heart": [bare(1)]}, series=["S2"]), scan / "set.dcm")
    table = link(scan)
    (row,) = [row for row in table.links if row.contour_path]
    assert row.dicom_path == "mr/1.dcm"
    assert len(table) == 4
    assert table.unlabelled == 7
    assert table.notes[1:] == (
        "7 images without a contour: 3 linked, 4 left out, because no image of their "
        "series has one",
        "1 structure set, 1 contour matched: 1 by position in the series that their "
        "structure sets name",
    )


def test_a_series_that_is_absent_leaves_the_frame_of_reference(scan):
    """Contours then belong to the only series of the patient that they fit."""
    save(make_structure_set({"Heart": [bare(1)]}, series=["S9"]), scan / "set.dcm")
    for k in range(4):
        save_slice(scan / "b" / f"{k}", k, patient="P2")
    table = link(scan)
    assert rows(table) == [("1.dcm", "Heart", "1#1")]
    assert "1 by position in their frame of reference" in table.notes[-2]
    assert table.notes[-1] == (
        "1 structure set whose named series are not here: drawn on others in the same "
        "frame of reference"
    )


def test_slices_choose_the_images(scan):
    """Whole series are linked by default; "labelled" and "all" are the others."""
    save_slice(scan / "other" / "0.dcm", 0, series="S2", patient="P2")
    save(make_structure_set({"Heart": [contour(1)]}), scan / "set.dcm")
    assert len(link(scan)) == len(link(scan, slices="series")) == 4
    (row,) = link(scan, slices="labelled").links
    assert (row.dicom_path, row.position_mm) == ("ct/1.dcm", 2)
    table = link(scan, keep_unlabelled=True)
    assert len(table) == 5
    assert table.unlabelled == 4
    assert table.notes[1] == "4 images without a contour: 4 linked"
    assert link(scan, slices="labelled").notes[1] == (
        "4 images without a contour: left out (--slices series or all keeps them)"
    )


@pytest.mark.parametrize(
    ("options", "frames", "expected"),
    [
        ({"images": [(image(9), 2)]}, (0, 2, 4), [1]),
        ({"images": [(image(9), 1, 2, 3)]}, (0, 2, 4), [1]),
        ({"images": [image(9)]}, (0, 2, 4), [1]),
        ({"images": [image(9)]}, (0, 2, 2.05), [1, 2]),
        ({"images": [(image(9), 3)]}, (0, 2, 2.05), [2]),
        ({}, (0, 2, 4), [1]),
    ],
)
def test_frames_are_named_by_number_or_all(tmp_path, options, frames, expected):
    """A contour belongs to those frames that it names and on whose planes it lies."""
    pixels = np.zeros(64 * len(frames))
    ds = make_frames(*frames, k=9, pixels=pixels)
    save_image(ds, tmp_path / "m")
    points = ring(1) + [8, 8, 0]
    save(
        make_structure_set({"Heart": [make_contour(points, **options)]}),
        tmp_path / "set",
    )
    table = link(tmp_path, slices="labelled")
    assert [row.frame for row in table.links] == expected


def test_several_sets_and_series_are_told_apart(scan):
    """Two sets of one series, and one of two series, in folders of their own."""
    for k in range(2):
        save_slice(scan / "pt" / f"{k}.dcm", k, series="S2", Modality="PT")
    one = make_structure_set({"Heart": [contour(1)]})
    both = {"Lung": [contour(1)], "Tumour": [contour(0, series="S2")]}
    two = make_structure_set(both, series=["S1", "S2"])
    save(one, scan / "a" / "set")
    save(two, scan / "b" / "c" / "set")
    table = link(scan)
    found = [(x.dicom_path, x.label, x.contour_path) for x in table.links if x.label]
    assert sorted(found) == [
        ("ct/1.dcm", "Heart", "a/set"),
        ("ct/1.dcm", "Lung", "b/c/set"),
        ("pt/0.dcm", "Tumour", "b/c/set"),
    ]
    assert table.notes[-1].startswith("2 structure sets, ")


def test_the_frame_of_an_roi_chooses_among_named_series(scan):
    """Of two series that a set names, it is that with the ROI's frame of reference."""
    other = uid("other frame")
    for k in range(4):
        save_slice(scan / "pt" / f"{k}", k, series="S2", FrameOfReferenceUID=other)
    ds = make_structure_set({"A": [bare(1)], "B": [bare(1)]}, series=["S1", "S2"])
    ds.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = other
    save(ds, scan / "set")
    found = [(x.dicom_path, x.label) for x in link(scan).links if x.label]
    assert sorted(found) == [("ct/1.dcm", "A"), ("pt/1", "B")]


def test_another_frame_of_reference_is_noted(scan):
    """If images are named, the frame of reference does not forbid to draw on them."""
    ds = make_structure_set({"A": [contour(1)]}, frame=uid("other"))
    save(ds, scan / "set")
    table = link(scan)
    assert rows(table) == [("1.dcm", "A", "1#1")]
    assert table.notes[-1] == (
        "1 structure set with another frame of reference than the images that are "
        "named: matched all the same"
    )


@pytest.mark.parametrize(
    ("dz", "options", "is_linked"),
    [
        (0.09, {}, True),
        (0.19, {}, True),
        (-0.19, {}, True),
        (0.21, {}, False),
        (0.21, {"plane_tolerance_mm": 0.3}, True),
        (0.1, {"plane_tolerance_mm": 0.05}, False),
        (0.9, {"plane_tolerance_mm": 10}, True),
        (1.0, {"plane_tolerance_mm": 10}, False),
    ],
)
@pytest.mark.parametrize("make", [contour, bare])
def test_contours_may_lie_off_a_plane_within_the_tolerance(
    scan, dz, options, is_linked, make
):
    """By default a tenth of the distance between slices; the nearest slice is it.

    The key says how far a contour lies off if that is more than 0.1 mm.
    """
    save(make_structure_set({"A": [make(1, dz=dz)]}), scan / "set")
    if make is contour and dz == 1.0:
        is_linked = True  # it names one of both
    if is_linked:
        table = link(scan, **options)
        key = f"1#1~{abs(dz):g}" if abs(dz) > 0.1 else "1#1"
        assert rows(table) == [("1.dcm", "A", key)]
        (mask,) = masks(table).values()
        assert mask.sum() == 16
    else:
        table, (reason,) = link_some(scan, **options)
        assert rows(table) == []
        assert reason.startswith("ROI 'A', contour 1: ")
        assert f"{dz:g} mm off" in reason or "fits 2 images" in reason


def test_the_tolerance_of_a_single_slice_is_half_its_thickness(tmp_path):
    """A slice of 3 mm takes contours up to 1.5 mm away."""
    save_slice(tmp_path / "0.dcm", 0, SliceThickness=3)
    save(make_structure_set({"A": [bare(0, dz=1.49)]}), tmp_path / "a")
    save(make_structure_set({"B": [bare(0, dz=1.51)]}), tmp_path / "b")
    table, (reason,) = link_some(tmp_path)
    assert rows(table) == [("0.dcm", "A", "1#1~1.49")]
    assert reason == (
        "ROI 'B', contour 1: lies 1.51 mm off the nearest plane, more than 1.5 mm"
    )


@pytest.mark.parametrize("value", [0, -1, 10.5, np.nan, "1", True])
def test_a_tolerance_is_a_number_of_millimetres(scan, value):
    """OptionError for what is no number above 0 and up to 10."""
    with pytest.raises(OptionError, match="plane_tolerance_mm is"):
        fastseg.link(scan, plane_tolerance_mm=value)


def test_an_oblique_contour_lies_on_no_plane(scan):
    """All points count, not their mean."""
    points = ring(1)
    points[:, 2] += [-0.5, 0.5, 0.5, -0.5]
    save(make_structure_set({"A": [make_contour(points)]}), scan / "set")
    _, reasons = link_some(scan)
    assert reasons == [
        "ROI 'A', contour 1: lies 0.5 mm off the nearest plane, more than 0.2 mm"
    ]


def test_contours_beside_all_planes_are_listed_with_their_distances(scan):
    """Those between slices, and those beyond the first and the last one."""
    contours = [bare(1), bare(1, dz=0.75), bare(3, dz=7.5), bare(0, dz=-2)]
    save(make_structure_set({"Heart": contours}), scan / "set")
    table, reasons = link_some(scan)
    assert rows(table) == [("1.dcm", "Heart", "1#1")]
    missing = "; an image seems to be missing there"
    assert reasons == [
        f"ROI 'Heart', contour {k}: lies {off} mm off the nearest plane, more than "
        f"0.2 mm{text}"
        for k, off, text in [(2, 0.75, ""), (3, 7.5, missing), (4, 2, missing)]
    ]
    assert {reject.file for reject in table.rejects} == {str(scan / "set")}


def test_many_contours_of_one_kind_are_one_reject(scan):
    """Of more than 20, the range of distances is given."""
    contours = [bare(4, dz=k) for k in range(21)]
    save(make_structure_set({"Heart": [bare(1), *contours]}), scan / "set")
    _, reasons = link_some(scan)
    assert reasons == [
        "ROI 'Heart', contours 2-22, each: lies where an image seems to be missing, "
        "off the nearest plane by more than 0.2 mm, by 2 to 22 mm"
    ]


def test_a_reference_that_disagrees_with_the_plane_is_rejected(scan):
    """The reject says how far off it is, and whose plane it is on; both lose it."""
    contours = [
        contour(1, images=[image(2)]),
        contour(2, SMALL),
        contour(3),
        contour(0, dz=0.5),
    ]
    save(make_structure_set({"A": contours, "B": [contour(1)]}), scan / "set")
    table, reasons = link_some(scan)
    assert rows(table) == [("1.dcm", "B", "2#1"), ("3.dcm", "A", "1#3")]
    assert reasons == [
        "ROI 'A', contour 1: names ct/2.dcm, but lies 2 mm off its plane, on that of "
        "ct/1.dcm",
        "ROI 'A', contour 4: names ct/0.dcm, but lies 0.5 mm off its plane",
        "ROI 'A', contour 2: is left out: another contour of its image cannot be used",
    ]


def test_series_that_fit_equally_are_named(scan):
    """A contour that two series fit is rejected; one that only one fits is linked."""
    for k in range(2):
        save_slice(scan / "mr" / f"{k}.dcm", 0, series="S2", Modality="MR")
    save_slice(scan / "mr" / "1.dcm", 1, series="S2", Modality="MR")
    contours = [bare(0), bare(2), bare(1)]
    save(make_structure_set({"A": contours}, series=()), scan / "set")
    table, reasons = link_some(scan)
    assert rows(table) == [("2.dcm", "A", "1#2")]
    assert reasons == [
        f"ROI 'A', contour {k}: fits 2 series equally, and names no image of any: "
        "CT in ct, MR in mr"
        for k in (1, 3)
    ]


def test_images_at_one_position_are_ambiguous(scan):
    """Two times of a slice: a contour must name one of them."""
    save_slice(scan / "ct" / "again.dcm", 1, SOPInstanceUID=uid("again"))
    save(make_structure_set({"A": [bare(1), bare(2)]}), scan / "set")
    table, reasons = link_some(scan)
    assert rows(table) == [("2.dcm", "A", "1#2")]
    assert reasons == [
        "ROI 'A', contour 1: fits 2 images equally, and names none of them: "
        "ct/1.dcm, ct/again.dcm"
    ]
    save(make_structure_set({"A": [contour(1)]}), scan / "set")
    assert rows(link(scan)) == [("1.dcm", "A", "1#1")]


def test_a_set_that_belongs_to_nothing_here_is_rejected_once(scan):
    """It names the series that is missing, and no patient."""
    rois = {"A": [contour(k, series="S9") for k in range(3)]}
    save(make_structure_set(rois, series=["S9"], frame=uid("other")), scan / "set")
    table, reasons = link_some(scan)
    assert len(table) == 0
    assert table.unlabelled == 4
    (reason,) = reasons
    assert re.fullmatch(
        r"names no image and no series that is here, and no image of its patient has "
        r"its frame of reference \(it names 1\.2\.[\d.]+\); add the images that it was "
        r"drawn on",
        reason.replace("...", "."),
    )


def test_a_frame_of_reference_of_another_patient_matches_nothing(scan):
    """The frame of reference alone does not lead to images of another patient."""
    ds = make_structure_set({"A": [bare(1)]}, patient="P2", series=())
    ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = uid("P1", "frame")
    save(ds, scan / "set")
    _, (reason,) = link_some(scan)
    assert reason.startswith("names no image and no series that is here, and no image")


@pytest.mark.parametrize(
    ("rois", "series"),
    [({"A": [contour(1)]}, ()), ({"A": [bare(1)]}, ["S1"])],
)
def test_a_set_of_another_patient_is_rejected(scan, rois, series):
    """The message quotes no ID."""
    ds = make_structure_set(rois, series=series)
    ds.PatientID = "SOMEBODY"
    save(ds, scan / "set")
    table, (reason,) = link_some(scan)
    assert rows(table) == []
    assert reason.startswith("is of another patient than the images that it names; ")
    assert "SOMEBODY" not in str(table.rejects)


def test_a_set_that_names_images_of_two_patients_is_rejected(scan):
    """Nobody knows whose contours they are."""
    save_slice(scan / "other", 1, patient="P2")
    ds = make_structure_set({"A": [contour(1), contour(1, patient="P2")]})
    save(ds, scan / "set")
    _, reasons = link_some(scan)
    assert reasons == ["names images of several patients; it is damaged, or mixed up"]


def test_a_set_without_a_patient_is_that_of_its_images(scan):
    """Its study says whose it is, or the images that it names."""
    for k, study_uid in enumerate([uid("P1"), uid("nobody")]):
        ds = make_structure_set({f"{k}": [bare(k)]}, StudyInstanceUID=study_uid)
        del ds.PatientID
        save(ds, scan / f"set{k}")
    assert len(rows(link(scan))) == 2


DAMAGED = {
    "no number": ("ContourData", {"data": "1\\2\\3\\x\\5\\6\\7\\8\\9\\1\\2\\3"}),
    "no multiple of three": ("ContourData has 8", {"data": "\\".join("12345678")}),
    "not finite": ("ContourData", {"data": "1\\2\\nan\\4\\5\\6\\7\\8\\9\\1\\2\\3"}),
    "another count": ("NumberOfContourPoints is 7", {"NumberOfContourPoints": 7}),
    "no data": ("has no ContourData", {"ContourData": None}),
    "unknown type": ("ContourGeometricType", {"kind": "CLOSED"}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_contour_costs_the_roi_on_its_image(scan, name):
    """A mask without it would be wrong; other images and other ROIs are kept."""
    text, options = DAMAGED[name]
    contours = [contour(0), contour(1), contour(1, SMALL, **options), contour(2)]
    save(make_structure_set({"A": contours, "B": [contour(1)]}), scan / "set")
    table, reasons = link_some(scan)
    assert rows(table) == [
        ("0.dcm", "A", "1#1"),
        ("1.dcm", "B", "2#1"),
        ("2.dcm", "A", "1#4"),
    ]
    first, second = reasons
    assert first.startswith("ROI 'A', contour 3: ")
    assert text in first
    assert second == (
        "ROI 'A', contour 2: is left out: another contour of its image cannot be used"
    )


DATA = {
    "found": "-7\\-7\\2\\x\\5\\6\\-3\\-7\\2\\8",
    "beside": "-7\\-7\\3\\x\\5\\6",
    "unknown": "x\\-7\\2\\-7\\y\\2",
    "empty": "",
}


@pytest.mark.parametrize("name", DATA)
def test_what_can_be_read_of_a_damaged_contour_says_where_it_is(scan, name):
    """It names no image: then its points do, or nobody knows which mask lacks it."""
    contours = [bare(0), bare(1), bare(1, data=DATA[name]), bare(2)]
    save(make_structure_set({"A": contours, "B": [bare(1)]}), scan / "set")
    table, reasons = link_some(scan)
    kept = {
        "found": ["1#1", "1#4"],
        "beside": ["1#1", "1#2", "1#4"],
        "unknown": [],
        "empty": [],
    }[name]
    assert [key for _, label, key in rows(table) if label == "A"] == kept
    assert ("1.dcm", "B", "2#1") in rows(table)
    assert reasons[0].startswith("ROI 'A', contour 3: ")
    if name == "found":
        assert reasons[1:] == [
            "ROI 'A', contour 2: is left out: another contour of its image cannot be "
            "used"
        ]
    elif not kept:
        assert reasons[1:] == [
            "ROI 'A', contours 1, 2, 4, each: is left out: nobody knows on which image "
            "another contour lies"
        ]


@pytest.mark.parametrize("pixels", [[(1, 1)], [(1, 1), (5, 1)], [(1, 1), (5, 1)] * 2])
def test_contours_of_one_or_two_points_cover_nothing(scan, pixels):
    """They are rejected alone: the mask without them is whole."""
    contours = [contour(1), contour(1, pixels)]
    save(make_structure_set({"A": contours}), scan / "set")
    table, reasons = link_some(scan)
    assert rows(table) == [("1.dcm", "A", "1#1")]
    assert reasons == ["ROI 'A', contour 2: has fewer than three distinct points"]


def test_contours_without_an_inside_are_counted(scan):
    """POINT, OPEN_PLANAR and OPEN_NONPLANAR are left out, and no reject."""
    kinds = ["POINT", "OPEN_PLANAR", "CLOSED_PLANAR", "OPEN_NONPLANAR", "POINT"]
    contours = [contour(1, kind=kind) for kind in kinds]
    contours[0] = contour(1, [(1, 1)], kind="POINT")
    save(make_structure_set({"A": contours}), scan / "set")
    table = link(scan)
    assert rows(table) == [("1.dcm", "A", "1#3")]
    assert table.left_out == {
        "OPEN_NONPLANAR contour": ("set: ROI 'A', contour 4",),
        "OPEN_PLANAR contour": ("set: ROI 'A', contour 2",),
        "POINT contour": ("set: ROI 'A', contour 1", "set: ROI 'A', contour 5"),
    }


def test_xor_contours_are_a_group_of_their_own_kind(scan):
    """They are always even-odd; together with CLOSED_PLANAR they are rejected."""
    xor = {"kind": "CLOSEDPLANAR_XOR"}
    contours = [
        contour(1, **xor),
        contour(1, SMALL, **xor),
        contour(2),
        contour(2, **xor),
        contour(3),
    ]
    save(make_structure_set({"A": contours}), scan / "set")
    table, reasons = link_some(scan)
    assert rows(table) == [("1.dcm", "A", "1#1,2"), ("3.dcm", "A", "1#5")]
    assert reasons == [
        "ROI 'A', contours 3, 4, each: lies on an image with both CLOSED_PLANAR and "
        "CLOSEDPLANAR_XOR contours of the ROI, which do not go together"
    ]
    is_xor = []
    for row in table.links:
        if row.contour_path:
            reader = sources.reader_of(row)
            parsed = reader.parse((scan / "set").read_bytes(), "set")
            header = dicom.read_header(scan / row.dicom_path)
            (group,) = reader.rings(parsed, row, header)
            is_xor.append(group.is_xor)
    assert is_xor == [True, False]


def test_rois_without_contours_are_noted(scan):
    """With an empty sequence or none; they are no reject."""
    rois = {"A": [contour(1)], "B": [], "C": None}
    save(make_structure_set(rois), scan / "set")
    table = link(scan)
    assert table.classes == ("A",)
    assert table.notes[-1] == "2 ROIs without contours: 'B', 'C'"


def test_sets_without_contours_are_left_out(scan):
    """If no set has one, LinkError says how to link the images alone."""
    save(make_structure_set({"B": [], "C": None}), scan / "set")
    with pytest.raises(LinkError, match=r"no contours to link; slices=\"all\""):
        fastseg.link(scan)
    table = link(scan, slices="all")
    assert table.left_out == {"empty RT structure set": ("set",)}
    assert len(table) == 4


def test_rois_with_one_number_are_rejected(scan):
    """The others of the set are used."""
    rois = {"A": [contour(1)], "B": [contour(1)], "C": [contour(1)]}
    save(make_structure_set(rois, numbers=[1, 1, 2]), scan / "set")
    table, reasons = link_some(scan)
    assert rows(table) == [("1.dcm", "C", "2#1")]
    assert reasons[:2] == [
        f"ROI '{name}': 2 ROIs have the ROINumber 1" for name in ("A", "B")
    ]


def test_rois_with_one_name_are_of_one_class(scan):
    """They are rejected, or joined: a row each."""
    save(make_structure_set([("A", [contour(1)]), ("A", [contour(2)])]), scan / "set")
    table, reasons = link_some(scan)
    assert rows(table) == []
    assert reasons == [
        "ROIs 'A' (number 1), 'A' (number 2) are of one class, 'A', on one series (CT "
        "in ct); join the ROIs with --join (join=True), or tell them apart with --roi "
        "(rois)"
    ]
    table = link(scan, join=True)
    assert rows(table) == [("1.dcm", "A", "1#1"), ("2.dcm", "A", "2#1")]


def test_two_rois_of_a_class_are_joined_on_demand(scan):
    """Of one set, or of several; on another series they do not meet."""
    save_slice(scan / "mr" / "0.dcm", 0, series="S2")
    save(
        make_structure_set({"Heart": [contour(1)], "HEART v2": [contour(1, SMALL)]}),
        scan / "a",
    )
    save(make_structure_set({"heart": [contour(0, series="S2")]}), scan / "b")
    save(make_structure_set({"Lung": [contour(1)]}), scan / "c")
    rois = {"heart": ["Heart*"], "lung": ["Lung"]}
    table, reasons = link_some(scan, rois=rois)
    assert rows(table) == [("1.dcm", "lung", "1#1"), ("0.dcm", "heart", "1#1")]
    assert len(reasons) == 1
    table = link(scan, rois=rois, join=True)
    assert rows(table) == [
        ("1.dcm", "heart", "1#1"),
        ("1.dcm", "heart", "2#1"),
        ("1.dcm", "lung", "1#1"),
        ("0.dcm", "heart", "1#1"),
    ]


def test_rois_of_no_class_are_left_out_and_noted(scan):
    """Their names and numbers are in the notes."""
    for k in range(2):
        rois = {"Heart": [contour(k)], "Body": [contour(k)], f"x{k}": [contour(k)]}
        save(make_structure_set(rois), scan / f"set{k}")
        if k == 0:
            table = link(scan, rois=["heart=heart"])
    table, _ = link_some(scan, rois=["heart=heart"])
    table = link(scan, rois=["heart=heart"], join=True)
    assert rows(table) == [("0.dcm", "heart", "1#1"), ("1.dcm", "heart", "1#1")]
    assert table.notes[-1] == (
        "3 ROI names of no class, left out: 'Body' (2), 'x0', 'x1'; `fastseg rois` "
        "lists all"
    )
    with pytest.raises(OptionError, match="match_case"):
        fastseg.link(scan, match_case=True)
    with pytest.raises(LinkError, match=r"no class has their ROIs \(Body, Heart, x0"):
        fastseg.link(scan, rois=["heart=heart"], match_case=True)


def test_labels_choose_among_the_classes(scan):
    """A class that no ROI has is an error with near misses."""
    rois = {"Heart": [contour(1)], "Lung": [contour(2)]}
    save(make_structure_set(rois), scan / "set")
    assert rows(link(scan, labels="Lung")) == [("2.dcm", "Lung", "2#1")]
    with pytest.raises(OptionError, match=r"'Hart'.*did you mean 'Heart'"):
        fastseg.link(scan, labels=["Hart"])


def test_more_classes_than_a_store_holds_are_an_error(scan):
    """It counts them, names frequent ones, and says how to choose."""
    names = [f"R{k}" for k in range(65)]
    save(make_structure_set({x: [contour(1)] for x in names}), scan / "set")
    ds = make_structure_set({"R7": [contour(2)]}, SOPInstanceUID=uid("other"))
    save(ds, scan / "set2")
    with pytest.raises(LinkError) as caught:
        fastseg.link(scan)
    text = str(caught.value)
    assert "ROIs of 65 classes" in text
    assert "holds at most 64." in text
    assert "'R7' (2), 'R0' (1)" in text
    assert "--label" in text
    assert "--roi" in text
    assert "fastseg rois" in text
    assert len(link(scan, labels=names[:3], slices="labelled")) == 3


def test_links_and_stores_hold_as_many_classes():
    """`link` refuses what `build` would refuse."""
    assert fastseg.links.MAX_CLASSES == layout.MAX_CLASSES


def test_copies_of_a_set_are_one(scan):
    """Equal bytes are a duplicate; one SOPInstanceUID with other content is none."""
    ds = make_structure_set({"A": [contour(1)]})
    save(ds, scan / "a")
    save(ds, scan / "b")
    table = link(scan)
    assert rows(table) == [("1.dcm", "A", "1#1")]
    assert table.left_out == {"duplicate": ("b",)}
    ds.StructureSetLabel = "OTHER"
    save(ds, scan / "b")
    table, reasons = link_some(scan)
    assert rows(table) == []
    assert reasons == [
        f"has the SOPInstanceUID of {other} but other content; keep one"
        for other in ("b", "a")
    ]
    save(make_structure_set({"B": [contour(1)]}), scan / "c")
    table, _ = link_some(scan, rois={"b": "B"})
    assert "1 structure set, 1 contour matched: 1 by the images that" in str(
        table.notes
    )
    assert "of no class" not in str(table.notes)


def test_a_set_that_cannot_be_read_is_rejected(scan):
    """Others are used."""
    save(make_structure_set({"A": [contour(1)]}), scan / "a")
    data = (scan / "a").read_bytes()
    (scan / "b").write_bytes(data[:-40])
    table, (reason,) = link_some(scan)
    assert rows(table) == [("1.dcm", "A", "1#1")]
    assert "damaged" in reason
    assert table.rejects[0].file == str(scan / "b")


def test_sets_without_images_are_refused(tmp_path):
    """LinkError says what the folder holds."""
    save(make_structure_set({"A": [contour(1)]}), tmp_path / "a")
    with pytest.raises(LinkError, match="holds 1 RT structure set, and no images"):
        fastseg.link(tmp_path)


def test_options_of_rois_need_structure_sets(scan, tmp_path):
    """OptionError where there are none: in a tree, and in a layout of a source."""
    options = {"rois": {"a": ["A"]}, "join": True, "plane_tolerance_mm": 1}
    for name, value in options.items():
        with pytest.raises(OptionError, match=f"{name} is for the ROIs of RT"):
            fastseg.link(scan, slices="all", **{name: value})


def test_a_contour_with_a_point_off_the_plane_costs_the_roi_on_its_image(scan):
    """Without its outer ring, a hole would be drawn as a region."""
    bent = ring(1)
    bent[0, 2] += 0.5
    crossing = ring(2)
    crossing[1:3, 2] += 10
    contours = [make_contour(bent), bare(1, SMALL), bare(2), make_contour(crossing)]
    save(make_structure_set({"A": contours, "B": [bare(1)]}), scan / "set")
    table, reasons = link_some(scan)
    assert rows(table) == [("1.dcm", "B", "2#1"), ("2.dcm", "A", "1#3")]
    assert reasons == [
        "ROI 'A', contour 1: lies 0.5 mm off the nearest plane, more than 0.2 mm",
        "ROI 'A', contour 4: lies 8 mm off the nearest plane, more than 0.2 mm",
        "ROI 'A', contour 2: is left out: another contour of its image cannot be used",
    ]
    assert table.notes[-1] == (
        "contours that cannot be used: of 'A' on 1 image; there the class counts as "
        "not labelled, as if nobody had outlined it"
    )


@pytest.mark.parametrize("damage", ["contour", "number"])
def test_a_class_is_left_out_where_one_of_its_rois_cannot_be_used(scan, damage):
    """The mask of joined ROIs would lack one, and nobody would see it."""
    bad = contour(1, data="1\\2\\x") if damage == "contour" else contour(1)
    rois = {"GTV 1": [bad, contour(2)], "Lung": [contour(1)], "B": [contour(1)]}
    numbers = [1, 2, 1 if damage == "number" else 3]
    save(make_structure_set(rois, numbers=numbers), scan / "a")
    others = [contour(k, SMALL) for k in (1, 2, 3)]
    save(make_structure_set({"GTV 2": others}), scan / "b")
    wanted = {"gtv": ["GTV*"], "lung": ["Lung"]}
    table, reasons = link_some(scan, rois=wanted, join=True)
    lung = ("1.dcm", "lung", "2#1")
    if damage == "contour":
        assert rows(table) == [
            lung,
            ("2.dcm", "gtv", "1#2"),
            ("2.dcm", "gtv", "1#2"),
            ("3.dcm", "gtv", "1#3"),
        ]
        assert reasons == [
            "ROI 'GTV 1', contour 1: value 3 of ContourData is no number",
            "ROI 'GTV 2': is left out on 1 image (ct/1.dcm), where another ROI of its "
            "class, 'gtv', cannot be used",
        ]
    else:
        assert rows(table) == [lung]
        assert reasons == [
            "ROI 'GTV 1': 2 ROIs have the ROINumber 1",
            "ROI 'GTV 2': is left out on 3 images (ct/1.dcm, ct/2.dcm, ct/3.dcm), "
            "where another ROI of its class, 'gtv', cannot be used",
        ]


def test_the_other_of_two_rois_is_not_linked_because_one_is_damaged(scan):
    """Nobody knows which of both the class means."""
    rois = {"GTV": [contour(1)], "GTV_old": [contour(1, SMALL)], "B": [contour(1)]}
    save(make_structure_set(rois, numbers=[1, 2, 1]), scan / "set")
    table, reasons = link_some(scan, rois={"gtv": ["GTV*"]})
    assert rows(table) == []
    assert reasons == [
        "ROI 'GTV': 2 ROIs have the ROINumber 1",
        "ROIs 'GTV_old', 'GTV' are of one class, 'gtv', on one series (CT in ct); join "
        "the ROIs with --join (join=True), or tell them apart with --roi (rois)",
    ]


def test_what_is_wrong_with_rois_that_have_no_contours_loses_nothing(scan):
    """Nor with ROIs that are not wanted: there is no reject."""
    rois = [("", None), ("A", [contour(1)]), ("B", None), ("C", []), ("\t", None)]
    save(make_structure_set(rois, numbers=[1, 2, 3, 3, 4]), scan / "set")
    assert rows(link(scan)) == [("1.dcm", "A", "2#1")]
    rois = [("A", [contour(1)]), ("B", [contour(1)]), ("C", [contour(1)])]
    save(make_structure_set(rois, numbers=[1, 2, 2]), scan / "set")
    assert rows(link(scan, labels="A")) == [("1.dcm", "A", "1#1")]
    assert rows(link(scan, rois={"a": ["A"]})) == [("1.dcm", "a", "1#1")]
    _, reasons = link_some(scan)
    assert reasons == [f"ROI '{name}': 2 ROIs have the ROINumber 2" for name in "BC"]


def test_two_sets_of_one_series_are_a_reject_each(scan):
    """However many ROIs they have in common, with paths that are not cut."""
    folder = "a folder whose name is longer than forty letters"
    names = [f"R{k}" for k in range(9)]
    for number, path in enumerate(("one", f"{folder}/two")):
        rois = {name: [contour(1)] for name in names[number:]}
        rois["heart" if number else "Heart"] = [contour(1)]
        save(make_structure_set(rois), scan / path)
    table, reasons = link_some(scan)
    assert rows(table) == [
        ("1.dcm", name, f"{number}#1")
        for name, number in [("Heart", 10), ("R0", 1), ("heart", 9)]
    ]
    text = (
        "has 8 classes ('R1', 'R2', 'R3', 'R4', 'R5', 'R6', and 2 more) in common with "
        "{} on one series (CT in ct); keep one of these structure sets, or join the "
        "ROIs with --join (join=True)"
    )
    assert reasons == [text.format("one"), text.format(f"{folder}/two")]
    _, reasons = link_some(scan, rois={"heart": ["Heart"]})
    assert reasons == [
        f"has 1 class ('heart') in common with {path} on one series (CT in ct); keep "
        "one of these structure sets, join the ROIs with --join (join=True), or tell "
        "them apart with --roi (rois)"
        for path in ("one", f"{folder}/two")
    ]


def test_many_contours_that_cover_nothing_are_a_reject_for_each_roi(scan):
    """Planning systems leave them by the hundred."""
    dots = [contour(1, SMALL[:1])] * 500
    save(make_structure_set({"A": [contour(2), *dots], "B": dots}), scan / "set")
    table, reasons = link_some(scan)
    assert rows(table) == [("2.dcm", "A", "1#1")]
    assert reasons == [
        f"ROI '{name}', contours {numbers}, each: has fewer than three distinct points"
        for name, numbers in [("A", "2-501"), ("B", "1-500")]
    ]


def test_few_contours_of_many_rois_are_a_reject_for_each_roi(scan):
    """More than 20 of a structure set that have one reason are not listed singly."""
    rois = {f"R{k}": [bare(1, dz=0.75), bare(2, dz=0.75)] for k in range(11)}
    rois["R0"][0] = bare(1, dz=0.5)
    save(make_structure_set(rois | {"A": [bare(1)]}), scan / "set")
    _, reasons = link_some(scan)
    kind = "each: lies off the nearest plane by more than 0.2 mm, by"
    assert reasons == [
        f"ROI 'R0', contours 1, 2, {kind} 0.5 to 0.75 mm",
        *(f"ROI 'R{k}', contours 1, 2, {kind} 0.75 mm" for k in range(1, 11)),
    ]


def test_images_without_a_patient_are_those_of_the_study_of_their_set(tmp_path):
    """Images may have lost the PatientID that the structure set still has."""
    for k in range(3):
        save_slice(tmp_path / f"{k}.dcm", k, PatientID=None)
    rois = {"A": [contour(1)], "B": [bare(2)]}
    save(make_structure_set(rois, series=()), tmp_path / "set")
    assert rows(link(tmp_path)) == [("1.dcm", "A", "1#1"), ("2.dcm", "B", "2#1")]
    ds = make_structure_set(rois, series=(), StudyInstanceUID=uid("other"))
    save(ds, tmp_path / "set")
    _, (reason,) = link_some(tmp_path)
    assert reason.startswith("is of another patient than the images that it names; ")


def test_frames_of_a_file_are_told_apart_in_rejects(tmp_path):
    """By their numbers from 1, as in DICOM."""
    ds = make_frames(0, 2, 4, pixels=np.zeros((3, 8, 8)))
    save_image(ds, tmp_path / "e.dcm")
    square = make_contour(
        [(1, 1, 2), (5, 1, 2), (5, 5, 2)], images=[(ds.SOPInstanceUID, 3)]
    )
    save(make_structure_set({"A": [square]}), tmp_path / "set")
    _, reasons = link_some(tmp_path)
    assert reasons == [
        "ROI 'A', contour 1: names e.dcm (frame 3 of 3), but lies 2 mm off its plane, "
        "on that of e.dcm (frame 2 of 3)"
    ]


def test_classes_that_differ_in_case_alone_are_noted(scan):
    """They are classes all the same, unless aliases make them one."""
    names = ["Heart", "HEART", "Lung", "e\u0301", "\xe9"]
    rois = {name: [contour(1)] for name in names}
    ds = make_structure_set(rois, SpecificCharacterSet="ISO_IR 192")
    save(ds, scan / "set")
    table = link(scan)
    assert len(rows(table)) == 5
    assert table.notes[-1] == (
        "classes that differ in upper and lower case alone: 'HEART' and 'Heart', "
        "'e\u0301' and '\xe9'; make one of them with --roi (rois), or look at `fastseg "
        "rois`"
    )
    assert "upper" not in str(link(scan, rois={"heart": ["Heart"]}, join=True).notes)


def test_only_classes_with_contours_count(scan):
    """Planning systems have names of ROIs by the hundred that were never drawn."""
    rois = {f"R{k}": None for k in range(65)} | {"A": [contour(1)]}
    save(make_structure_set(rois), scan / "set")
    assert rows(link(scan)) == [("1.dcm", "A", "66#1")]
    rois["A"] = [contour(1, SMALL[:1], kind="POINT")]
    save(make_structure_set(rois), scan / "set")
    with pytest.raises(LinkError, match="to link but 1 POINT contour, which"):
        fastseg.link(scan)


def test_contours_of_several_slices_are_not_drawn_on_one_image(scan):
    """A great tolerance would put them into one mask, where even-odd removes one."""
    contours = [bare(1), bare(1, dz=0.25), bare(3, dz=-0.9), bare(2, dz=0.15), bare(2)]
    save(make_structure_set({"A": contours}), scan / "set")
    table, reasons = link_some(scan, plane_tolerance_mm=0.95)
    assert rows(table) == [("2.dcm", "A", "1#4,5~0.15"), ("3.dcm", "A", "1#3~0.9")]
    assert reasons == [
        "ROI 'A', contours 1, 2, each: is not as far off the plane of its image as "
        "other contours of the ROI there; they are of several slices"
    ]
    contours = [bare(1, dz=-0.9), bare(1, dz=0.9)]
    save(make_structure_set({"A": contours, "B": contours[:1]}), scan / "set")
    table, reasons = link_some(scan, plane_tolerance_mm=0.95)
    assert rows(table) == [("1.dcm", "B", "2#1~0.9")]
    assert len(reasons) == 1


def test_a_contour_that_is_there_twice_is_drawn_once(scan):
    """By even-odd, both would cover nothing; in CLOSEDPLANAR_XOR, that is meant."""
    xor = [contour(2, kind="CLOSEDPLANAR_XOR")] * 2
    rois = {"A": [contour(1), contour(1, SMALL), bare(1), bare(2)], "B": xor}
    save(make_structure_set(rois), scan / "set")
    table = link(scan)
    assert rows(table) == [
        ("1.dcm", "A", "1#1,2"),
        ("2.dcm", "A", "1#4"),
        ("2.dcm", "B", "2#1,2"),
    ]
    assert table.left_out == {"repeated contour": ("set: ROI 'A', contour 3",)}


def test_a_contour_that_belongs_to_nothing_costs_the_roi_where_it_lies(scan):
    """It names no image, as others of its ROI do, on whose series it lies, too."""
    contours = [contour(1), bare(1, SMALL), contour(2), bare(3)]
    ds = make_structure_set({"A": contours}, series=(), frame=uid("other"))
    save(ds, scan / "set")
    table, reasons = link_some(scan)
    assert rows(table) == [("2.dcm", "A", "1#3")]
    assert [reason.partition(": ")[0] for reason in reasons] == [
        f"ROI 'A', contour {k}" for k in (2, 4, 1)
    ]
    assert reasons[2].endswith("another contour of its image cannot be used")
