"""Planes of a volume: which voxels they show, where the patient's head is, outlines."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

import fastseg
from fastseg import rasterize
from fastseg.augment import Affine3D, Brightness
from fastseg.links import LinkTable
from fastseg.pictures.planes import (
    LETTERS,
    augmented_version,
    find_labelled,
    opposite,
    orthogonal_planes,
    outlines,
)
from fastseg.pictures.view import View
from tests.series import table_of, write_image

SHAPE = (5, 12, 15)
# A ring on slices 1 to 3, and the pixels that it covers.
RING = [(2.5, 3.5), (8.5, 3.5), (8.5, 6.5), (2.5, 6.5)]
COVERED = np.s_[1:4, 4:7, 3:9]
# Directions of the rows and the columns of images, of all three kinds, and oblique.
DIRECTIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "axial of one who lies on the face": (-1, 0, 0, 0, -1, 0),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (0.8, 0.6, 0, 0, 0, -1),
}


def make_store(folder, directions, classes=("a", "b")):
    """Build a store of one volume, whose slopes differ, with a ring on three slices."""
    normal = np.cross(directions[:3], directions[3:])
    draw = np.random.default_rng(3)
    (folder / "ring.txt").write_text("\n".join(f"{x} {y}" for x, y in RING))
    for k in range(SHAPE[0]):
        write_image(
            folder / f"{k}.dcm",
            draw.integers(0, 1000, SHAPE[1:]),
            ImagePositionPatient=[float(x) for x in 3 * k * normal],
            ImageOrientationPatient=list(directions),
            RescaleSlope=k + 1,
            RescaleIntercept=-k,
        )
    links = []
    for k, link in enumerate(table_of(folder).links):
        labels = classes if 0 < k < 4 else ()
        given = [{"contour_path": "ring.txt", "label": name} for name in labels]
        links += [link._replace(**one) for one in given or [{}]]
    table = LinkTable(base=folder, links=links)
    return fastseg.open(fastseg.build(table, folder / "s.h5").path)


@pytest.fixture(scope="module", params=DIRECTIONS)
def store(request, tmp_path_factory):
    """A store of one volume in each direction."""
    return make_store(tmp_path_factory.mktemp("planes"), DIRECTIONS[request.param])


def planes_of(store, bits, *, zoom=False):
    """Return the planes of the volume of a store."""
    return orthogonal_planes(View(store, bits, "auto", zoom, 10**6), store.volumes[0])


def voxels_of(volume):
    """Return for each plane the index (z, y, x) of each of its pixels, (h, w, 3)."""
    z, y, x = find_labelled(volume, (0, 1)).centre
    indices = np.moveaxis(np.indices(volume.shape), 0, -1)
    upside_down = volume.affine[:3, 0] @ (-1, -1, 1) > 0
    order = slice(None, None, -1) if upside_down else slice(None)
    return indices[z], indices[order, y], indices[order, :, x]


def test_planes_show_the_voxels_of_the_volume(store):
    """Values are rescaled, slice by slice; heads, else fronts, are up."""
    (volume,) = store.volumes
    planes = planes_of(store, (0, 1))
    factors = np.arange(1, 6)[:, None, None]
    values = volume.image * factors + 1.0 - factors
    spacing = np.array(volume.spacing_mm)
    for plane, voxels in zip(planes, voxels_of(volume), strict=True):
        assert_array_equal(plane.values, values[*np.moveaxis(voxels, -1, 0)])
        assert_array_equal(plane.mask, volume.mask[*np.moveaxis(voxels, -1, 0)])
        column, row = plane.crossing
        assert tuple(voxels[row, column]) == (2, 5, 6)
        assert plane.crop == (0, 0, *reversed(plane.mask.shape))
        # The letters are those of the steps to the right and down, in the patient.
        steps = voxels[0, 1] - voxels[0, 0], voxels[1, 0] - voxels[0, 0]
        for step, letters in zip(steps, plane.letters, strict=True):
            mm = volume.affine[:3, :3] @ step
            axis = np.abs(mm).argmax()
            assert letters[0] == LETTERS[axis][0 if mm[axis] > 0 else 1]
            others = [LETTERS[k] for k in range(3) if abs(mm[k]) > 1e-6]
            assert all(any(one in pair for pair in others) for one in letters)
        lengths = [np.abs(step) @ spacing for step in reversed(steps)]
        assert_allclose(plane.spacing_mm, lengths)
    assert planes[1].letters[1][0] in "FPL"
    assert planes[1].letters[1] == planes[2].letters[1]


def test_a_version_of_a_volume_is_shown_in_the_same_planes(store):
    """Half a turn about the first column's axis, and twice the values of a loader."""
    (volume,) = store.volumes
    steps = [
        Affine3D(rotate_x=(180, 180), inplane="never"),
        Brightness(multiply=2, p=1),
    ]
    version = augmented_version(store, volume, steps, 0, 0)
    factors = np.arange(1, 6)[:, None, None]
    values = (volume.image * factors + 1.0 - factors)[::-1, ::-1]
    # A loader's values have the mean 0, which brightness leaves as it is.
    expected = 2 * values - values.mean()
    assert_allclose(version.values, expected, rtol=1e-4, atol=0.1)
    assert_array_equal(version.mask, volume.mask[::-1, ::-1])
    view = View(store, (0, 1), "auto", False, 10**6)
    planes = orthogonal_planes(view, volume, version)
    for plane, original, voxels in zip(
        planes, planes_of(store, (0, 1)), voxels_of(volume), strict=True
    ):
        where = tuple(np.moveaxis(voxels, -1, 0))
        assert_array_equal(plane.values, version.values[where])
        assert_array_equal(plane.mask, version.mask[where])
        assert plane.letters == ("", "")
        assert plane[5:7] == original[5:7]  # crop and crossing


def test_planes_have_the_name_of_the_axis_across_them(tmp_path):
    """Which is none if a plane is oblique."""
    expected = {
        "axial": ("axial", "coronal", "sagittal"),
        "coronal": ("coronal", "axial", "sagittal"),
        "sagittal": ("sagittal", "axial", "coronal"),
        "oblique": ("", "axial", ""),
    }
    for name, names in expected.items():
        (tmp_path / name).mkdir()
        store = make_store(tmp_path / name, DIRECTIONS[name])
        planes = planes_of(store, (0,))
        texts = ("slice 2", "row 5", "column 6")
        assert [plane.heading for plane in planes] == [
            f"{name}, {text}" if name else text
            for name, text in zip(names, texts, strict=True)
        ]


def test_outlines_are_those_of_the_classes(store):
    """Of the slice, the stored contours; of the others, the borders of the mask."""
    slice_, *others = planes_of(store, (1,))
    ((bit, ring),) = slice_.rings
    assert bit == 1
    assert_array_equal(ring, RING)
    for plane, length in zip(others, (6, 3), strict=True):
        ((bit, ring),) = plane.rings
        assert bit == 1
        assert len(ring) == 2 * (3 + length)
        assert_array_equal(rasterize([ring], plane.mask.shape), plane.mask >> 1)
    planes = planes_of(store, (0, 1))
    assert [[k for k, _ in plane.rings] for plane in planes] == [[0, 1]] * 3


def test_the_labelled_part_is_found(store):
    """It is that of a search in the whole mask; without labels, centres are halves."""
    (volume,) = store.volumes
    labelled = find_labelled(volume, (0, 1))
    ranges = tuple((part.start, part.stop) for part in COVERED)
    assert labelled == ((2, 5, 6), ranges)
    where = np.argwhere(volume.mask)
    assert_array_equal(np.ptp(where, axis=0) + 1, [b - a for a, b in ranges])
    assert find_labelled(volume, ()) == ((2, 6, 7), None)


def test_a_zoom_shows_what_is_labelled_with_a_margin(tmp_path, monkeypatch):
    """Ranges hold what is labelled, are 1.6 times as long, and stay in the volume."""
    monkeypatch.setattr("fastseg.pictures.planes.ZOOM_PIXELS", 2)
    store = make_store(tmp_path, DIRECTIONS["axial"])
    planes = planes_of(store, (0,), zoom=True)
    # Left, top, right, bottom.
    crops = [(1, 3, 11, 8), (1, 0, 11, 5), (3, 0, 8, 5)]
    assert [plane.crop for plane in planes] == crops
    unlabelled = planes_of(store, (), zoom=True)
    assert [plane.crop.right for plane in unlabelled] == [15, 15, 12]


@given(hnp.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_outlines_enclose_exactly_a_region(region):
    """Filled again, they cover its pixels and no other, also those at corners."""
    rings = outlines(region)
    assert_array_equal(rasterize(rings, region.shape), region)
    for ring in rings:
        steps = np.diff(ring, axis=0, append=ring[:1])
        assert_array_equal(np.abs(steps).sum(axis=1), 1)
    borders = sum(np.abs(np.diff(np.pad(region, 1).astype(int), axis=a)).sum()
        for a in (0, 1))  # fmt: skip
    assert sum(map(len, rings)) == borders


def test_opposite_directions():
    """R is opposite to L, A to P, F to H."""
    assert [opposite(text) for text in ("L", "AR", "HPL", "")] == ["R", "PL", "FAR", ""]
