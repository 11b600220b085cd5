"""Structure sets on real images; these tests are skipped where the data are missing."""

import shutil

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_array_equal

import fastseg
from fastseg.errors import RejectedWarning
from fastseg.geometry import Plane
from fastseg.links import LinkTable
from tests.nifti import read_nifti
from tests.reference import rasterize_whole
from tests.structure_sets import (
    make_contour,
    make_frame,
    make_structure_set,
    rounded,
    save,
)

# The UIDs of one series have components with leading zeros.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")


def build(table, path):
    """Return the store of the links of a table, all of which can be used."""
    report = fastseg.build(LinkTable(base=table.base, links=table.links), path)
    assert report.rejects == ()
    return fastseg.open(report.path)


def test_masks_equal_the_reference_in_every_voxel(real_data, tmp_path):
    """CT, MR and PET of two patients, each three under one frame of reference."""
    root = real_data / "sts"
    table = fastseg.link(root, keep_unlabelled=True)
    assert table.rejects == ()
    assert table.counts() == {
        "GTV_Mass_CT": 50,
        "GTV_Mass_MR_T1": 50,
        "GTV_Mass_PET": 50,
    }
    assert table.notes[-1] == (
        "6 structure sets, 189 contours matched: 189 by position in the series that "
        "their structure sets name"
    )
    assert table.links == table.links.sorted()
    store = build(table, tmp_path / "store.h5")
    voxels = 0
    for volume in store.volumes:
        path = store[int(volume.samples[0])].meta["source"]
        patient, kind, *_ = path.split("/")
        expected, _ = read_nifti(root / patient / f"{kind}_mask.nii.gz")
        mask = volume.mask_of(f"GTV_Mass_{kind}")
        assert_array_equal(mask, expected.T > 0)
        assert not np.any(volume.mask.astype(bool) & ~mask)
        voxels += int(mask.sum())
    assert len(store.volumes) == 6
    assert voxels == 296_805


@pytest.mark.parametrize("slices", ["labelled", "series"])
def test_whole_series_are_linked_unless_told(real_data, slices):
    """`series` is the default: of these, every series has contours."""
    table = fastseg.link(real_data / "sts" / "STS_002", slices=slices)
    assert table.images == {"labelled": 43 - 27 + 16 + 16, "series": 131}[slices]


def planes_of(path):
    """Yield the plane and shape of each frame of a file, as pydicom reads them."""
    ds = pydicom.dcmread(path)
    for frame in ds.get("PerFrameFunctionalGroupsSequence", [None]):
        position = orientation = measures = ds
        if frame is not None:
            position = frame.PlanePositionSequence[0]
            orientation = frame.PlaneOrientationSequence[0]
            measures = frame.PixelMeasuresSequence[0]
        directions = np.array(orientation.ImageOrientationPatient, float)
        plane = Plane(
            origin=np.array(position.ImagePositionPatient, float),
            row_direction=directions[:3],
            column_direction=directions[3:],
            spacing_mm=tuple(map(float, measures.PixelSpacing)),
        )
        yield plane, (ds.Rows, ds.Columns)


def random_polygons(random, shape):
    """Return polygons in pixels, which cross themselves, each other and the border."""
    height, width = shape
    rings = []
    for count in random.integers(3, 12, random.integers(1, 4)):
        centre = random.uniform(0, 1, 2) * (width, height)
        rings.append(centre + random.normal(0, 0.2, (count, 2)) * (width, height))
    return rings


@pytest.mark.parametrize("way", ["image", "file", "series"])
@pytest.mark.parametrize(
    "name", ["oblique_philips", "oblique_hitachi", "enhanced_philips"]
)
def test_masks_on_oblique_images_are_exact(real_data, tmp_path, name, way):
    """Random polygons in mm, by the image that they name, its file or its series.

    The images have no frame of reference, and the numbers at most 16 characters.
    """
    random = np.random.default_rng([len(name), len(way)])
    files = sorted(
        path
        for path in (real_data / "series" / name).iterdir()
        if pydicom.misc.is_dicom(path)
    )
    contours, expected = [], {}
    for path in files:
        shutil.copy(path, tmp_path)
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        frames = list(planes_of(path))
        for frame, (plane, shape) in enumerate(frames):
            rings = []
            for ring in random_polygons(random, shape):
                points = plane.pixel_to_patient(ring)
                images = [(ds.SOPInstanceUID, frame + 1)]
                if way == "file" or len(frames) == 1:
                    images = [ds.SOPInstanceUID]
                contours.append(
                    make_contour(points, images=() if way == "series" else images)
                )
                pixels, _ = plane.patient_to_pixel(rounded(points))
                assert np.abs(pixels - ring).max() < 1e-9
                rings.append(pixels)
            expected[path.name, frame] = rasterize_whole(rings, shape)
    series = [ds.SeriesInstanceUID] if way == "series" else ()
    structures = make_structure_set(
        {"Organ": contours},
        series=(),
        frame="1.2.3",
        PatientID=str(ds.get("PatientID", "")),
        StudyInstanceUID=ds.StudyInstanceUID,
    )
    if series:
        item = make_frame("", ["2.1"], "1.2.3")
        named = item.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
        named.SeriesInstanceUID = series[0]
        structures.ReferencedFrameOfReferenceSequence = [item]
    save(structures, tmp_path / "set.dcm")
    table = fastseg.link(tmp_path)
    assert table.rejects == ()
    words = "series" if way == "series" else "images"
    assert f" {len(contours)} by " in table.notes[-1]
    assert words in table.notes[-1]
    store = build(table, tmp_path / "store.h5")
    assert len(store) == len(expected)
    for link, sample in zip(
        [x for x in table.links if x.contour_path], store, strict=True
    ):
        mask = sample.mask_of("Organ")
        assert_array_equal(mask, expected[link.dicom_path, link.frame])


@pytest.mark.parametrize(
    "name", ["invalid_reference_rt.dcm", "non_existent_reference_rt.dcm"]
)
def test_contours_of_a_missing_slice_are_rejected(real_data, tmp_path, name):
    """Of a series of three slices two are there: each ROI has a contour 5 mm beyond."""
    for path in (real_data / "rtstruct" / "ge_ct").glob("ct_*.dcm"):
        shutil.copy(path, tmp_path)
    shutil.copy(real_data / "rtstruct" / "bad_reference" / name, tmp_path)
    with pytest.warns(RejectedWarning):
        table = fastseg.link(tmp_path)
    assert table.counts() == {f"ROI-{k}": 2 for k in (1, 2, 3, 4)}
    assert [reject.reason for reject in table.rejects] == [
        f"ROI 'ROI-{k}', contour 1: lies 5 mm off the nearest plane, more than 0.5 mm; "
        "an image seems to be missing there"
        for k in (1, 2, 3, 4)
    ]
    build(table, tmp_path / "store.h5")


def test_another_frame_of_reference_does_not_hide_a_reference(real_data, tmp_path):
    """rt-utils writes one of its own; both contours name the image that they are on."""
    table = fastseg.link(real_data / "rtstruct" / "ge_ct")
    (link,) = [link for link in table.links if link.contour_path]
    assert (link.dicom_path, link.contour_key) == ("ct_1.dcm", "1#1,2/2")
    assert "another frame of reference" in table.notes[-1]
    store = build(table, tmp_path / "store.h5")
    assert store[0].mask_of("ROI-1").sum() > 0


def test_a_clinical_set_with_one_of_its_slices_is_linked_to_it(real_data, tmp_path):
    """Four contours of the body lie on it; all the others lie on slices beyond."""
    with pytest.warns(RejectedWarning):
        table = fastseg.link(real_data / "rtstruct" / "breast")
    (link,) = table.links
    assert (link.label, link.contour_key) == ("BODY", "1#138-141/141")
    assert "1 ROI without contours: 'Areola'" in table.notes
    assert table.rejects[0].reason == (
        "ROI 'BODY', contours 1-137, each: lies where an image seems to be missing, "
        "off the nearest plane by more than 1.5 mm, by 2.999 to 291 mm"
    )
    store = build(table, tmp_path / "store.h5")
    assert len(store[0].contours["BODY"]) == 4
