"""Real series: their volumes, and where a reference says that their voxels lie."""

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastseg import geometry
from tests.nifti import read_nifti

# Two patients whose UIDs have components with leading zeros.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")

# mm. The reference is float32: at 200 mm it is rounded by up to 1e-5 mm.
REFERENCE_TOLERANCE_MM = 1e-4


def number(dataset, name):
    value = dataset.get(name)
    return np.nan if value is None else float(value)


def images_of(path):
    """Yield the columns of the images of a file, read by pydicom, and their pixels."""
    dataset = pydicom.dcmread(path)
    if "PixelData" not in dataset:
        return
    pixels = dataset.pixel_array
    if pixels.ndim == 2:
        yield columns_of(dataset, dataset, dataset), pixels
        return
    for frame, values in zip(
        dataset.PerFrameFunctionalGroupsSequence, pixels, strict=True
    ):
        scale = frame.PixelValueTransformationSequence[0]
        row = columns_of(
            frame.PlanePositionSequence[0],
            frame.PlaneOrientationSequence[0],
            frame.PixelMeasuresSequence[0],
        )
        yield row, values * float(scale.RescaleSlope) + float(scale.RescaleIntercept)


def columns_of(position, orientation, measures):
    return (
        *map(float, position.ImagePositionPatient),
        *map(float, orientation.ImageOrientationPatient),
        *map(float, measures.PixelSpacing),
        number(measures, "SliceThickness"),
        number(position, "TemporalPositionIdentifier"),
        number(position, "TriggerTime"),
    )


def read_series(folder):
    """Return (columns of `find_volumes`, pixels (n, H, W)) of a folder."""
    images = [
        image
        for path in sorted(folder.iterdir())
        if pydicom.misc.is_dicom(path)
        for image in images_of(path)
    ]
    rows = np.array([row for row, _ in images])
    columns = {
        "origins": rows[:, :3],
        "directions": rows[:, 3:9],
        "spacings_mm": rows[:, 9:11],
        "thicknesses_mm": rows[:, 11],
        "kinds": np.zeros(len(rows), dtype=np.int64),
        "times": geometry.number_times(
            geometry.positions_along_normal(rows[:, :3], rows[:, 3:9]),
            rows[:, 12],
            rows[:, 13],
        ),
    }
    return columns, np.stack([pixels for _, pixels in images])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "gantry_tilt",
            "gantry tilt: the last of 4 slices is shifted by 3.629 mm over 14.55 mm, "
            "by 14 degrees",
        ),
        (
            "uneven_slices",
            "uneven: slices are 5 to 10 mm apart, whole multiples of 5 mm: a slice may "
            "be missing",
        ),
    ],
)
def test_tilted_and_uneven_series_are_named(real_data, name, problem):
    """They are no volume, and the problem says by how much."""
    columns, _ = read_series(real_data / "series" / name)
    assert geometry.find_volumes(**columns) == ((), (), (problem,))


@pytest.mark.parametrize(
    "name", ["oblique_philips", "oblique_hitachi", "enhanced_philips"]
)
def test_voxels_lie_where_the_reference_puts_them(real_data, name):
    """The affine of a volume agrees over the whole volume, and so do its pixels."""
    columns, pixels = read_series(real_data / "series" / name)
    found = geometry.find_volumes(**columns)
    assert found.problems == ()
    (members,) = found.members
    affine = geometry.volume_affine(
        columns["origins"][members],
        columns["directions"][members[0]],
        columns["spacings_mm"][members[0]],
    )
    expected, reference = read_nifti(real_data / "series" / f"{name}.nii.gz")
    # The reference may have flipped or swapped axes: which voxel is which?
    indices = np.rint(np.linalg.inv(reference) @ affine)
    depth, height, width = pixels[members].shape
    z, y, x = np.indices((depth, height, width)).reshape(3, -1)
    ours = np.stack([z, y, x, np.ones_like(x)]).astype(np.float64)
    theirs = indices @ ours
    off_mm = np.abs(affine @ ours - reference @ theirs).max()
    assert off_mm <= REFERENCE_TOLERANCE_MM
    cells = np.ravel_multi_index(theirs[:3].astype(np.int64), expected.shape)
    assert_array_equal(np.bincount(cells), np.ones(expected.size))
    values = expected.ravel()[cells]
    # Of float32, in which the reference has rescaled values.
    assert_allclose(values, pixels[members].ravel(), rtol=1e-6)


STS = [
    f"{patient}/{kind}/image"
    for patient in ("STS_002", "STS_040")
    for kind in ("CT", "MR_T1", "PET")
]


@pytest.mark.parametrize("name", STS)
def test_clinical_series_are_volumes(real_data, name):
    """Each is one volume of all its images, also where positions are rounded."""
    columns, _ = read_series(real_data / "sts" / name)
    found = geometry.find_volumes(**columns)
    assert found.problems == ()
    assert [len(members) for members in found.members] == [len(columns["kinds"])]
    assert found.spacings_mm == pytest.approx([3.27], abs=1e-3)


def test_slices_that_overlap_are_a_volume(real_data):
    """Three CT slices 1 mm apart that are 1.25 mm thick."""
    folder = real_data / "seg"
    rows = np.array([next(images_of(folder / f"0{k}.dcm"))[0] for k in (1, 2, 3)])
    found = geometry.find_volumes(
        origins=rows[:, :3],
        directions=rows[:, 3:9],
        spacings_mm=rows[:, 9:11],
        thicknesses_mm=rows[:, 11],
        kinds=[0, 0, 0],
        times=rows[:, 12],
    )
    assert found.spacings_mm == pytest.approx([1.0])
    assert found.problems == ()


@pytest.mark.parametrize(
    ("patient", "slices"), [("SCD0000101", 12), ("SCD0000201", 13)]
)
def test_a_cine_series_is_a_volume_at_each_time(real_data, patient, slices):
    """Twenty times, though trigger times differ from slice to slice."""
    columns, _ = read_series(real_data / "sunnybrook" / "dicoms" / patient)
    found = geometry.find_volumes(**columns)
    assert [len(members) for members in found.members] == [slices] * 20
    assert found.problems == ()
    assert found.spacings_mm == pytest.approx([10.0] * 20, abs=1e-3)
    for time, members in enumerate(found.members):
        assert_array_equal(columns["times"][members], time)


def cine_columns(real_data, patient):
    """Return the columns of `number_times` of a cine, float64 (3, n)."""
    folder = real_data / "sunnybrook" / "dicoms" / patient
    rows = np.array(
        [
            columns_of(dataset, dataset, dataset)
            for path in sorted(folder.iterdir())
            for dataset in [pydicom.dcmread(path, stop_before_pixels=True)]
        ]
    )
    positions = geometry.positions_along_normal(rows[:, :3], rows[:, 3:9])
    return np.stack([positions, rows[:, 12], rows[:, 13]])


def test_a_missing_file_does_not_change_the_times_of_others(real_data):
    """Whichever file of a cine is missing, the others keep their times."""
    columns = cine_columns(real_data, "SCD0000101")
    times = geometry.number_times(*columns)
    for k in range(times.size):
        found = geometry.number_times(*np.delete(columns, k, axis=1))
        assert_array_equal(found, np.delete(times, k))


@pytest.mark.parametrize("patient", ["SCD0000101", "SCD0000201"])
def test_a_file_missing_at_each_position_does_not_change_times(real_data, patient):
    """Another phase at each of them: no position has all, and none mixes phases."""
    columns = cine_columns(real_data, patient)
    times = geometry.number_times(*columns)
    sites = np.unique(columns[0].round(1), return_inverse=True)[1]
    for seed in range(20):
        random = np.random.default_rng(seed)
        gone = [random.choice(np.flatnonzero(sites == k)) for k in np.unique(sites)]
        found = geometry.number_times(*np.delete(columns, gone, axis=1))
        assert_array_equal(found, np.delete(times, gone))
