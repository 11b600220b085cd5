"""Groups of rings in masks of many samples, compared with rational arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from xxhash import xxh3_64_intdigest

from fastseg._kernels.augment import batch
from fastseg._kernels.augment.mapping import Affines
from fastseg._kernels.contours import labels
from fastseg.raster.rings import join_rings
from fastseg.raster.rules import EDGES, Rules
from tests.reference import rasterize_exact
from tests.strategies import examples, rings

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning"),
]

SHAPE = (7, 8)
CLASSES = 3
VALUES = np.array([1, 2, 4], np.uint8)


def draw(images, rules):
    """Call `draw_masks` for images, lists of (bit, group, ring).

    Returns the masks, how many pixels of each class those of all images have, and which
    images are valid.
    """
    flat = [part for image in images for part in image]
    points, ends = join_rings([np.array(ring, float) for _, _, ring in flat])
    bounds = np.cumsum([0, *map(len, images)])
    bits, groups = (np.array([part[k] for part in flat], np.int64) for k in (0, 1))
    masks = np.full((sum(map(bool, images)), *SHAPE), 255, np.uint8)
    hashes = np.zeros(len(images), np.uint64)
    valid = np.ones(len(images), np.bool_)
    some_rings = labels.ImageRings(points, ends, bounds, bits, groups)
    results = labels.MaskResults(hashes, valid)
    rule = rules.kernel_rule(*SHAPE)
    labels.draw_masks(some_rings, rules.shift, rule, 0, len(images), masks, results)
    drawn = iter(masks)
    pixels = np.zeros((len(images), CLASSES), np.int64)
    for k in np.flatnonzero(np.diff(bounds)):
        mask = next(drawn)
        assert hashes[k] == xxh3_64_intdigest(mask.data)
        pixels[k] = [(mask >> bit & 1).sum() for bit in range(CLASSES)]
    return masks, pixels, valid


numbered_rings = st.tuples(
    st.integers(0, CLASSES - 1), st.integers(-2, 2), rings(most=5)
)


some_images = st.lists(
    st.lists(numbered_rings, max_size=6).map(
        lambda image: sorted(image, key=lambda part: part[:2])
    ),
    min_size=1,
    max_size=3,
)
some_rules = st.builds(
    Rules, edges=st.sampled_from(EDGES), fill=st.sampled_from(["even-odd", "nonzero"])
)


def mask_exact(image, rules):
    """Return the bit field of an image in rational arithmetic."""
    mask = np.zeros(SHAPE, np.uint8)
    for bit in range(CLASSES):
        some = [part for part in image if part[0] == bit]
        contours, groups = [part[2] for part in some], [part[1] for part in some]
        fill = rasterize_exact(contours, SHAPE, rules.edges, rules.fill, groups=groups)
        mask |= fill.astype(np.uint8) << bit
    return mask


@examples(150)
@given(some_images, some_rules)
def test_classes_are_the_union_of_their_groups(images, rules):
    """Each class covers what its groups cover; a negative group is filled even-odd."""
    masks, _, valid = draw(images, rules)
    assert valid.all()
    for image, mask in zip(filter(None, images), masks, strict=True):
        assert_array_equal(mask, mask_exact(image, rules))


@given(some_images, some_rules)
def test_moved_contours_keep_their_groups(images, rules):
    """Augmented masks of unmoved contours are the union of their groups."""
    flat = [part for image in images for part in image]
    points, offsets = join_rings([np.array(ring, float) for _, _, ring in flat])
    ends = np.cumsum([0, *map(len, images)])
    bits, groups = (np.array([part[k] for part in flat], np.int64) for k in (0, 1))
    unmoved = np.tile(np.eye(2, 3), (len(images), 1, 1))
    sizes = np.tile(SHAPE, (len(images), 1))
    masks = np.full((len(images), *SHAPE), 255, np.uint8)
    ranges = np.column_stack([ends[:-1], ends[1:]])
    batch.draw_moved_contours(
        batch.StoredContours(points, offsets, bits, groups),
        *(ranges, sizes, Affines(unmoved, unmoved), None),
        *(rules.kernel_rule(*SHAPE), VALUES, masks),
    )
    for image, mask in zip(images, masks, strict=True):
        assert_array_equal(mask, mask_exact(image, rules))


def by_union(image):
    """Return an image with a group for each ring, but for negative groups."""
    return [
        (bit, group if group < 0 else k, ring)
        for k, (bit, group, ring) in enumerate(image)
    ]


@examples(100)
@given(some_images, st.sampled_from(EDGES), st.booleans())
def test_classes_whose_mask_depends_on_the_rule_are_found(images, edges, is_repeated):
    """A class differs if two of even-odd, nonzero and union give it other pixels."""
    classes = [[(0, *rest) for _, *rest in image] for image in images if image]
    classes = [sorted(image, key=lambda part: part[1]) for image in classes]
    if is_repeated:  # the kernel leaves no pixel of one class to the next
        classes = [x for image in classes for x in (image, image[:1])]
    flat = [part for image in classes for part in image]
    points, ends = join_rings([np.array(ring, float) for _, _, ring in flat])
    bounds = np.cumsum([0, *map(len, classes)])
    groups = np.array([part[1] for part in flat], np.int64)
    compared = labels.ImageRings(points, ends, bounds, np.zeros_like(groups), groups)
    rule = Rules(edges=edges, fill="nonzero").kernel_rule(*SHAPE)
    differ = np.empty(len(classes), np.bool_)
    labels.compare_rules(compared, 0.0, rule, *SHAPE, differ)
    for image, found in zip(classes, differ.tolist(), strict=True):
        even_odd, nonzero = (
            mask_exact(image, Rules(edges=edges, fill=fill))
            for fill in ("even-odd", "nonzero")
        )
        union = mask_exact(by_union(image), Rules(edges=edges))
        assert found == ((even_odd != nonzero) | (even_odd != union)).any()


def test_a_negative_group_is_filled_even_odd_under_nonzero():
    """A ring within a ring of its direction is a hole only in a negative group."""
    outer, inner = [(0, 0), (6, 0), (6, 6), (0, 6)], [(2, 2), (4, 2), (4, 4), (2, 4)]
    nonzero = Rules(fill="nonzero")
    for group, count in ((0, 36), (-1, 32)):
        masks, pixels, _ = draw([[(1, group, outer), (1, group, inner)]], nonzero)
        assert pixels.tolist() == [[0, count, 0]]
        assert (masks == 2).sum() == count


@pytest.mark.parametrize(
    "bad", [[(0, 0), (1, 1)], [], [(0, 0), (1, 1), (np.nan, 2)]], ids=str
)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_image_with_a_bad_ring_is_invalid(bad, index):
    """One bad ring of a group makes its image invalid, and no other image."""
    square = [(0, 0), (3, 0), (3, 3), (0, 3)]
    bad = np.reshape(bad, (-1, 2))
    image = [(0, 0, square), (0, 1, square), (1, 0, square)]
    image.insert(index, (*image[index][:2], bad))
    masks, pixels, valid = draw([[(0, 0, square)], image, [(2, 0, square)]], Rules())
    assert valid.tolist() == [True, False, True]
    assert pixels[[0, 2]].tolist() == [[9, 0, 0], [0, 0, 9]]
    assert (masks[0] == 1).sum() == (masks[2] == 4).sum() == 9
