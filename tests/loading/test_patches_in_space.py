"""Patches that are turned about any axis and scaled along all, compared with scipy."""

import json

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

import fastseg
from fastseg import Loader, PatchLoader
from fastseg.augment import (
    Affine,
    Affine3D,
    Compose,
    Custom,
    Elastic,
    Flip,
    Gamma,
    Noise,
)
from fastseg.errors import OptionError
from tests.loading.test_patches import build, patches_of

pytestmark = pytest.mark.filterwarnings("ignore::fastseg.errors.MissingLabelsWarning")

PATCH = (5, 40, 31)
TURNS = Affine3D(rotate=(10, 40), scale=(0.8, 1.3), scale_z=(0.9, 1.2))
STRETCHES = Affine3D(rotate_z=30, scale=(0.8, 1.3), scale_z=(1.2, 2))
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


def batches_of(store, augment, patch=PATCH, **options):
    """Return a loader of augmented patches, and all batches of an epoch."""
    options = {"per_volume": 3, "batch_size": 3, "seed": 4, **options}
    loader = PatchLoader(store, patch, augment=augment, return_params=True, **options)
    return loader, list(loader)


def voxels_of(shape):
    """Return the index (z, y, x) of each voxel of a patch, float64."""
    return np.stack(np.mgrid[tuple(map(slice, shape))], axis=-1).astype(float)


def turned(volume, values, points, shape):
    """Return what points (z, y, x) of a patch show of it before an Affine3D."""
    degrees = [-values[f"rotate_{axis}"] for axis in "xyz"]
    forward = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    scales = [values["scale"] * values[f"scale_{axis}"] for axis in "xyz"]
    spacing = np.array(volume.spacing_mm)
    centre = (np.array(shape) - 1) / 2
    mm = ((points - centre) * spacing)[..., ::-1]
    before = mm @ np.linalg.inv(forward * scales).T
    return before[..., ::-1] / spacing + centre


def steps_of(batch, j):
    """Return what was drawn for patch j, for each step."""
    return [
        {name: values[j] for name, values in step.items() if name != "name"}
        for step in batch.params["steps"]
    ]


def inside_of(points, shape):
    """Return which points surely lie inside a volume, and which surely do not."""
    gap = np.minimum(points + 0.5, np.array(shape) - 0.5 - points).min(axis=-1)
    return gap > 1e-4, gap < -1e-4


def test_tilted_patches_equal_scipy(store):
    """Turns are rigid in millimetres; values are linear, labels those nearest."""
    loader, batches = batches_of(store, [TURNS], masks="bits")
    shown = 0
    for batch in batches:
        for j, (image, mask, k, corner) in enumerate(patches_of(batch)):
            whole, bits = loader.load_volume(k)
            (values,) = steps_of(batch, j)
            points = turned(store.volumes[k], values, voxels_of(PATCH), PATCH) + corner
            axes = np.moveaxis(points, -1, 0)
            expected = map_coordinates(
                whole[0].astype(float), axes, order=1, mode="nearest"
            )
            inside, outside = inside_of(points, bits.shape)
            assert inside.mean() > 0.25
            assert_allclose(image[inside], expected[inside], rtol=0, atol=ERROR)
            assert_array_equal(image[outside], whole.min())
            assert not mask[outside].any()
            limits = np.array(bits.shape) - 1
            near = np.clip(np.floor(points + 0.5).astype(int), 0, limits)
            sure = inside & (np.abs(points % 1 - 0.5) > 1e-4).all(axis=-1)
            nearest = bits[tuple(np.moveaxis(near, -1, 0))]
            assert_array_equal(mask[sure], nearest[sure])
            shown += int((mask != 0).sum())
    assert shown > 1000


def test_a_quarter_turn_about_each_axis(store, tmp_path):
    """Positive angles turn counter-clockwise, as seen along the axis."""
    store = respaced(store, tmp_path, 1.0, [1.0, 1.0, 1.0])
    _, (plain,) = batches_of(store, [], (7, 7, 7), per_volume=1)
    # As seen along x, y points to the right and z down; along y, z and x.
    planes = {"x": (0, 1), "y": (2, 0), "z": (1, 2)}
    for axis, (down, right) in planes.items():
        steps = [Affine3D(**{f"rotate_{axis}": (90, 90)})]
        loader, (moved,) = batches_of(store, steps, (7, 7, 7), per_volume=1)
        for before, after, k, corner in zip(
            plain.image[:, 0],
            moved.image[:, 0],
            moved.index.tolist(),
            moved.corner,
            strict=True,
        ):
            assert_array_equal(corner, plain.corner[plain.index.tolist().index(k)])
            expected = np.rot90(before, axes=(down, right))
            assert_allclose(after, expected, atol=ERROR)
        assert loader.preprocessing.compose.transforms[0].tilts == (axis != "z")


def respaced(store, folder, pixels, slices):
    """Return a copy of a store with other distances between pixels and slices."""
    path = folder / "volumes.h5"
    path.write_bytes(store.path.read_bytes())
    with h5py.File(path, "r+") as file:
        file["items/spacing_mm"][...] = pixels
        file["volumes/spacing_mm"][...] = slices
    return fastseg.open(path)


@pytest.mark.parametrize("inplane", ["always", "never"])
def test_in_plane_it_is_an_affine(store, inplane):
    """Without a tilt, images and labels are those of Affine, exactly drawn."""
    same = {"rotate": (0, 0), "rotate_z": 50, "scale_x": 1.2}
    if inplane == "always":
        same = {**same, "rotate": 50, "scale_z": 2}
    _, batches = batches_of(store, [Affine3D(**same, inplane=inplane), Noise(0.1)])
    loader, _ = batches_of(store, [Affine(rotate=50, scale_x=1.2), Noise(0.1)])
    names = ("scale_x", "scale_y", "scale")
    for batch in batches:
        (values, noise) = (dict(step) for step in batch.params["steps"])
        affine = {
            "name": "Affine",
            "on": values["on"],
            "rotate": values["rotate_z"],
            **{name: values[name] for name in names},
            **dict.fromkeys(("shear", "translate_x", "translate_y"), [0.0] * 3),
        }
        expected = loader.replay({**batch.params, "steps": [affine, noise]})
        assert_allclose(batch.image, expected.image, rtol=0, atol=ERROR)
        assert_array_equal(batch.mask, expected.mask)


def test_slices_are_interpolated_along_z_alone(store):
    """Scaled along z, values are linear between slices, labels those of the nearest."""
    _, batches = batches_of(store, [STRETCHES], masks="heart", centred=1.0)
    flat = Affine3D(rotate_z=30, scale=(0.8, 1.3), scale_z=(1.2, 2), inplane="always")
    # The same in plane, of all slices: from the same seed.
    whole, _ = batches_of(store, [flat], (8, *PATCH[1:]), masks="heart")
    covered = between = 0
    for batch in batches:
        corner = batch.corner.copy()
        corner[:, 0] = 0
        params = {**batch.params, "corner": corner.tolist()}
        every = whole.replay(params)
        for j, (image, mask, _, first) in enumerate(patches_of(batch)):
            (values,) = steps_of(batch, j)
            factor = 1 / (values["scale"] * values["scale_z"])
            at = first[0] + 2 + factor * (np.arange(5) - 2)
            assert (at >= 0).all()
            assert (at <= 7).all()
            low = np.minimum(np.floor(at).astype(int), 6)
            weight = (at - low)[:, None, None]
            slices = every.image[j, 0].astype(float)
            expected = (1 - weight) * slices[low] + weight * slices[low + 1]
            assert_allclose(image, expected, rtol=0, atol=ERROR)
            nearest = np.floor(at + 0.5).astype(int)
            assert_array_equal(mask, every.mask[j][nearest])
            covered += int(mask.sum())
            between += int((np.abs(at - nearest) > 0.1).sum())
    assert covered > 500
    assert between > 10


def test_slices_beyond_the_volume_are_padding(store):
    """A patch that is made smaller along z shows the volume between pads."""
    steps = [Affine3D(scale_z=0.5)]
    _, batches = batches_of(store, steps, (8, 20, 20), masks="bits", pad_value=-7)
    for batch in batches:
        is_pad = (batch.image[:, 0] == -7).all(axis=(2, 3))
        # Slice k of 8 shows 3.5 + 2 * (k - 3.5).
        assert_array_equal(is_pad, [[True] * 2 + [False] * 4 + [True] * 2] * 3)
        assert not batch.mask[is_pad].any()


def test_patches_in_space_depend_on_seed_epoch_and_patch_alone(store, compressed):
    """Batch size, threads and compression change nothing; some patches are tilted."""
    turn = Affine3D(rotate=30, scale=1.2, p=0.5)
    some = [turn, Flip("slices"), Affine(rotate=20), Gamma(), Noise()]
    found = {}
    for source, size, threads in ((store, 3, 1), (store, 4, 3), (compressed, 1, 2)):
        loader, batches = batches_of(
            source, some, batch_size=size, threads=threads, masks="onehot"
        )
        for batch in batches:
            for image, mask, *where in patches_of(batch):
                one = found.setdefault(str(where), (image.copy(), mask.copy()))
                assert_array_equal(one[0], image)
                assert_array_equal(one[1], mask)
    assert len(found) == 9
    drawn = loader.preprocessing.draw(loader.schedule.indices, 0)
    assert 0 < drawn.values[0]["on"].sum() < 9


def test_several_steps_are_one_mapping(store):
    """Mirrors between two turns join the mapping in space; a batch is replayed."""
    flips = [Flip(axis) for axis in ("slices", "vertical", "horizontal")]
    loader, batches = batches_of(store, [TURNS, *flips, TURNS], (7, 40, 30))
    for batch in batches:
        again = loader.replay(json.loads(json.dumps(batch.params)))
        assert_array_equal(again.image, batch.image)
        assert_array_equal(again.mask, batch.mask)
        for j, (image, _, k, corner) in enumerate(patches_of(batch)):
            whole, _ = loader.load_volume(k)
            volume, shape = store.volumes[k], image.shape
            first, *mirrored, last = steps_of(batch, j)
            points = turned(volume, last, voxels_of(shape), shape)
            is_on = [flip["on"] for flip in mirrored]
            points = np.where(is_on, np.array(shape) - 1 - points, points)
            points = turned(volume, first, points, shape) + corner
            expected = map_coordinates(
                whole[0].astype(float), np.moveaxis(points, -1, 0), order=1
            )
            limits = np.array(whole.shape[1:]) - 1
            inside = ((points > 0) & (points < limits)).all(axis=-1)
            assert inside.any()
            assert_allclose(image[inside], expected[inside], rtol=0, atol=ERROR)


def test_functions_come_after_a_turn(store):
    """A Custom step, and steps after it, change tilted patches as others."""

    def add(image, mask, random):
        image += 1

    _, plain = batches_of(store, [TURNS])
    _, changed = batches_of(store, [TURNS, Custom(function=add), Gamma(2.0, p=0)])
    assert_allclose(changed[0].image, plain[0].image + 1, rtol=0, atol=1e-6)


def test_anisotropic_volumes_are_turned_in_plane(store, tmp_path):
    """Slices more than 3 times as far apart as pixels are tilted only if asked."""
    store = respaced(store, tmp_path, [2.0, 2.5], [5.9, 6.1, 8.0])
    steps = {name: Affine3D(rotate=40, inplane=name) for name in ("never", "always")}
    steps["anisotropic"] = Affine3D(rotate=40)
    tilted = {}
    for name, step in steps.items():
        loader, _ = batches_of(store, [step])
        made = loader.preprocessing
        entries = np.arange(3)
        mappings = made.find_mappings(made.locate(entries, 0), made.draw(entries, 0))
        tilted[name] = mappings.is_tilted.tolist()
    assert tilted == {
        "never": [True] * 3,
        "always": [False] * 3,
        "anisotropic": [True, False, False],
    }


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Affine3D(rotate=-1), "a single number n means -n to n"),
        (lambda: Affine3D(rotate_x="up"), "rotate_x is 'up', expected a finite"),
        (lambda: Affine3D(scale_z=0), "scale_z is 0, expected 0.001 to 1000"),
        (lambda: Affine3D(inplane="no"), "inplane is 'no', expected one of"),
        (
            lambda: Compose([TURNS, Elastic()]),
            "Affine3D and Elastic given, but",
        ),
        (lambda: Compose([TURNS], "cubic"), "'cubic', but Affine3D turns about any"),
        (lambda: Compose([TURNS], border="reflect"), "expected 'constant' or 'edge'"),
    ],
)
def test_invalid_options_are_refused(make, text):
    """An error says what is wrong, and what was expected."""
    with pytest.raises(OptionError, match=text):
        make()


def test_what_is_not_tilted_takes_all_options():
    """In plane, a patch is bent and interpolated as an image."""
    flat = Affine3D(rotate=10, inplane="always")
    stretch = Affine3D(scale_z=2)
    Compose([flat, stretch, Elastic()], interpolation="cubic", border="reflect")


def test_samples_cannot_be_turned_in_space(store):
    """A Loader, also one of neighbours, says what to use in its place."""
    for neighbours in (0, 2):
        with pytest.raises(OptionError, match="a PatchLoader takes it"):
            Loader(store, size=60, neighbours=neighbours, augment=[Affine3D(rotate=9)])
