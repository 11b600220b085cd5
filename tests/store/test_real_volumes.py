"""Volumes of real series, compared with files that other programs made of them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastseg
from tests.nifti import read_nifti
from tests.series import table_of

# The affine of a NIfTI file has 24 bits, for coordinates of some 150 mm.
TOLERANCE_MM = 1e-4
SERIES = ("oblique_philips", "oblique_hitachi", "enhanced_philips")
NO_VOLUME = ("gantry_tilt", "uneven_slices")


def values_of(store, volume):
    """Return the rescaled values of a volume, (D, H, W)."""
    slope, intercept = (
        store.items[name][volume.samples][:, None, None]
        for name in ("slope", "intercept")
    )
    return volume.image * slope + intercept


def build(folder, path, **options):
    """Build a store of all images in a folder and open it."""
    return fastseg.open(fastseg.build(table_of(folder), path, **options).path)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", SERIES)
def test_voxels_lie_where_the_reference_says(real_data, tmp_path, name, compress):
    """The affine maps each voxel to the point of the reference, with its value."""
    folder = real_data / "series"
    store = build(folder / name, tmp_path / "s.h5", compress=compress)
    (volume,) = store.volumes
    voxels, affine = read_nifti(folder / f"{name}.nii.gz")
    indices = np.stack(np.indices(voxels.shape), -1).reshape(-1, 3)
    points = indices @ affine[:3, :3].T + affine[:3, 3]
    inverse = np.linalg.inv(volume.affine)
    ours = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    assert_array_equal(ours.min(axis=0), 0)
    assert_array_equal(ours.max(axis=0), np.array(volume.shape) - 1)
    placed = ours @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    assert_allclose(placed, points, rtol=0, atol=TOLERANCE_MM)
    assert_allclose(values_of(store, volume)[*ours.T], voxels.ravel(), rtol=1e-6)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    assert_allclose(sorted(volume.spacing_mm), sorted(steps), rtol=1e-5)


@pytest.mark.parametrize("name", NO_VOLUME)
def test_a_tilted_or_uneven_series_is_no_volume(real_data, tmp_path, name):
    """Its images are samples with planes, and in no volume."""
    store = build(real_data / "series" / name, tmp_path / "s.h5")
    assert (len(store), len(store.volumes)) == (4, 0)
    assert all(sample.plane for sample in store)
    assert set(store.items["volume"]) == {-1}


@pytest.mark.parametrize("patient", ["STS_002", "STS_040"])
@pytest.mark.parametrize("modality", ["CT", "MR_T1", "PET"])
def test_an_image_series_is_one_volume(real_data, tmp_path, patient, modality):
    """All slices of a CT, MR or PET are one volume on the grid of its mask."""
    folder = real_data / "sts" / patient
    store = build(folder / modality / "image", tmp_path / "s.h5")
    (volume,) = store.volumes
    assert volume.samples == range(len(store))
    mask, affine = read_nifti(folder / f"{modality}_mask.nii.gz")
    assert volume.shape == mask.shape[::-1]
    # That of the file takes (column, row, slice).
    assert_allclose(volume.affine[:, [2, 1, 0, 3]], affine, rtol=0, atol=1e-3)
