"""Patches of volumes that are resampled to a common spacing, compared with scipy."""

import json
import pickle
from collections import Counter

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import map_coordinates

import fastseg
from fastseg import PatchLoader
from fastseg.augment import Affine, Affine3D, Flip, Noise, standard_3d
from fastseg.errors import OptionError, StateError
from fastseg.loading.augmented_patches import AugmentedPatchPreprocessing
from tests.loading.test_patches import build, part_of, patches_of

pytestmark = pytest.mark.filterwarnings("ignore::fastseg.errors.MissingLabelsWarning")

PATCH = (5, 30, 41)
# Finer than volumes in z, coarser in one axis in plane, as in the other of one volume.
SPACING = (2.1, 4.0, 2.5)
# Errors of float32 coordinates times the steepest slope of an image.
ERROR = 1e-3


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of three volumes of 8 slices, each of another shape and spacing."""
    return fastseg.open(build(tmp_path_factory.mktemp("volumes")))


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """The same store, compressed."""
    return fastseg.open(build(tmp_path_factory.mktemp("compressed"), compress=True))


def loader_of(store, patch=PATCH, spacing=SPACING, **options):
    options = {"per_volume": 3, "batch_size": 3, "seed": 4, **options}
    return PatchLoader(store, patch, spacing=spacing, **options)


def grid_of(volume, spacing=SPACING):
    """Return shape at a spacing, and the coordinates of its voxels along each axis."""
    stored, own = np.array(volume.shape), np.array(volume.spacing_mm)
    shape = np.maximum(np.rint(stored * own / spacing), 1).astype(int)
    return tuple(shape.tolist()), [
        (n - 1) / 2 + (np.arange(m) - (m - 1) / 2) * mm / have
        for n, m, mm, have in zip(stored, shape, spacing, own, strict=True)
    ]


def test_whole_volumes_equal_scipy(store):
    """Values are linear between voxels, about the same centre."""
    plain = PatchLoader(store, PATCH)
    for k, volume in enumerate(store.volumes):
        shape, axes = grid_of(volume)
        stored, _ = plain.load_volume(k)
        image, mask = loader_of(store).load_volume(k)
        assert image.shape == (1, *shape)
        assert mask.shape == shape
        points = np.stack(np.meshgrid(*axes, indexing="ij"))
        expected = map_coordinates(
            stored[0].astype(float), points, order=1, mode="nearest"
        )
        assert_allclose(image[0], expected, rtol=0, atol=ERROR)


@pytest.mark.parametrize("labels", ["exact", "nearest"])
def test_labels_of_whole_volumes(store, labels):
    """They are drawn on the nearest slice, or are those of the nearest voxels."""
    name = "heart"
    loader = loader_of(store, masks=name, labels=labels)
    for k, volume in enumerate(store.volumes):
        shape, (z, y, x) = grid_of(volume)
        near = np.clip(np.floor(z + 0.5).astype(int), 0, 7)
        _, mask = loader.load_volume(k)
        assert mask.sum() > 100
        for found, n in zip(mask, near.tolist(), strict=True):
            if labels == "exact":
                factor = np.array([x[1] - x[0], y[1] - y[0]])
                rings = [
                    (ring - [x[0], y[0]]) / factor
                    for ring in volume.contours[n].get(name, [])
                ]
                expected = fastseg.rasterize(rings, shape[1:]) if rings else 0 * found
            else:
                rows, columns = (np.floor(a + 0.5).astype(int) for a in (y, x))
                expected = volume.mask_of(name)[n][np.ix_(rows, columns)]
            assert_array_equal(found, expected)


def test_patches_are_parts_of_whole_volumes(store, compressed):
    """Also beyond the volume, in both kinds of stores, whatever the threads."""
    deep = (19, 41, 30)
    for source, patch, threads in (
        (store, PATCH, 1), (store, deep, 3), (compressed, deep, 1)
    ):  # fmt: skip
        loader = loader_of(source, patch, masks="onehot", threads=threads)
        wholes = [loader.load_volume(k) for k in range(3)]
        for batch in loader:
            for image, mask, k, corner in patches_of(batch):
                whole, labels = wholes[k]
                expected = part_of(whole[0], corner, patch, whole.min())
                assert_allclose(image, expected, rtol=0, atol=ERROR)
                for one, other in zip(labels, mask, strict=True):
                    assert_array_equal(other, part_of(one, corner, patch, 0))
    assert corner[0] < 0


@pytest.mark.parametrize("masks", ["labels", "bits", "heart"])
@pytest.mark.parametrize("augment", [None, "standard"])
def test_the_stored_spacing_changes_no_bit(store, masks, augment):
    """With the spacing of a volume, its patches are those without one."""
    volume = store.volumes[1]
    options = {"masks": masks, "augment": augment}
    plain = loader_of(store, spacing=None, **options)
    # Alone, and beside volumes that are resampled.
    alone = loader_of(store, indices=volume.samples, spacing=volume.spacing_mm)
    assert not isinstance(alone.preprocessing, AugmentedPatchPreprocessing)
    batches = {False: [], True: []}
    for indices, is_alone in ((volume.samples, True), (None, False)):
        loader = loader_of(store, indices=indices, spacing=volume.spacing_mm, **options)
        batches[is_alone] = list(loader)
    expected = {
        str(corner): (image, mask)
        for batch in plain
        for image, mask, k, corner in patches_of(batch)
        if k == 1
    }
    for made in batches.values():
        count = 0
        for batch in made:
            for image, mask, k, corner in patches_of(batch):
                if k == 1:
                    count += 1
                    assert_array_equal(image, expected[str(corner)][0], strict=True)
                    assert_array_equal(mask, expected[str(corner)][1], strict=True)
        assert count == 3
    assert_array_equal(loader.load_volume(1)[0], plain.load_volume(1)[0])


@pytest.mark.parametrize(
    "step", [Affine(rotate=(20, 40), scale=0.9), Affine3D(rotate=(10, 25))]
)
def test_transforms_happen_at_the_spacing(store, step):
    """They turn the voxels of the patch, which are resampled once."""
    patch = (6, 31, 31)
    loader = loader_of(store, patch, augment=[step], return_params=True)
    stored = PatchLoader(store, patch)
    for batch in loader:
        again = loader.replay(json.loads(json.dumps(batch.params)))
        assert_array_equal(again.image, batch.image)
        assert_array_equal(again.mask, batch.mask)
        entries = np.array(batch.params["index"])
        _, drawn = loader.preprocessing.parse_params(batch.params)
        shown = loader.preprocessing.locate_again(entries, batch.params)
        mappings = loader.preprocessing.find_mappings(shown, drawn)
        for j, (image, _, k, corner) in enumerate(patches_of(batch)):
            _, axes = grid_of(store.volumes[k])
            factor, start = np.array([(a[1] - a[0], a[0]) for a in axes]).T
            # The voxel in the middle stays, and distances in mm are scaled alike.
            middle = (np.array(patch) - 1) / 2
            matrix = mappings.in_space[j]
            assert_allclose(
                matrix[:3, :3] @ middle + matrix[:3, 3],
                start + factor * (corner + middle),
            )
            in_mm = matrix[:3, :3] * np.array(store.volumes[k].spacing_mm)[:, None]
            in_mm /= SPACING
            sizes = [1, 1, 1] if isinstance(step, Affine3D) else [1, *[1 / 0.9**2] * 2]
            assert_allclose(in_mm @ in_mm.T, np.diag(sizes), atol=1e-9)
            voxels = np.stack(np.mgrid[tuple(map(slice, patch))], axis=-1)
            points = np.moveaxis(voxels @ matrix[:3, :3].T + matrix[:3, 3], -1, 0)
            whole, _ = stored.load_volume(k)
            expected = map_coordinates(
                whole[0].astype(float), points, order=1, mode="nearest"
            )
            limits = np.array(whole.shape[1:])[:, None, None, None] - 1
            inside = ((points >= 0) & (points <= limits)).all(axis=0)
            assert inside.mean() > 0.3
            assert_allclose(image[inside], expected[inside], rtol=0, atol=ERROR)


def test_the_standard_preset_follows_the_spacing(store):
    """Thick slices are turned in plane, by any angle; others about all axes."""
    for spacing, inplane in (
        (None, False),
        ((6.0, 2.0, 2.5), False),
        ((6.1, 2.0, 2.5), True),
    ):
        loader = loader_of(
            store, (2, 30, 30), spacing=spacing, augment="standard", per_volume=30
        )
        made = loader.preprocessing
        assert made.compose == standard_3d(inplane=inplane)
        entries = loader.schedule.indices
        mappings = made.find_mappings(made.locate(entries, 0), made.draw(entries, 0))
        assert mappings.is_tilted.any() == (not inplane)
    copied = pickle.loads(pickle.dumps(loader))
    assert copied.preprocessing.compose == made.compose


def test_positions_are_those_of_the_spacing(store):
    """Each position of the resampled volume comes as often as any other."""
    shape, _ = grid_of(store.volumes[0])
    patch = tuple(n - extra for n, extra in zip(shape, (2, 3, 3), strict=True))
    loader = loader_of(
        store,
        patch,
        indices=store.volumes[0].samples,
        per_volume=4000,
        centred=0,
    )
    made = loader.preprocessing
    corners = made.positions.corners(loader.schedule.indices, 0)
    counts = np.zeros((3, 4, 4), np.int64)
    np.add.at(counts, tuple(corners.T), 1)
    freedom = counts.size - 1
    expected = 4000 / counts.size
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert abs(statistic - freedom) / np.sqrt(2 * freedom) < 4


def test_centres_are_nearest_to_voxels_of_the_class(store):
    """A centred patch of one voxel lies within half a voxel of one of the class."""
    name = "heart"
    loader = loader_of(
        store, (1, 1, 1), per_volume=200, centred=(name, 1.0), batch_size=100
    )
    seen = Counter()
    for batch in loader:
        for k, corner in zip(batch.index.tolist(), batch.corner, strict=True):
            volume = store.volumes[k]
            _, axes = grid_of(volume)
            at = np.array([a[n] for a, n in zip(axes, corner, strict=True)])
            reach = np.array(SPACING) / volume.spacing_mm / 2 + 1e-9
            voxels = np.argwhere(volume.mask_of(name))
            assert (np.abs(voxels - at) <= reach).all(axis=1).any()
            seen[k] += 1
    assert seen == dict.fromkeys(range(3), 200)


def test_a_state_holds_the_spacing(store):
    """A loop resumes only at the same spacing; copies load the same patches."""
    options = {"augment": [Noise(0.1), Flip()], "shuffle": False}
    loader = loader_of(store, **options)
    rest = list(loader)[1:]
    batches = iter(interrupted := loader_of(store, **options))
    next(batches)
    state = json.loads(json.dumps(interrupted.state_dict()))
    resumed = pickle.loads(pickle.dumps(loader_of(store, threads=3, **options)))
    resumed.load_state_dict(state)
    for one, other in zip(rest, resumed, strict=True):
        assert_array_equal(one.image, other.image)
        assert_array_equal(one.mask, other.mask)
    other = loader_of(store, spacing=2.5, **options)
    text = r"spacing is \[2.1, 4.0, 2.5\] in the state, \[2.5, 2.5, 2.5\] here"
    with pytest.raises(StateError, match=text):
        other.load_state_dict(state)
    nearest = loader_of(store, labels="nearest")
    with pytest.raises(StateError, match="labels is 'exact' in the state"):
        nearest.load_state_dict(loader_of(store).state_dict())


def test_slices_around_a_patch_are_read_ahead(store, monkeypatch):
    """They are those that its images need: one on each side, or all that it crosses."""
    asked = []
    monkeypatch.setattr(type(store), "read_ahead", lambda _, *args: asked.append(args))
    for steps in (None, [Affine3D(rotate_x=(30, 30))]):
        loader = loader_of(store, (3, 20, 20), augment=steps)
        made = loader.preprocessing
        entries = loader.schedule.indices[::3]  # one of each volume
        made.read_ahead(entries, 0)
        items, rows = asked.pop()
        corners = made.positions.corners(entries, 0)
        for k, corner in enumerate(corners):
            volume = store.volumes[k]
            _, (z, y, _) = grid_of(volume)
            at = z[corner[0] : corner[0] + 3]
            is_own = np.isin(items, volume.samples)
            own = set((items[is_own] - volume.samples.start).tolist())
            low, high = max(0, np.floor(at[0])), min(7, np.ceil(at[-1]))
            needed = set(range(int(low), int(high) + 1))
            assert own > needed if steps else own == needed
            first, end = y[corner[1]], y[corner[1] + 19]
            assert (rows[is_own, 0] <= max(first, 0)).all()
            assert (rows[is_own, 1] > min(end, volume.shape[1] - 1)).all()
            assert (rows[is_own] >= 0).all()
            assert (rows[is_own] <= volume.shape[1]).all()


def respaced(store, folder, slices, pixels=()):
    """Return a copy of a store with other distances between slices and pixels."""
    path = folder / "volumes.h5"
    path.write_bytes(store.path.read_bytes())
    with h5py.File(path, "r+") as file:
        file["volumes/spacing_mm"][...] = slices
        for sample, spacing in enumerate(pixels):
            file["items/spacing_mm"][sample] = spacing
    return fastseg.open(path)


def test_spacings_that_cannot_be_changed_are_refused(store, tmp_path):
    """Volumes of unknown or absurd spacing are named, unless they are left out."""
    wrong = respaced(store, tmp_path, [3.0, 4.0, 1e19], [[np.nan, 2]] * 8)
    with pytest.raises(OptionError, match=r"that of volumes is unknown \(0\): leave"):
        loader_of(wrong)
    some = wrong.select(volumes=[1, 2])
    with pytest.raises(OptionError, match=r"volume 2 has voxels of .* give a larger"):
        loader_of(wrong, indices=some)
    only = loader_of(wrong, indices=wrong.select(volumes=[1]))
    assert len(list(only)) == 1
    # Voxels larger than the volume are one.
    thin = respaced(store, tmp_path, [4.0, 4.0, 0.001])
    image, _ = loader_of(thin, (1, 8, 8)).load_volume(2)
    plain = PatchLoader(thin, (1, 8, 8)).load_volume(2)[0]
    assert image.shape[1] == 1
    assert abs(image.mean() - plain[:, 3:5].mean()) < 0.01


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"spacing": 0}, "spacing is 0, expected .* from 0.001 to 1000 mm"),
        ({"spacing": (1, 2)}, r"spacing is \(1, 2\), expected \(slices, rows, col"),
        ({"spacing": "1 mm"}, "spacing is '1 mm', expected"),
        ({"spacing": (1, 2, np.nan)}, "spacing is .* expected"),
        ({"spacing": {1, 2, 3}}, "spacing is .* expected"),
        ({"spacing": 1e4}, "spacing is 10000.0, expected"),
        ({"dtype": "float16"}, "patches at another spacing .* are 'float32'"),
        ({"dtype": "raw"}, "patches at another spacing .* are 'float32'"),
        ({"patch": (30, 8, 8)}, r"no chosen volume has more than 19 at a spacing of"),
        ({"return_params": True}, "return_params is given without augment"),
    ],
)
def test_invalid_options_are_refused(store, options, text):
    """An error says what is wrong, and what was expected."""
    with pytest.raises(OptionError, match=text):
        loader_of(store, **options)
