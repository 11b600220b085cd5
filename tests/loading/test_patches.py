"""PatchLoader: patches equal parts of whole volumes, and lie where they should."""

import pickle
import re
import tracemalloc
from collections import Counter
from itertools import islice

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastseg
from fastseg import PatchLoader
from fastseg._kernels.images.positions import find_pixel
from fastseg.augment import Flip
from fastseg.errors import (
    ArgumentError,
    MissingLabelsError,
    MissingLabelsWarning,
    OptionError,
    StateError,
    StoreError,
    UnknownClassError,
)
from fastseg.links import LinkTable
from fastseg.loading.batches import Batch
from tests.conftest import PROJECT
from tests.series import table_of, write_stack
from tests.sparse import label_volumes, make_sparse_store
from tests.test_notebook import pictures

pytestmark = pytest.mark.filterwarnings("ignore::fastseg.errors.MissingLabelsWarning")

PATCH = (3, 20, 31)
FORMS = ("labels", "bits", "onehot")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of three volumes of 8 slices, each of another shape."""
    return fastseg.open(build(tmp_path_factory.mktemp("volumes")))


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """The same store, compressed."""
    base = tmp_path_factory.mktemp("compressed")
    return fastseg.open(build(base, compress=True))


def build(base, **options):
    """Build the store of a phantom of CT with structure sets; return its path."""
    study = fastseg.make_phantom(base / "study", kind="rtstruct", seed=3)
    table = fastseg.link(study, rois=PROJECT / "data" / "phantom_rt.toml")
    return fastseg.build(table, base / "volumes.h5", **options).path


def part_of(array, corner, size, pad):
    """Return part of an array from a corner on, `pad` where the array has no cell."""
    corner, size = np.array(corner), np.array(size)
    out = np.full(size, pad, array.dtype)
    low, high = np.maximum(corner, 0), np.minimum(corner + size, array.shape)
    source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    target = tuple(
        slice(a, b) for a, b in zip(low - corner, high - corner, strict=True)
    )
    out[target] = array[source]
    return out


def patches_of(batch):
    """Yield image (d, h, w), mask, volume and corner of each patch of a batch."""
    volumes, corners = batch.index.tolist(), batch.corner.tolist()
    yield from zip(
        batch.image[:, 0], batch.mask, volumes, map(tuple, corners), strict=True
    )


def rescaled(store, k):
    """Return the image values of a volume, float64."""
    volume = store.volumes[k]
    items = slice(volume.samples.start, volume.samples.stop)
    slope, intercept = (store.items[n][items] for n in ("slope", "intercept"))
    return volume.image * slope[:, None, None] + intercept[:, None, None]


def expected_mask(store, bits, masks, priority):
    """Return the mask of a part of a volume in one of the forms, pixel by pixel."""
    if masks == "bits":
        return bits
    if masks in store.classes:
        return (bits >> store.class_index(masks)) & 1
    if masks == "onehot":
        return np.stack([(bits >> k) & 1 for k in range(len(store.classes))])
    labels = np.zeros(bits.shape, np.uint8)
    for name in reversed(priority):
        k = store.class_index(name)
        labels[(bits >> k) & 1 == 1] = k + 1
    return labels


@pytest.mark.parametrize("kind", ["store", "compressed"])
@pytest.mark.parametrize("masks", [*FORMS, "heart"])
@pytest.mark.parametrize("patch", [PATCH, (8, 104, 40), (1, 7, 120)])
def test_patches_are_parts_of_their_volumes(request, kind, masks, patch):
    """Images are z-scored by volume; padding is its least value, and background."""
    store = request.getfixturevalue(kind)
    loader = PatchLoader(store, patch, per_volume=3, batch_size=4, masks=masks, seed=7)
    priority = loader.preprocessing.format.priority
    seen = Counter()
    for batch in loader:
        assert batch.image.shape == (len(batch), 1, *patch)
        assert batch.image.dtype == np.float32
        for image, mask, k, corner in patches_of(batch):
            seen[k] += 1
            values = rescaled(store, k)
            scaled = (values - values.mean()) / values.std()
            expected = part_of(scaled, corner, patch, scaled.min())
            assert_allclose(image, expected, atol=2e-5)
            bits = part_of(store.volumes[k].mask, corner, patch, 0)
            assert_array_equal(mask, expected_mask(store, bits, masks, priority))
    assert seen == {0: 3, 1: 3, 2: 3}


@pytest.mark.parametrize("masks", FORMS)
def test_a_whole_volume_has_the_values_of_its_patches(store, masks):
    """Each patch is a part of what `load_volume` returns."""
    loader = PatchLoader(store, PATCH, masks=masks, per_volume=4)
    for batch in loader:
        for image, mask, k, corner in patches_of(batch):
            whole, labels = loader.load_volume(k)
            assert whole.shape == (1, *store.volumes[k].shape)
            part = tuple(slice(a, a + n) for a, n in zip(corner, PATCH, strict=True))
            assert_array_equal(whole[0][part], image)
            assert_array_equal(labels[..., *part], mask)
    for other in (True, [0], "0", -1, 3, 0.0):
        with pytest.raises(OptionError, match=r"volume is .*, expected"):
            loader.load_volume(other)


@pytest.mark.parametrize("normalize", ["zscore", "percentile", "foreground", None])
def test_any_volume_of_the_store_can_be_loaded(store, normalize):
    """Volumes that are not chosen are made as if they were, by the same statistics."""
    options = {"normalize": normalize, "augment": [Flip(p=1)], "pad_value": -1}
    every = PatchLoader(store, PATCH, **options)
    one = PatchLoader(
        store,
        PATCH,
        indices=store.volumes[1].samples,
        value_statistics=every.value_statistics,
        **options,
    )
    for k in range(3):
        for array, other in zip(one.load_volume(k), every.load_volume(k), strict=True):
            assert_array_equal(array, other, strict=True)
    if normalize == "foreground":
        own = PatchLoader(store, PATCH, indices=store.volumes[1].samples, **options)
        image, _ = own.load_volume(0)
        mean, std, low, high = own.value_statistics
        expected = (np.clip(rescaled(store, 0), low, high) - mean) / std
        assert_allclose(image[0], expected, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "raw"])
def test_other_dtypes(store, dtype):
    """Halves are the rounded singles, raw values those that are stored."""
    options = {"per_volume": 2, "batch_size": 3, "shuffle": False}
    single = PatchLoader(store, (3, 90, 101), **options)
    loader = PatchLoader(store, (3, 90, 101), dtype=dtype, **options)
    for other, batch in zip(single, loader, strict=True):
        assert_array_equal(batch.mask, other.mask)
        assert_array_equal(batch.corner, other.corner)
        if dtype == "float16":
            assert_array_equal(batch.image, other.image.astype(np.float16), strict=True)
            continue
        for image, _, k, corner in patches_of(batch):
            stored = store.volumes[k].image
            expected = part_of(stored, corner, (3, 90, 101), stored.min())
            assert_array_equal(image, expected, strict=True)


def test_patches_of_depth_one_are_those_of_a_loader(store):
    """A patch that is a whole slice equals the sample of a Loader, bit for bit."""
    samples = np.array(store.volumes[1].samples)
    loader = fastseg.Loader(store, indices=samples, normalize_by="volume", batch_size=8)
    (whole,) = loader
    order = np.argsort(whole.index)
    shape = store.volumes[1].shape[1:]
    patches = PatchLoader(store, (1, *shape), indices=samples, per_volume=20)
    drawn = set()
    for batch in patches:
        for image, mask, _, (z, _, _) in patches_of(batch):
            drawn.add(z)
            assert_array_equal(image, whole.image[order[z]])
            assert_array_equal(mask, whole.mask[order[z]][None])
    assert len(drawn) > 4


def test_where_a_patch_lies_depends_on_its_volume_and_number_alone(store):
    """Other batch sizes, other volumes and other numbers of patches change nothing."""

    def positions(epoch=0, **options):
        loader = PatchLoader(store, PATCH, **{"seed": 5, "per_volume": 3, **options})
        loader.epoch = epoch
        found = {}
        for batch in loader:
            for _, _, k, corner in patches_of(batch):
                found.setdefault(k, set()).add(corner)
        return found

    every = positions()
    assert positions(batch_size=1, threads=3, shuffle=False) == every
    only = positions(indices=store.volumes[2].samples)
    assert only == {2: every[2]}
    more = positions(per_volume=5)
    assert all(every[k] < more[k] for k in every)
    assert positions(seed=6) != every
    assert positions(epoch=1) != every


def counts_of(store, **options):
    """Return how often each position of volume 0 was drawn, and of how many draws."""
    shape = np.array(store.volumes[0].shape)
    patch = tuple((shape - [2, 3, 3]).tolist())
    loader = PatchLoader(
        store,
        patch,
        indices=store.volumes[0].samples,
        per_volume=4000,
        batch_size=500,
        **options,
    )
    corners = loader.preprocessing.positions.corners(loader.schedule.indices, 0)
    counts = np.zeros((3, 4, 4), np.int64)
    np.add.at(counts, tuple(corners.T), 1)
    return counts


def chi_square(counts, expected):
    """Return Pearson's statistic, in deviations from its mean."""
    freedom = counts.size - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return (statistic - freedom) / np.sqrt(2 * freedom)


def test_positions_are_equally_likely(store):
    """Without centred patches, each position comes as often as any other."""
    counts = counts_of(store, centred=0)
    assert counts.sum() == 4000
    assert abs(chi_square(counts, counts.sum() / counts.size)) < 4


def voxels_by_class(store, k):
    """Return the number of voxels of each class in a volume."""
    mask = store.volumes[k].mask
    return np.array([((mask >> c) & 1).sum() for c in range(len(store.classes))])


@pytest.mark.parametrize("centred_by", ["class", "voxels"])
def test_voxels_are_drawn_as_often_as_said(store, centred_by):
    """Centres of patches of one voxel: classes evenly or by voxels, voxels evenly."""
    loader = PatchLoader(
        store,
        (1, 1, 1),
        indices=store.volumes[0].samples,
        per_volume=30_000,
        batch_size=1000,
        centred=1.0,
        centred_by=centred_by,
    )
    corners = loader.preprocessing.positions.corners(loader.schedule.indices, 0)
    mask = store.volumes[0].mask
    counts = np.zeros(mask.shape, np.int64)
    np.add.at(counts, tuple(corners.T), 1)
    numbers = voxels_by_class(store, 0)
    weights = numbers / numbers.sum()
    if centred_by == "class":
        weights = (numbers > 0) / (numbers > 0).sum()
    likely = np.zeros(mask.shape)
    for c, (weight, number) in enumerate(zip(weights, numbers, strict=True)):
        if number:
            likely[(mask >> c) & 1 == 1] += weight / number
    assert not counts[mask == 0].any()
    # Neighbours are joined until about 30 are expected of each group.
    wanted, observed = likely[mask != 0] * counts.sum(), counts[mask != 0]
    group = (np.cumsum(wanted) // 30).astype(np.int64)
    wanted, observed = np.bincount(group, wanted), np.bincount(group, observed)
    enough = wanted > 5
    assert enough.sum() > 100
    assert abs(chi_square(observed[enough], wanted[enough])) < 4


def test_the_fraction_that_is_centred(store):
    """Of patches of one voxel, as many show the class as `centred` and chance say."""
    name = store.classes[0]
    loader = PatchLoader(
        store,
        (1, 1, 1),
        indices=store.volumes[0].samples,
        per_volume=4000,
        batch_size=1000,
        centred=(name, 0.25),
        masks=name,
    )
    shown = sum(int(batch.mask.sum()) for batch in loader) / 4000
    chance = voxels_by_class(store, 0)[0] / store.volumes[0].mask.size
    expected = 0.25 + 0.75 * chance
    assert abs(shown - expected) < 4 * np.sqrt(expected / 4000)


def test_a_centred_patch_shows_its_voxel(store):
    """The voxel is in the middle, or the patch touches the volume's border."""
    patch = (3, 21, 21)
    name = store.classes[-1]
    loader = PatchLoader(
        store, patch, per_volume=50, batch_size=50, centred=(name, 1.0), masks=name
    )
    for batch in loader:
        for _, mask, k, corner in patches_of(batch):
            assert mask.any()
            room = np.array(store.volumes[k].shape) - patch
            inside = (corner > np.zeros(3)) & (corner < room)
            middle = tuple(
                slice(size // 2, size // 2 + 1) if free else slice(None)
                for size, free in zip(patch, inside, strict=True)
            )
            assert mask[middle].any()


@pytest.mark.kernel
def test_pixels_are_found_in_order():
    """`find_pixel` counts row by row, and only in the box."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 8, (9, 12)).astype(np.uint8)
    rows, columns = np.nonzero(mask & 4)
    box = np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1])
    found = [find_pixel(mask, 2, box, n) for n in range(len(rows))]
    assert found == list(zip(rows.tolist(), columns.tolist(), strict=True))
    assert find_pixel(mask, 2, box, len(rows)) == (-1, -1)


@pytest.mark.parametrize(
    "options", [{}, {"world_size": 2, "rank": 1}, {"weights": [1, 2, 3]}]
)
def test_a_loop_resumes_to_the_patch(store, options):
    """A resumed loader yields the batches that would have come."""
    options = {"per_volume": 4, "seed": 2, **options}
    loader = PatchLoader(store, PATCH, **options)
    whole = [batch for _ in range(2) for batch in loader]
    interrupted = PatchLoader(store, PATCH, threads=1, **options)
    batches = iter(interrupted)
    next(batches), next(batches)
    resumed = PatchLoader(store, PATCH, threads=3, prefetch=1, **options)
    resumed.load_state_dict(interrupted.state_dict())
    rest = [batch for _ in range(2) for batch in resumed]
    assert len(rest) == len(whole) - 2
    for one, other in zip(whole[2:], rest, strict=True):
        assert_array_equal(one.image, other.image)
        assert_array_equal(one.mask, other.mask)
        assert_array_equal(one.corner, other.corner)
    with pytest.raises(StateError, match=r"patch is \[3, 20, 31\] in the state"):
        PatchLoader(store, (3, 20, 30), **options).load_state_dict(resumed.state_dict())


@pytest.mark.parametrize("world_size", [1, 3])
def test_weights_are_those_of_volumes(store, world_size):
    """Each volume has as many patches as its weight says, none of them twice."""
    found, patches = Counter(), set()
    for rank in range(world_size):
        loader = PatchLoader(
            store,
            PATCH,
            per_volume=10,
            weights=[2, 0, 1],
            rank=rank,
            world_size=world_size,
            centred=0,
        )
        for _ in range(2):
            entries, _ = loader.schedule.epoch(0)
            assert len(entries) == 30 // world_size
        found.update((entries & 2**32 - 1).tolist())
        patches |= {*entries.tolist()}
    assert found == {0: 20, 2: 10}
    assert patches == {k | n << 32 for k in found for n in range(found[k])}


def test_patches_of_a_volume_come_together(store):
    """With `together`, a volume is followed by another when all its patches came."""
    loader = PatchLoader(store, PATCH, per_volume=7, batch_size=5, together="volume")
    order = [k for batch in loader for k in batch.index.tolist()]
    changes = [a for a, b in zip(order, [*order[1:], None], strict=True) if a != b]
    assert sorted(changes) == [0, 1, 2]
    assert Counter(order) == {0: 7, 1: 7, 2: 7}


def test_ranks_divide_the_patches(store):
    """All ranks together load each patch once."""
    found = Counter()
    for rank in range(3):
        loader = PatchLoader(
            store, PATCH, per_volume=4, rank=rank, world_size=3, seed=1
        )
        found.update(patch[2:] for batch in loader for patch in patches_of(batch))
    loader = PatchLoader(store, PATCH, per_volume=4, seed=1)
    alone = Counter(patch[2:] for batch in loader for patch in patches_of(batch))
    assert found == alone
    assert found.total() == 12


def test_a_loader_of_patches_is_pickled_and_described(store):
    """Its copy yields the same batches; its text says what it loads."""
    loader = PatchLoader(store, PATCH, per_volume=2, batch_size=3, threads=1)
    assert repr(loader) == (
        "<PatchLoader of volumes.h5: 6 patches in 2 batches of 3, image float32 "
        "1x3x20x31, mask uint8 3x20x31 (labels), 1 thread>"
    )
    copied = pickle.loads(pickle.dumps(loader))
    for one, other in zip(loader, copied, strict=True):
        assert_array_equal(one.image, other.image)
        assert_array_equal(one.corner, other.corner)


@pytest.mark.parametrize("masks", ["labels", "onehot", "heart"])
def test_a_notebook_shows_the_middle_slices_of_patches(store, masks):
    """Of each patch it shows what it would of that slice as a sample."""
    batch = next(iter(PatchLoader(store, PATCH, centred=1.0, masks=masks)))
    html = batch._repr_html_()
    image, mask = batch.image[:, :, PATCH[0] // 2], batch.mask[..., PATCH[0] // 2, :, :]
    expected = Batch(image, mask, batch.index)._repr_html_()
    for shown, other in zip(pictures(html), pictures(expected), strict=True):
        assert_array_equal(shown, other)
    for k in batch.index.tolist():
        assert f"<figcaption>patch of volume {k}<" in html
    cut = Batch(batch.image, batch.mask[..., 1:, :, :], batch.index)
    assert "<img" not in cut._repr_html_()


def rebuilt(store, path, is_kept):
    """Build a store of those links of another one's data that are kept."""
    study = store.path.parent / "study"
    table = fastseg.link(study, rois=PROJECT / "data" / "phantom_rt.toml")
    kept = [link for link in table.links if is_kept(link)]
    return fastseg.open(fastseg.build(LinkTable(base=study, links=kept), path).path)


def test_classes_of_some_volumes(store, tmp_path):
    """A class that a volume lacks is warned of, ignored or refused, by volume."""
    name, patient = "heart", store.volumes[1].patient
    store = rebuilt(
        store,
        tmp_path / "some.h5",
        lambda link: (link.patient, link.label) != (patient, name),
    )
    without = [k for k, v in enumerate(store.volumes) if name not in v.classes]
    assert [store.volumes[k].patient for k in without] == [patient]
    text = "1 of 3 volumes lack a contour of a class that `masks` shows (heart on 1)"
    text = re.escape(text)
    with pytest.warns(MissingLabelsWarning, match=text):
        PatchLoader(store, PATCH, masks=name)
    advice = re.escape("choose volumes that have them all (store.volumes[k].classes)")
    with pytest.raises(MissingLabelsError, match=f"{text}: {advice}"):
        PatchLoader(store, PATCH, masks=name, missing="error")
    lacking = np.concatenate([store.volumes[k].samples for k in sorted(without)])
    with pytest.raises(OptionError, match=f"has a voxel of class '{name}': choose"):
        PatchLoader(store, PATCH, indices=lacking, centred=(name, 0.5))
    for batch in PatchLoader(store, PATCH, masks=name, missing="ignore", per_volume=3):
        for k, mask in zip(batch.index.tolist(), batch.mask, strict=True):
            assert (mask == 255).all() if k in without else not (mask == 255).any()


def test_volumes_of_several_dtypes_and_spacings(tmp_path):
    """They are loaded side by side, as long as values are not raw; no slice alone."""
    signed = {"PixelRepresentation": 1, "PixelSpacing": [1, 1], "RescaleIntercept": -9}
    write_stack(tmp_path, [0, 2, 4], series="1.1", shape=(6, 8))
    write_stack(tmp_path, range(4), number=20, series="1.2", shape=(9, 7), **signed)
    write_stack(tmp_path, [0], number=30, series="1.3")
    mixed = fastseg.open(fastseg.build(table_of(tmp_path), tmp_path / "mixed.h5").path)
    assert [volume.image.dtype for volume in mixed.volumes] == [np.uint16, np.int16]
    options = {"indices": mixed.select(in_volume=True), "per_volume": 5, "centred": 0}
    patch = (2, 7, 8)
    for batch in PatchLoader(mixed, patch, batch_size=4, **options):
        for image, _, k, corner in patches_of(batch):
            values = rescaled(mixed, k)
            scaled = (values - values.mean()) / values.std()
            expected = part_of(scaled, corner, patch, scaled.min())
            assert_allclose(image, expected, atol=2e-5)
    with pytest.raises(OptionError, match=r"several dtypes \(int16, uint16\)"):
        PatchLoader(mixed, patch, dtype="raw", **options)
    with pytest.raises(OptionError, match="none of the 2 chosen volumes has a voxel"):
        PatchLoader(mixed, patch, **{**options, "centred": 0.5})
    with pytest.raises(OptionError, match="1 of 8 chosen samples are in no volume"):
        PatchLoader(mixed, patch, centred=0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"patch": (9, 8, 8)}, "has 9 slices, but no chosen volume has more than 8"),
        ({"patch": (2, 8, 500)}, "patch has 500 columns, but no chosen volume"),
        ({"patch": 8}, r"patch is 8, expected \(slices, rows, columns\)"),
        ({"patch": (8, 8)}, r"expected \(slices, rows, columns\)"),
        ({"patch": (0, 8, 8)}, "patch is 0, expected at least 1"),
        ({"patch": "small"}, r"expected \(slices, rows, columns\)"),
        ({"patch": (2**20, 2**20, 8)}, "expected at most 134217728 voxels"),
        ({"per_volume": 0}, "per_volume is 0, expected 1 to 1048576"),
        ({"centred": 1.5}, "centred is 1.5, expected a fraction from 0 to 1"),
        ({"centred": ("a", "b", 1)}, "centred is .*, expected a fraction"),
        ({"centred": {"a", 0.5}}, "centred is .*, expected a fraction"),
        ({"centred": {"a": 0.5}}, "centred is .*, expected a fraction"),
        ({"centred_by": "pixels"}, "centred_by"),
        ({"indices": [0, 1]}, "of volume 0, 2 of 8 slices are chosen, expected all"),
        ({"indices": []}, "no samples are chosen|the store or the selection is empty"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"weights": [1, 2]}, r"weights have shape \(2,\), expected one for each of"),
        ({"weights": "even"}, "a number for each of the store's 3 volumes"),
        ({"weights": [1, -1, 0]}, "the weight of volume 1 is -1.0, expected a finite"),
        ({"weights": [0, 0, 0]}, "the weights of all chosen volumes are 0"),
        ({"weights": [1, 2, 3], "shuffle": False}, "weights needs a random order"),
        ({"weights": [1, 2, 3], "together": "volume"}, "weights and together are"),
        ({"together": "slice"}, "together is 'slice', expected one of"),
    ],
)
def test_invalid_options_are_refused(store, options, text):
    """An error says what is wrong, and what was expected."""
    with pytest.raises(OptionError, match=text):
        PatchLoader(store, **{"patch": PATCH, **options})


def test_unknown_classes_and_arguments_are_refused(store):
    """Names are compared with those that exist."""
    with pytest.raises(UnknownClassError):
        PatchLoader(store, PATCH, centred=("nobody", 0.5))
    with pytest.raises(ArgumentError, match="patch"):
        PatchLoader(store, patch_size=PATCH)
    with pytest.raises(ArgumentError, match=r"no argument 'foreground'.*'centred'"):
        PatchLoader(store, PATCH, foreground=0.5)


def test_samples_in_no_volume_are_refused(store, tmp_path):
    """Single images are no volumes; those beside volumes are left out when asked."""
    patient = store.volumes[1].patient
    (gone,) = (store[k].meta["source"] for k in store.volumes[1].samples[3:4])
    some = rebuilt(store, tmp_path / "some.h5", lambda link: link.dicom_path != gone)
    assert patient not in {volume.patient for volume in some.volumes}
    with pytest.raises(OptionError, match="7 of 23 chosen samples are in no volume"):
        PatchLoader(some, PATCH)
    chosen = some.select(in_volume=True)
    batches = list(PatchLoader(some, PATCH, indices=chosen))
    assert sorted(k for batch in batches for k in batch.index.tolist()) == [0, 1]
    single = rebuilt(store, tmp_path / "one.h5", lambda link: link.dicom_path == gone)
    with pytest.raises(OptionError, match="has no volumes, only single images"):
        PatchLoader(single, PATCH)


def without_masks(store, path):
    """Copy a store to a path, with zeros as masks of its first volume; return it."""
    path.write_bytes(store.path.read_bytes())
    bucket, row = (store.items[name][0] for name in ("bucket", "row"))
    mask = store.volumes[0].mask
    with path.open("r+b") as file:
        file.seek(store._pixels.starts[bucket][1] + row * mask[0].nbytes)
        file.write(bytes(mask.nbytes))
    return path


def test_a_damaged_mask_is_no_endless_search(store, tmp_path):
    """If a mask has fewer pixels than its count, the store is called damaged."""
    damaged = fastseg.open(without_masks(store, tmp_path / "damaged.h5"))
    loader = PatchLoader(
        damaged, PATCH, indices=damaged.volumes[0].samples, centred=1.0
    )
    with pytest.raises(StoreError, match="fewer pixels of class") as caught:
        next(iter(loader))
    assert "a patch of volume 0" in caught.value.__notes__[0]


def test_reading_ahead_looks_at_no_mask(store, tmp_path):
    """What is damaged raises nothing then, so that its patches alone are skipped."""
    damaged = fastseg.open(without_masks(store, tmp_path / "damaged.h5"))
    loader = PatchLoader(damaged, PATCH, centred=1.0, on_error="skip")
    loader.preprocessing.read_ahead(loader.schedule.epoch(0)[0], 0)
    assert sorted(k for batch in loader for k in batch.index.tolist()) == [1, 2]
    assert "fewer pixels of class" in loader.skipped[0]


@pytest.mark.parametrize("kind", ["store", "compressed"])
@pytest.mark.parametrize("patch", [PATCH, (8, 104, 40)])
def test_where_patches_lie_is_nearly_known_without_masks(request, kind, patch):
    """Their slices are, and corners where nothing is centred; others have bounds."""
    loader = PatchLoader(request.getfixturevalue(kind), patch, per_volume=40)
    entries, _ = loader.schedule.epoch(0)
    positions = loader.preprocessing.positions
    corners = positions.corners(entries, 0)
    least, greatest = positions.bounds(entries, 0)
    assert (least <= corners).all()
    assert (corners <= greatest).all()
    assert_array_equal(least[:, 0], greatest[:, 0])
    exact = (least == greatest).all(axis=1)
    assert 0.5 < exact.mean() < 0.9
    # A box is no larger than what is labelled.
    assert (greatest - least).max() < 80


@pytest.mark.parametrize("augment", [None, [Flip()]])
def test_the_rows_of_patches_are_read_ahead(store, monkeypatch, augment):
    """Of each slice, all rows are asked for that a patch shows, turned by any angle."""
    loader = PatchLoader(store, PATCH, per_volume=10, augment=augment)
    entries, _ = loader.schedule.epoch(0)
    corners = loader.preprocessing.positions.corners(entries, 0)
    asked = []
    extents = store._pixels.extents
    monkeypatch.setattr(
        store._pixels, "extents", lambda *given: asked.extend(extents(*given)) or asked
    )
    for entry, corner in zip(entries, corners.tolist(), strict=True):
        asked.clear()
        loader.preprocessing.read_ahead(np.array([entry]), 0)
        volume = store.volumes[entry & 2**32 - 1]
        offsets = store._pixels.starts[store.items["bucket"][volume.samples[0]]]
        needed = []
        for z in range(corner[0], corner[0] + PATCH[0]):
            row = int(store.items["row"][volume.samples[z]])
            for array, offset in zip((volume.image, volume.mask), offsets, strict=True):
                start = offset + row * array[0].nbytes
                first = start + corner[1] * array.strides[1]
                last = first + PATCH[1] * array.strides[1]
                needed.append((start, first, last, start + array[0].nbytes))
        for (at, size), (start, first, last, end) in zip(asked, needed, strict=True):
            assert start <= at <= first < last <= at + size <= end
            if augment is None:
                assert size < end - start


def test_patches_of_a_large_store_take_little_memory(tmp_path):
    """Besides batches, a loader has some numbers for each sample, but no pixels."""
    path = tmp_path / "large.h5"
    make_sparse_store(path, 10_000)
    label_volumes(path, slice(100, 110), slice(50, 150))
    assert path.stat().st_size > 1.5e9
    loader = PatchLoader(path, (8, 64, 64))
    list(islice(loader, 5))  # loads kernels
    tracemalloc.start()
    loader = PatchLoader(path, (8, 64, 64))
    for _ in range(3):
        for batch in islice(loader, 20):
            assert batch.image.nbytes == 2**18
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < loader.stats().buffer_bytes + 2e6


def test_a_box_beyond_its_mask_is_cut(store, tmp_path):
    """Nothing outside of a mask is read, and a voxel of the class is found in it."""
    path = tmp_path / "damaged.h5"
    path.write_bytes(store.path.read_bytes())
    with h5py.File(path, "r+") as file:
        file["items/bbox"][...] = [-(2**40), -5, 2**40, 2**62]
    loaders = [
        PatchLoader(each, PATCH, centred=1.0, per_volume=20, shuffle=False)
        for each in (store, fastseg.open(path))
    ]
    for batch, other in zip(*loaders, strict=True):
        assert_array_equal(batch.corner, other.corner)
