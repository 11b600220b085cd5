"""Geometric steps become one mapping, the same as doing them one after another."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fastseg.augment import Affine, Crop, Elastic, Flip, Resample, Resize, Rot90
from fastseg.errors import OptionError, UnknownClassError
from fastseg.loading.mapping import find_mapping
from fastseg.store.layout import Bucket


def store_of(*shapes, spacing=(1.0, 1.0), boxes=None):
    """Return what the mapping asks of a store: an item of each shape."""
    buckets = {f"{k}": Bucket(shape, np.dtype("<u2")) for k, shape in enumerate(shapes)}
    names = ("heart",)

    def class_index(name):
        if name not in names:
            raise UnknownClassError(name)
        return names.index(name)

    items = {
        "bucket": np.arange(len(shapes)),
        "spacing_mm": np.tile(np.array(spacing, float), (len(shapes), 1)),
        "bbox": np.zeros((len(shapes), 1, 4), np.int64) if boxes is None else boxes,
    }
    return SimpleNamespace(buckets=buckets, items=items, class_index=class_index)


def mapping_of(steps, store, size=None, seed=0):
    samples = np.arange(len(store.items["bucket"]))
    random = np.random.default_rng(seed)
    values = [step.draw(random.random((len(samples), step.draws))) for step in steps]
    mapping, frames = find_mapping(steps, values, store, samples, size)
    return mapping, frames, values


def back(mapping, k, points):
    """Return the points of the image that points of the batch come from."""
    points = np.column_stack([points, np.ones(len(points))])
    return (mapping.inner[k] @ mapping.outer[k] @ points.T)[:2].T


def pixels(height, width):
    y, x = np.mgrid[:height, :width]
    return np.column_stack([x.ravel(), y.ravel()]).astype(float)


def shown(image, mapping, frames, k, missing=-1):
    """Return the image through a mapping between pixel centres."""
    height, width = int(frames.height[k]), int(frames.width[k])
    x, y = back(mapping, k, pixels(height, width)).T
    assert_array_equal(x, np.rint(x))
    inside = (x >= 0) & (y >= 0) & (x < image.shape[1]) & (y < image.shape[0])
    out = np.full(height * width, missing)
    out[inside] = image[y[inside].astype(int), x[inside].astype(int)]
    return out.reshape(height, width)


def centred(image, size, missing=-1):
    """Cut or pad about the centre, by numpy."""
    for axis, want in enumerate(size):
        have = image.shape[axis]
        if have >= want:
            image = image.take(
                range((have - want) // 2, (have - want) // 2 + want), axis
            )
        else:
            before = (want - have) // 2
            pads = [(0, 0), (0, 0)]
            pads[axis] = before, want - have - before
            image = np.pad(image, pads, constant_values=missing)
    return image


sides = st.integers(1, 9)


@given(
    st.tuples(sides, sides),
    st.lists(st.sampled_from("hvr"), max_size=5),
    st.tuples(sides, sides),
    st.integers(0, 99),
)
def test_whole_pixel_steps_are_numpy_s(shape, kinds, size, seed):
    """Flips, quarter turns and centred crops in any order do what numpy does."""
    made = {
        "h": Flip(p=1),
        "v": Flip(p=1, axis="vertical"),
        "r": Rot90(),
        "c": Crop(size=size, where="center", pad=True),
    }
    kinds = [*kinds, "c"]
    steps = [made[kind] for kind in kinds]
    mapping, frames, values = mapping_of(steps, store_of(shape), None, seed)
    image = expected = np.arange(shape[0] * shape[1]).reshape(shape)
    for kind, value in zip(kinds, values, strict=True):
        if kind == "r":
            expected = np.rot90(expected, value["quarters"][0])
        else:
            expected = {
                "h": np.fliplr,
                "v": np.flipud,
                "c": lambda image: centred(image, size),
            }[kind](expected)
    assert_array_equal(shown(image, mapping, frames, 0), expected)


def test_what_was_cut_comes_back_into_view():
    """A step after a Crop shows the image beyond the window, not emptiness."""
    steps = [Crop(size=3, where="center"), Flip(p=1)]
    mapping, frames, _ = mapping_of(steps, store_of((5, 5)), (5, 5))
    image = np.arange(25).reshape(5, 5)
    assert_array_equal(shown(image, mapping, frames, 0), np.fliplr(image))


def test_four_quarters_are_nothing():
    """Rot90 four times is the identity, exactly."""
    steps = [Rot90()] * 4
    store = store_of((5, 8))
    values = [{"on": np.array([True]), "quarters": np.array([1])}] * 4
    mapping, frames = find_mapping(steps, values, store, np.array([0]), None)
    assert_array_equal(mapping.outer @ mapping.inner, np.eye(3)[None])
    assert (frames.height[0], frames.width[0]) == (5, 8)


def test_what_does_nothing_is_exactly_nothing():
    """Parameters of the identity give the identity, bit for bit."""
    steps = [Affine(), Flip(p=0), Resize(size=(12, 7)), Resample(spacing_mm=(1, 2))]
    store = store_of((12, 7), spacing=(1, 2))
    mapping, _, _ = mapping_of(steps, store, (12, 7))
    assert_array_equal(mapping.inner @ mapping.outer, np.eye(3)[None])


@given(
    st.floats(-180, 180),
    st.floats(0.5, 2),
    st.floats(0.5, 2),
    st.floats(-40, 40),
    st.floats(-0.5, 0.5),
)
def test_an_affine_step_is_its_definition(angle, scale, stretch, shear, move):
    """Scale, tilt and turn about the centre, then move; turns go up-left."""
    step = Affine(
        rotate=(angle, angle),
        scale=scale,
        scale_x=stretch,
        shear=(shear, shear),
        translate_x=(move, move),
    )
    height, width = 40, 61
    mapping, _, _ = mapping_of([step], store_of((height, width)))
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    points = np.array([[0.0, 0], [10, 3], [60, 39]])
    x, y = ((points - centre) * (scale * stretch, scale)).T
    x, turn = x - np.tan(np.radians(shear)) * y, np.radians(angle)
    moved = np.column_stack(
        [x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)]
    )
    moved += centre + (move * width, 0)
    assert_allclose(back(mapping, 0, moved), points, atol=1e-9)


def test_a_quarter_by_affine_is_rot90():
    """Both turn the same way."""
    store = store_of((9, 9))
    turned, _, _ = mapping_of([Affine(rotate=(90, 90))], store)
    values = [{"on": np.array([True]), "quarters": np.array([1])}]
    quarter, _ = find_mapping([Rot90()], values, store, np.array([0]), None)
    assert_allclose(
        back(turned, 0, pixels(9, 9)), back(quarter, 0, pixels(9, 9)), atol=1e-12
    )


def test_resizing_keeps_the_outer_edges():
    """The image spans the same rectangle before and after, whatever the sizes."""
    mapping, frames, _ = mapping_of([Resize(size=(20, 5))], store_of((10, 10)))
    corners = np.array([[-0.5, -0.5], [4.5, 19.5]])
    assert_allclose(back(mapping, 0, corners), [[-0.5, -0.5], [9.5, 9.5]])
    assert (frames.height[0], frames.width[0]) == (20, 5)


def test_resampling_gives_the_spacing():
    """Images of different spacing come to one, with sizes that follow."""
    store = store_of((10, 10), (20, 30), spacing=(2, 1))
    mapping, frames, _ = mapping_of([Resample(spacing_mm=0.5)], store)
    assert_array_equal(frames.height, [40, 80])
    assert_array_equal(frames.width, [20, 60])
    assert_array_equal(frames.spacing, np.full((2, 2), 0.5))
    corner = back(mapping, 0, np.array([[19.5, 39.5]]))
    assert_allclose(corner, [[9.5, 9.5]])


def test_resampling_needs_a_spacing():
    """The error names the step, the parameter and the sample."""
    store = store_of((10, 10), spacing=(np.nan, np.nan))
    with pytest.raises(
        OptionError, match=r"Resample: spacing_mm is .* sample 0 has no"
    ):
        mapping_of([Resample(spacing_mm=1)], store)


@given(sides, sides, st.integers(0, 99))
def test_random_crops_lie_inside(height, width, seed):
    """Every pixel of a random window is one of the image."""
    mapping, frames, _ = mapping_of(
        [Crop(size=(height, width))], store_of((9, 9), (10, 12)), seed=seed
    )
    for k, shape in enumerate([(9, 9), (10, 12)]):
        image = np.zeros(shape, int)
        assert (shown(image, mapping, frames, k) == 0).all()


def test_random_crops_reach_every_place():
    """All windows come, each about as often as the others."""
    store = store_of(*[(6, 5)] * 600)
    mapping, _, _ = mapping_of([Crop(size=(4, 4))], store)
    places, counts = np.unique(mapping.outer[:, :2, 2], axis=0, return_counts=True)
    assert_array_equal(places, [[x, y] for x in (0, 1) for y in (0, 1, 2)])
    assert counts.min() > 70


def test_a_crop_that_is_too_large_is_refused():
    """The error names sample, sizes and the remedy; pad=True is one."""
    store = store_of((9, 9), (5, 9))
    with pytest.raises(
        OptionError, match=r"Crop: size is \(6, 6\), larger .* 1, .*5x9"
    ):
        mapping_of([Crop(size=6)], store)
    mapping, frames, _ = mapping_of([Crop(size=6, pad=True)], store)
    assert (shown(np.zeros((5, 9), int), mapping, frames, 1)[5] == -1).all()


@given(
    st.integers(0, 99),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(1, 10),
    st.integers(0, 4),
    st.booleans(),
)
def test_crops_hold_the_class(seed, left, top, length, margin, flip):
    """The window holds a class and its margin as far as image and window allow."""
    size, side = 16, 31
    boxes = np.array([[[top, left, top + length, left + length]]])
    store = store_of((side, side), boxes=boxes)
    steps = [Flip(p=float(flip)), Crop(size=size, where="heart", margin=margin)]
    mapping, frames, _ = mapping_of(steps, store, seed=seed)
    image = np.zeros((side, side), int)
    outer = slice(max(top - margin, 0), top + length + margin)
    image[outer, max(left - margin, 0) : left + length + margin] = 1
    image[top : top + length, left : left + length] = 2
    window = shown(image, mapping, frames, 0)
    assert (window == 2).sum() == length * length
    if length + 2 * margin <= size:
        assert (window > 0).sum() == (image > 0).sum()


def test_crops_around_what_is_not_there_are_random_ones():
    """A sample without the class is cut anywhere; an unknown class is refused."""
    store = store_of(*[(9, 9)] * 50)
    mapping, _, _ = mapping_of([Crop(size=4, where="heart")], store)
    assert len(np.unique(mapping.outer[:, 0, 2])) == 6
    with pytest.raises(UnknownClassError):
        mapping_of([Crop(size=4, where="liver")], store)


def test_an_elastic_step_divides_the_mapping():
    """What comes before it is inner, what comes after it outer."""
    steps = [Affine(rotate=(30, 30)), Elastic(), Flip(p=1)]
    mapping, _, _ = mapping_of(steps, store_of((12, 20)))
    assert mapping.bent
    first, _, _ = mapping_of(steps[:1], store_of((12, 20)))
    last, _, _ = mapping_of(steps[2:], store_of((12, 20)))
    assert_array_equal(mapping.inner, first.outer)
    assert_array_equal(mapping.outer, last.outer)
    assert_array_equal(mapping.sizes, [[12, 20]])
