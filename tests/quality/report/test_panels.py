"""Which pictures a finding has, and what is drawn on them."""

import numpy as np
import pytest

from fastseg.quality.report import pictures
from fastseg.quality.report.panels import Box, box_around, choose_panels
from fastseg.quality.report.pictures import draw_finding, paths_of
from tests.quality.report.findings import finding


def test_a_crop_shows_its_points_in_the_middle():
    """With a margin, within the image if they are, and as wide in mm as high."""
    points = [np.array([(40.0, 60.0), (60.0, 80.0)])]
    box = box_around(points, (200, 200), 1.0, margin=2.0)
    assert box == Box(30, 50, 70, 90)
    # Pixels twice as high as wide: half as many rows.
    tall = box_around(points, (200, 200), 2.0, margin=2.0)
    assert tall.width == 2 * tall.height == 80
    at_edge = box_around([np.array([(1.0, 2.0)])], (200, 200), 1.0, least=50)
    assert at_edge == Box(0, 0, 50, 50)
    assert box_around([np.empty((0, 2))], (9, 9), 1.0) is None
    assert box_around(points, (90, 50), 1.0, least=99).width == 63


def test_a_crop_goes_beyond_the_image_to_what_lies_there():
    """But not without end."""
    box = box_around([np.array([(-20.0, 50.0), (30.0, 60.0)])], (100, 100), 1.0)
    assert box.left <= -20
    assert (box.top, box.right, box.bottom) == (0, 100, 100)
    far = box_around([np.array([(-1e30, 50.0), (1e30, 50.0)])], (100, 100), 1.0)
    assert far.width <= 210
    assert far.height <= 210


def test_the_twin_or_the_neighbours_stand_beside(store):
    """The samples that a finding names, else those of its volume."""
    volume = next(v for v in store.volumes if len(v) > 2)
    middle = volume.samples[1]
    alone = choose_panels(store, finding(samples=(middle,)))
    assert [panel.sample for panel in alone] == [middle, middle - 1, middle + 1]
    assert "slice before" in alone[1].caption
    assert "next slice" in alone[2].caption
    other = next(
        k for k in range(len(store)) if store[k].patient != store[middle].patient
    )
    twins = choose_panels(store, finding(samples=(middle, other)))
    assert [panel.sample for panel in twins] == [middle, other]
    assert store[other].patient in twins[1].caption
    assert choose_panels(store, finding(samples=())) == []


def test_twins_come_before_neighbours(store):
    """Of a finding about whole series, the images of each are shown in turn."""
    series = store.items["series"].tolist()
    first, second = list(dict.fromkeys(series))[:2]
    ones, others = (
        [k for k, name in enumerate(series) if name == wanted][:3]
        for wanted in (first, second)
    )
    panels = choose_panels(store, finding(samples=(*ones, *others)))
    shown = [panel.sample for panel in panels]
    assert shown == [ones[0], others[0], ones[1], others[1], ones[2]]


def test_a_fault_that_is_small_beside_its_class_has_a_detail(store):
    """The large picture shows where that is; points are marked in one of them."""
    sample = int(np.flatnonzero(store.items["labelled"])[0])
    (name, rings), *_ = store[sample].contours.items()
    one = tuple(rings[0][0].tolist())
    where = finding(samples=(sample,), classes=(name,), points=(one,))
    main, *others = choose_panels(store, where)
    for x, y in rings[0]:
        assert main.box.left <= x < main.box.right
        assert main.box.top <= y < main.box.bottom
    (detail,) = [panel for panel in others if panel.marks] or [main]
    assert detail.marks == (one,)
    assert detail is main or main.frame == detail.box


def test_outlines_lie_on_the_image(store):
    """A path has the vertices of its ring, on the scale of the picture."""
    sample = int(np.flatnonzero(store.items["labelled"])[0])
    name = next(iter(store[sample].contours))
    about = finding(samples=(sample,), classes=(name,))
    drawn = draw_finding(store, about, 10**6)
    picture = drawn.pictures[0]
    box = choose_panels(store, about)[0].box
    (outline,) = [x for x in picture.outlines if x.is_concerned]
    assert outline.klass == store.class_index(name)
    points = vertices(outline.path) / pictures.UNITS
    scale = picture.width / box.width
    ring = store[sample].contours[name][0]
    expected = (ring - (box.left - 0.5, box.top - 0.5)) * scale
    for point in points:
        assert np.abs(expected - point).max(axis=1).min() <= 0.6


def vertices(path):
    """Return the vertices of a path that begins with M and goes on with l."""
    start, _, steps = path.removeprefix("M").removesuffix("z").partition("l")
    numbers = [int(x) for x in f"{start} {steps}".replace("-", " -").split()]
    return np.cumsum(np.array(numbers).reshape(-1, 2), axis=0)


@pytest.mark.parametrize(
    ("ring", "kept"),
    [
        ([(0, 0), (50, 1), (90, 0), (90, 90), (90, 90), (0, 90)], [0, 2, 3, 5]),
        ([(0, 0), (90, 0), (40, 0), (40, 70)], [0, 1, 2, 3]),  # a spike stays
        ([(3, 4), (3, 4), (3, 4)], [0]),
        ([(-3, 4), (3, -4)], [0, 1]),
    ],
)
def test_a_path_leaves_out_what_changes_nothing(ring, kept):
    """Repeated vertices, and those near a line; a spike is no such thing."""
    points = np.array(ring)
    first, second = paths_of(
        np.concatenate([points, points + 7]), np.array([len(points)] * 2)
    )
    assert vertices(first).tolist() == points[kept].tolist()
    assert vertices(second).tolist() == (points[kept] + 7).tolist()
