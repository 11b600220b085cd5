"""The synthetic CT: its structure sets say what its images show."""

import numpy as np
import pydicom
import pytest

import fastseg
from fastseg.geometry import Plane, find_volumes
from fastseg.phantom.chest import Chest
from fastseg.phantom.rtstruct import STRUCTURES, Series
from tests.reference import rasterize_whole

NO_REGIONS = ("point", "none")
PATIENTS = range(3)
SHAPES = [(80, 120), (96, 104), (104, 96)]
# A vertex is written with two digits after the point.
ROUNDING_MM = 0.005 * np.sqrt(3) + 1e-5
# How far from a ring the edge between two of its vertices may lie.
SAGITTA_MM = 0.5


@pytest.fixture(scope="module", params=PATIENTS)
def patient(request, studies):
    """A patient of the committed study, as pydicom reads it and as it was drawn."""
    return Patient(studies["rtstruct"], request.param)


class Patient:
    """The files of a patient.

    images : datasets of the slices, from the feet to the head
    planes : of the slices, from the headers
    ds     : the structure set
    rois   : its items of ROIContourSequence by the names of STRUCTURES
    """

    def __init__(self, root, number):
        self.number = number
        folder = root / f"PHANTOMCT{number + 1:04d}"
        self.series = Series.draw(0, number, 8, SHAPES[number])
        images = [pydicom.dcmread(path) for path in (folder / "CT").glob("*.dcm")]
        self.images = sorted(images, key=lambda ds: ds.InstanceNumber, reverse=True)
        self.planes = [plane_of(ds) for ds in self.images]
        self.ds = pydicom.dcmread(folder / "RS.dcm")
        items = self.ds.ROIContourSequence
        contours = {item.ReferencedROINumber: item for item in items}
        names = {
            item.ROIName: contours[item.ROINumber]
            for item in self.ds.StructureSetROISequence
        }
        self.rois = {name: names[x.names[number]] for name, x in STRUCTURES.items()}

    def contours(self, name, index):
        """Return [(type, float64 (n, 2) in pixels)] of a structure on a slice."""
        found = []
        for item in self.rois[name].get("ContourSequence", []):
            points = np.array(item.ContourData, float).reshape(-1, 3)
            pixels, distances = self.planes[index].patient_to_pixel(points)
            if np.abs(distances).max() < 1:
                assert item.NumberOfContourPoints == len(points)
                assert np.abs(distances).max() < ROUNDING_MM
                found.append((item.ContourGeometricType, pixels))
        return found

    def mask(self, name, index):
        """Return the exact mask of a structure on a slice."""
        rings = [ring for _, ring in self.contours(name, index)]
        return rasterize_whole(rings, SHAPES[self.number])

    def truth(self, name, index):
        """Return where the structure is, and which pixels are not near its outline."""
        rows, columns = SHAPES[self.number]
        height, width = self.series.spacing_mm
        x = (np.arange(columns) - (columns - 1) / 2) * width
        y = (np.arange(rows)[:, None] - (rows - 1) / 2) * height
        inside = np.zeros((rows, columns), bool)
        certain = np.ones((rows, columns), bool)
        for ring in self.series.chest(index).structures().get(name, ()):
            depth = ring.depth(x, y)
            inside ^= depth > 0
            certain &= np.abs(depth) > SAGITTA_MM
        return inside, certain


def plane_of(ds):
    """Return the plane of an image from its header."""
    cosines = np.array(ds.ImageOrientationPatient, float)
    return Plane(
        origin=np.array(ds.ImagePositionPatient, float),
        row_direction=cosines[:3],
        column_direction=cosines[3:],
        spacing_mm=np.array(ds.PixelSpacing, float),
    )


def test_the_series_are_oblique_volumes(patient):
    """Slices are an even volume, turned about all axes, of rectangular pixels."""
    images = patient.images
    volumes = find_volumes(
        origins=np.array([ds.ImagePositionPatient for ds in images], float),
        directions=np.array([ds.ImageOrientationPatient for ds in images], float),
        spacings_mm=np.array([ds.PixelSpacing for ds in images], float),
        thicknesses_mm=np.array([ds.SliceThickness for ds in images], float),
        kinds=np.zeros(len(images), int),
        times=np.full(len(images), np.nan),
    )
    assert [list(members) for members in volumes.members] == [list(range(8))]
    assert volumes.spacings_mm == pytest.approx([(3, 4, 5)[patient.number]])
    plane = patient.planes[0]
    directions = [plane.row_direction, plane.column_direction, plane.normal]
    cosines = np.abs(directions)
    assert (np.sort(cosines.ravel())[:6] > 0.01).all()
    assert cosines.max() < 0.9999
    height, width = plane.spacing_mm
    assert abs(height / width - 1) > 0.1
    rows, columns = patient.images[0].Rows, patient.images[0].Columns
    assert (rows, columns) == SHAPES[patient.number]


def test_images_have_hounsfield_units(patient):
    """Air, lung, blood and bone have the numbers that CT gives them."""
    for index, ds in enumerate(patient.images):
        assert (ds.RescaleIntercept, ds.RescaleSlope) == (-1024, 1)
        assert (ds.PixelRepresentation, ds.pixel_array.dtype) == (1, np.int16)
        image = ds.pixel_array - 1024.0
        body = patient.mask("body", index)
        assert image[0].mean() == pytest.approx(-1000, abs=12)
        assert not body[[0, -1]].any()
        lungs = patient.mask("lung_left", index) ^ patient.mask("tumour", index)
        for mask, expected in (
            (lungs, -790),
            (patient.mask("heart", index), 170),
            (patient.mask("vertebra", index), 420),
        ):
            assert np.median(image[mask]) == pytest.approx(expected, abs=15)


@pytest.mark.parametrize(
    "name", [name for name, x in STRUCTURES.items() if x.form not in NO_REGIONS]
)
def test_masks_are_what_was_drawn(patient, name):
    """The exact mask of the contours has each pixel that is not beside an outline."""
    for index in range(8):
        inside, certain = patient.truth(name, index)
        mask = patient.mask(name, index)
        assert certain.mean() > 0.85
        assert (mask == inside)[certain].all()
        assert mask.any() == (name in patient.series.chest(index).structures())


def test_structure_sets_hold_what_readers_get_wrong(patient):
    """There are a hole, an island, a keyhole, XOR, a point, and an ROI of nothing."""
    kinds = {
        name: [
            [kind for kind, _ in patient.contours(name, index)] for index in range(8)
        ]
        for name in STRUCTURES
    }
    assert ["CLOSED_PLANAR"] * 2 in kinds["lung_right"]
    assert ["CLOSED_PLANAR"] in kinds["lung_right"]
    assert ["CLOSED_PLANAR"] * 2 in kinds["tumour"]
    assert [] in kinds["tumour"]
    assert kinds["vertebra"] == [["CLOSED_PLANAR"]] * 8
    assert kinds["oesophagus"] == [["CLOSEDPLANAR_XOR"] * 2] * 8
    assert sorted(kinds["isocentre"]) == [[]] * 7 + [["POINT"]]
    assert "ContourSequence" not in patient.rois["target"]
    for index in range(8):
        ((_, vertebra),) = patient.contours("vertebra", index)
        # Both vertices of the channel are there twice, to the last digit.
        repeated = len(vertebra) - len(np.unique(vertebra, axis=0))
        assert repeated == 2
        hole = patient.mask("cord", index)
        assert hole.any()
        assert not (hole & patient.mask("vertebra", index)).any()


def test_names_differ_among_patients(studies):
    """No two patients call a structure the same."""
    names = [
        [item.ROIName for item in pydicom.dcmread(path).StructureSetROISequence]
        for path in sorted(studies["rtstruct"].rglob("RS.dcm"))
    ]
    assert [len(some) for some in names] == [10, 10, 10]
    assert all(len(set(same)) == 3 for same in zip(*names, strict=True))


def test_references_resolve(patient):
    """Contours name their image or none; the series and its frame are those there."""
    by_uid = {ds.SOPInstanceUID: index for index, ds in enumerate(patient.images)}
    (frame,) = patient.ds.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    for ds in patient.images:
        assert ds.FrameOfReferenceUID == frame.FrameOfReferenceUID
        assert ds.SeriesInstanceUID == series.SeriesInstanceUID
        assert ds.StudyInstanceUID == study.ReferencedSOPInstanceUID
        assert ds.PatientID == patient.ds.PatientID
    listed = [item.ReferencedSOPInstanceUID for item in series.ContourImageSequence]
    assert listed == list(by_uid)
    for item in patient.ds.StructureSetROISequence:
        assert item.ReferencedFrameOfReferenceUID == frame.FrameOfReferenceUID
    has_references = patient.number != 2
    for roi in patient.rois.values():
        for item in roi.get("ContourSequence", []):
            assert ("ContourImageSequence" in item) == has_references
            for image in item.get("ContourImageSequence", []):
                index = by_uid[image.ReferencedSOPInstanceUID]
                points = np.array(item.ContourData, float).reshape(-1, 3)
                _, distances = patient.planes[index].patient_to_pixel(points)
                assert np.abs(distances).max() < ROUNDING_MM


@pytest.fixture(scope="module")
def chests(studies, tmp_path_factory):
    """A store of the committed study; its classes have names of STRUCTURES."""
    study = studies["rtstruct"]
    table = fastseg.link(study, rois=study.with_suffix(".toml"))
    assert not table.rejects
    path = tmp_path_factory.mktemp("chests") / "chests.h5"
    assert not fastseg.build(table, path).rejects
    return fastseg.open(path)


def test_a_store_holds_what_was_drawn(patient, chests):
    """Linked and built, each mask of each class equals the exact one of its rings."""
    samples = {sample.meta["sop_instance"]: sample for sample in chests}
    assert len(samples) == 24
    for index, ds in enumerate(patient.images):
        sample = samples[ds.SOPInstanceUID]
        assert (sample.image == ds.pixel_array).all()
        # The aliases leave the body out.
        there = patient.series.chest(index).structures().keys() - {"body"}
        assert sample.contours.keys() == there
        for name in chests.classes:
            assert (sample.mask_of(name) == patient.mask(name, index)).all()


def is_within(ring, other):
    """Return whether all of a ring lies inside another one."""
    return (other.depth(*ring.vertices(360).T) > 0).all()


def is_outside(ring, other):
    """Return whether all of a ring lies outside of another one."""
    return (other.depth(*ring.vertices(360).T) < 0).all()


@pytest.mark.parametrize("seed", range(8))
def test_organs_do_not_cross(seed):
    """Whatever the seed, organs are nested or apart."""
    for level in (np.arange(8) + 0.5) / 8:
        chest = Chest.draw(seed, seed % 3, level)
        organs = [chest.left_lung, chest.right_lung, chest.heart, chest.oesophagus]
        organs.append(chest.vertebra)
        for first in organs:
            assert is_within(first, chest.inside)
            assert all(is_outside(first, other) for other in organs if other != first)
        nested = [
            (chest.inside, chest.body),
            (chest.dome, chest.right_lung),
            (chest.tumour, chest.left_lung),
            (chest.satellite, chest.left_lung),
            (chest.lumen, chest.oesophagus),
            (chest.canal, chest.vertebra),
            (chest.cord, chest.canal),
        ]
        assert all(is_within(*pair) for pair in nested if pair[0] is not None)
