"""One mapping of all geometric transforms equals applying them one after another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fastseg.augment import Affine, Crop, Elastic, Flip, Resample, Resize, Rot90
from fastseg.augment.mapping import Mappings
from fastseg.errors import OptionError, UnknownClassError


def originals(*shapes, spacing=(1.0, 1.0), boxes=None):
    """Return the mappings of images of these shapes, with no transform yet.

    boxes : (n, 4) of the class "heart", by default none has a pixel of it
    """
    count = len(shapes)

    def boxes_of(name):
        if name != "heart":
            raise UnknownClassError(name)
        return np.zeros((count, 4), np.int64) if boxes is None else boxes

    spacings = np.tile(np.array(spacing, float), (count, 1))
    return Mappings(np.arange(count), np.array(shapes), spacings, boxes_of)


def mapping_of(steps, mapping, size=None, seed=0):
    """Extend mappings by steps with random parameters, and return the parameters."""
    random = np.random.default_rng(seed)
    values = [
        step.draw(random.random((len(mapping.samples), step.draws))) for step in steps
    ]
    for step, value in zip(steps, values, strict=True):
        step.extend(mapping, value)
    if size is not None:
        mapping.crop_or_pad(size)
    return mapping, values


def map_to_image(mapping, k, points):
    """Map points of the batch to points of the image."""
    points = np.column_stack([points, np.ones(len(points))])
    return (mapping.inner[k] @ mapping.outer[k] @ points.T)[:2].T


def pixels(height, width):
    y, x = np.mgrid[:height, :width]
    return np.column_stack([x.ravel(), y.ravel()]).astype(float)


def mapped(image, mapping, k, missing=-1):
    """Return the mapped image; the mapping must map pixel centres to pixel centres."""
    height, width = int(mapping.height[k]), int(mapping.width[k])
    x, y = map_to_image(mapping, k, pixels(height, width)).T
    assert_array_equal(x, np.rint(x))
    inside = (x >= 0) & (y >= 0) & (x < image.shape[1]) & (y < image.shape[0])
    out = np.full(height * width, missing)
    out[inside] = image[y[inside].astype(int), x[inside].astype(int)]
    return out.reshape(height, width)


def centred(image, size, missing=-1):
    """Crop or pad about the centre, by numpy."""
    for axis, length in enumerate(size):
        surplus = image.shape[axis] - length
        if surplus >= 0:
            start = surplus // 2
            image = image.take(range(start, start + length), axis)
        else:
            before = -surplus // 2
            pads = [(0, 0), (0, 0)]
            pads[axis] = before, -surplus - before
            image = np.pad(image, pads, constant_values=missing)
    return image


sides = st.integers(1, 9)


@given(
    st.tuples(sides, sides),
    st.lists(st.sampled_from("hvr"), max_size=5),
    st.tuples(sides, sides),
    st.integers(0, 99),
)
def test_transforms_of_whole_pixels_equal_numpy(shape, kinds, size, seed):
    """Flips, quarter turns and centred crops in any order equal those of numpy."""
    transforms = {
        "h": Flip(p=1),
        "v": Flip(p=1, axis="vertical"),
        "r": Rot90(),
        "c": Crop(size=size, where="center", pad=True),
    }
    kinds = [*kinds, "c"]
    steps = [transforms[kind] for kind in kinds]
    mapping, values = mapping_of(steps, originals(shape), None, seed)
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
    assert_array_equal(mapped(image, mapping, 0), expected)


def test_cropped_pixels_come_back_into_view():
    """A larger size after a Crop shows the image outside the window, not padding."""
    steps = [Crop(size=3, where="center"), Flip(p=1)]
    mapping, _ = mapping_of(steps, originals((5, 5)), (5, 5))
    image = np.arange(25).reshape(5, 5)
    assert_array_equal(mapped(image, mapping, 0), np.fliplr(image))


def test_four_quarter_turns_are_the_identity():
    """Rot90 four times is exactly the identity."""
    mapping = originals((5, 8))
    for step in [Rot90()] * 4:
        step.extend(mapping, {"on": np.array([True]), "quarters": np.array([1])})
    assert_array_equal(mapping.outer @ mapping.inner, np.eye(3)[None])
    assert (mapping.height[0], mapping.width[0]) == (5, 8)


def test_identity_parameters_give_the_identity():
    """Transforms that change nothing give the identity matrix, bit for bit."""
    steps = [Affine(), Flip(p=0), Resize(size=(12, 7)), Resample(spacing_mm=(1, 2))]
    mapping = originals((12, 7), spacing=(1, 2))
    mapping, _ = mapping_of(steps, mapping, (12, 7))
    assert_array_equal(mapping.inner @ mapping.outer, np.eye(3)[None])


@given(
    st.floats(-180, 180),
    st.floats(0.5, 2),
    st.floats(0.5, 2),
    st.floats(-40, 40),
    st.floats(-0.5, 0.5),
)
def test_affine_equals_its_definition(angle, scale, scale_x, shear, shift):
    """It scales, shears and rotates about the centre, in this order, then shifts."""
    step = Affine(
        rotate=(angle, angle),
        scale=scale,
        scale_x=scale_x,
        shear=(shear, shear),
        translate_x=(shift, shift),
    )
    height, width = 40, 61
    mapping, _ = mapping_of([step], originals((height, width)))
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    points = np.array([[0.0, 0], [10, 3], [60, 39]])
    x, y = ((points - centre) * (scale * scale_x, scale)).T
    x = x - np.tan(np.radians(shear)) * y
    turn = np.radians(angle)
    moved = np.column_stack(
        [x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)]
    )
    moved += centre + (shift * width, 0)
    assert_allclose(map_to_image(mapping, 0, moved), points, atol=1e-9)


QUARTER = {"on": np.array([True]), "quarters": np.array([1])}


@pytest.mark.parametrize(
    ("before", "spacing", "expected"),
    [
        ([], (0.5, 1.0), (0.5, 1.0)),
        ([], (1.0, 0.3), (1.0, 0.3)),
        ([Resample(spacing_mm=(0.4, 2.0))], (0.5, 1.0), (0.4, 2.0)),
        ([Resize(size=(20, 15))], (0.5, 1.0), (1.0, 4.0)),
        ([Rot90()], (0.5, 1.0), (1.0, 0.5)),
        ([Resize(size=(20, 15)), Rot90()], (0.5, 1.0), (4.0, 1.0)),
        ([Rot90(), Resize(size=(20, 15))], (0.5, 1.0), (3.0, 4 / 3)),
        ([Flip(p=1), Crop(size=(10, 30))], (0.5, 1.0), (0.5, 1.0)),
        ([], (np.nan, np.nan), (1, 1)),
        ([Resize(size=(20, 15))], (np.nan, np.nan), (2, 4)),
        ([Rot90()], (np.nan, 1.0), (1, 1)),
    ],
)
@pytest.mark.parametrize("in_mm", [True, False])
def test_a_rotation_is_rigid_in_millimetres(before, spacing, expected, in_mm):
    """It turns lengths in mm of the image before it; else, of pixels as squares."""
    degrees = 30
    step = Affine(rotate=(degrees, degrees), in_mm=in_mm)
    mapping = originals((40, 60), spacing=spacing)
    random = np.random.default_rng(1)
    for other in before:
        drawn = other.draw(random.random((1, other.draws)))
        other.extend(mapping, QUARTER if isinstance(other, Rot90) else drawn)
    assert_allclose(mapping.spacing_mm, [expected])
    start = mapping.outer[0]
    step.extend(mapping, step.draw(random.random((1, step.draws))))
    assert_allclose(mapping.spacing_mm, [expected])
    turn = (np.linalg.inv(start) @ mapping.outer[0])[:2]
    height, width = mapping.height[0], mapping.width[0]
    rows, columns = expected if in_mm else (1, 1)
    points = pixels(height, width)
    before_mm, after_mm = (
        (x - (width - 1) / 2) * columns + 1j * (y - (height - 1) / 2) * rows
        for x, y in (turn @ np.column_stack([points, np.ones(len(points))]).T, points.T)
    )
    # y points down, so that a positive angle is clockwise in these numbers.
    assert_allclose(after_mm, before_mm * np.exp(-1j * np.radians(degrees)), atol=1e-9)


@given(
    st.floats(-180, 180),
    st.floats(0.5, 2),
    st.floats(0.5, 2),
    st.floats(-40, 40),
    st.floats(-0.5, 0.5),
    st.floats(-2, 2),
)
def test_an_affine_in_mm_equals_its_definition(angle, scale, scale_x, shear, shift, k):
    """It is that of an image with square pixels of the same size in millimetres."""
    options = {"rotate": (angle, angle), "scale": scale, "scale_x": scale_x}
    step = Affine(**options, shear=(shear, shear), translate_x=(shift, shift))
    spacing = 10.0**k, 1.0
    mapping, _ = mapping_of([step], originals((40, 61), spacing=spacing))
    square, _ = mapping_of([step], originals((61, 61)))
    # Both are 61 pixels wide, the shift is the same fraction of it.
    to_mm = np.diag([1, 10.0**k, 1])
    to_mm[1, 2] = 30 - 19.5 * 10.0**k
    expected = np.linalg.inv(to_mm) @ square.outer[0] @ to_mm
    assert_allclose(mapping.outer[0], expected, atol=1e-9 / 10.0 ** min(k, 0))


@pytest.mark.parametrize("spacing", [(0.7, 0.7), (np.nan, np.nan), (np.nan, 2.0)])
def test_equal_and_unknown_spacings_change_no_bit(spacing):
    """in_mm has no effect, also after transforms that leave pixels square."""
    options = {"rotate": 90, "shear": 20, "scale": (0.7, 1.4), "translate_y": 0.2}
    before = [Rot90(p=0.5), Resize(size=(20, 30))]
    if np.isfinite(spacing[0]):
        before.append(Resample(spacing_mm=0.9))
    both = [
        mapping_of(
            [*before, Affine(**options, in_mm=in_mm)],
            originals(*[(40, 60)] * 5, spacing=spacing),
            seed=3,
        )[0]
        for in_mm in (True, False)
    ]
    # A turned image gets pixels that are no squares from the Resize.
    square = both[0].spacing_mm[:, 0] == both[0].spacing_mm[:, 1]
    assert square.any()
    assert_array_equal(both[0].outer[square], both[1].outer[square])


def test_pixels_of_absurd_shape_are_not_turned_in_mm():
    """The error names the sample; scales need no spacing, and in_mm=False none."""
    turn = Affine(rotate=5)
    for spacing in ((1000.5, 1), (1, 1000.5), (1e20, 1e-300), (1e-300, 1e20)):
        mapping = originals((9, 9), spacing=spacing)
        with pytest.raises(
            OptionError, match=r"Affine: sample 0 .* at most 1000 times"
        ):
            mapping_of([turn], mapping)
        mapping_of([Affine(scale=(0.5, 2)), Affine(shear=5, in_mm=False)], mapping)
    mapping_of([turn], originals((9, 9), spacing=(1000, 1)))


def test_a_rotation_by_90_degrees_equals_rot90():
    """Affine and Rot90 turn in the same direction."""
    turned, _ = mapping_of([Affine(rotate=(90, 90))], originals((9, 9)))
    quarter = originals((9, 9))
    Rot90().extend(quarter, {"on": np.array([True]), "quarters": np.array([1])})
    assert_allclose(
        map_to_image(turned, 0, pixels(9, 9)),
        map_to_image(quarter, 0, pixels(9, 9)),
        atol=1e-12,
    )


def test_resizing_keeps_the_outer_edges():
    """The outer edges of the image stay its outer edges for any sizes."""
    mapping, _ = mapping_of([Resize(size=(20, 5))], originals((10, 10)))
    corners = np.array([[-0.5, -0.5], [4.5, 19.5]])
    assert_allclose(map_to_image(mapping, 0, corners), [[-0.5, -0.5], [9.5, 9.5]])
    assert (mapping.height[0], mapping.width[0]) == (20, 5)


def test_resampling_gives_the_spacing():
    """Images of any size get the spacing, and their sizes follow."""
    mapping = originals((10, 10), (20, 30), spacing=(2, 1))
    mapping, _ = mapping_of([Resample(spacing_mm=0.5)], mapping)
    assert_array_equal(mapping.height, [40, 80])
    assert_array_equal(mapping.width, [20, 60])
    assert_array_equal(mapping.spacing_mm, np.full((2, 2), 0.5))
    corner = map_to_image(mapping, 0, np.array([[19.5, 39.5]]))
    assert_allclose(corner, [[9.5, 9.5]])


def test_resampling_keeps_a_part_of_the_image():
    """Pixels that would show nothing of the image are an error, not padding."""
    for spacing in (20, (20, 0.5), (0.5, 20)):
        step = Resample(spacing_mm=spacing)
        mapping, _ = mapping_of([step], originals((10, 10), spacing=(1, 1)))
        size = mapping.height[0], mapping.width[0]
        corners = np.array([[0, 0], [size[1] - 1, size[0] - 1]])
        assert (np.abs(map_to_image(mapping, 0, corners) - 4.5) <= 5).all()
        step = Resample(spacing_mm=np.array(spacing) * 1.001)
        with pytest.raises(OptionError, match=r"sample 0 has .* at least half a pixel"):
            mapping_of([step], originals((10, 10), spacing=(1, 1)))


def test_resampling_needs_a_spacing():
    """The error names the step, the parameter and the sample."""
    mapping = originals((10, 10), spacing=(np.nan, np.nan))
    with pytest.raises(
        OptionError, match=r"Resample: spacing_mm is .* sample 0 has no"
    ):
        mapping_of([Resample(spacing_mm=1)], mapping)


@given(sides, sides, st.integers(0, 99))
def test_random_crops_lie_inside_the_image(height, width, seed):
    """Every pixel of a random window is a pixel of the image."""
    mapping, _ = mapping_of(
        [Crop(size=(height, width))], originals((9, 9), (10, 12)), seed=seed
    )
    for k, shape in enumerate([(9, 9), (10, 12)]):
        image = np.zeros(shape, int)
        assert (mapped(image, mapping, k) == 0).all()


def test_random_crops_are_uniform():
    """Every position of the window comes about as often as the others."""
    mapping = originals(*[(6, 5)] * 600)
    mapping, _ = mapping_of([Crop(size=(4, 4))], mapping)
    positions, counts = np.unique(mapping.outer[:, :2, 2], axis=0, return_counts=True)
    assert_array_equal(positions, [[x, y] for x in (0, 1) for y in (0, 1, 2)])
    assert counts.min() > 70


def test_a_crop_that_is_too_large_is_refused():
    """The error names sample and sizes; pad=True puts the image into the centre."""
    mapping = originals((9, 9), (5, 9))
    with pytest.raises(
        OptionError, match=r"Crop: size is \(6, 6\), larger .* 1, .*5x9"
    ):
        mapping_of([Crop(size=6)], mapping)
    mapping, _ = mapping_of([Crop(size=6, pad=True)], mapping)
    assert (mapped(np.zeros((5, 9), int), mapping, 1)[5] == -1).all()


@given(
    st.integers(0, 99),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(1, 10),
    st.integers(0, 4),
    st.booleans(),
)
def test_crops_contain_the_class(seed, left, top, length, margin, flip):
    """The window contains the class and its margin as far as window and image allow."""
    size, side = 16, 31
    boxes = np.array([[top, left, top + length, left + length]])
    mapping = originals((side, side), boxes=boxes)
    steps = [Flip(p=float(flip)), Crop(size=size, where="heart", margin=margin)]
    mapping, _ = mapping_of(steps, mapping, seed=seed)
    image = np.zeros((side, side), int)
    outer = slice(max(top - margin, 0), top + length + margin)
    image[outer, max(left - margin, 0) : left + length + margin] = 1
    image[top : top + length, left : left + length] = 2
    window = mapped(image, mapping, 0)
    assert (window == 2).sum() == length * length
    if length + 2 * margin <= size:
        assert (window > 0).sum() == (image > 0).sum()


def test_crops_without_the_class_are_random():
    """A sample without the class gets a random window; an unknown class is refused."""
    mapping = originals(*[(9, 9)] * 50)
    mapping, _ = mapping_of([Crop(size=4, where="heart")], mapping)
    assert len(np.unique(mapping.outer[:, 0, 2])) == 6
    with pytest.raises(UnknownClassError):
        mapping_of([Crop(size=4, where="liver")], mapping)


def test_an_elastic_divides_the_mapping():
    """Transforms before it make up `inner`, those after it `outer`."""
    steps = [Affine(rotate=(30, 30)), Elastic(), Flip(p=1)]
    mapping, _ = mapping_of(steps, originals((12, 20)))
    assert mapping.bent
    first, _ = mapping_of(steps[:1], originals((12, 20)))
    last, _ = mapping_of(steps[2:], originals((12, 20)))
    assert_array_equal(mapping.inner, first.outer)
    assert_array_equal(mapping.outer, last.outer)
    assert_array_equal(mapping.bent_sizes, [[12, 20]])
