"""Contours of a source whose files hold the contours of many images."""

import csv
import gc
import io
import shutil
import warnings
import weakref
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastseg
from fastseg import dicom, sources
from fastseg.bounds import MAX_PIXEL_BYTES
from fastseg.errors import (
    ContourError,
    NothingBuiltError,
    OptionError,
    RejectedWarning,
)
from fastseg.ingest import annotations, plan
from fastseg.ingest.annotations import Annotations
from fastseg.paths import Paths
from fastseg.progress import silent
from fastseg.sources.base import Group
from tests import steps
from tests.reference import rasterize_exact

SQUARE = [(5, 5), (20, 5), (20, 20), (5, 20)]
SHIFTED = [(12, 12), (30, 12), (30, 30), (12, 30)]
INNER = [(8, 8), (15, 8), (15, 15), (8, 15)]


class PolygonTable:
    """One CSV file: key, group, whether the group is an XOR, ring, x, y."""

    format = "polygon-table"
    outline = "a CSV file of polygons"
    is_point_list = False
    joins = False
    is_in_pixels = True
    max_bytes = 2**25

    def __init__(self, format=format, joins=joins):
        self.format = format
        self.joins = joins
        self.parsed = Counter()
        self.headers = []

    def recognise(self, root):
        """Return nothing: the links are made by hand."""
        return []

    def parse(self, data, name):
        """Return rows by key, and count how often the file is parsed."""
        self.parsed[name] += 1
        if not data.strip():
            raise ContourError(f"{name}: is empty")
        rows = {}
        for key, *row in csv.reader(io.StringIO(data.decode())):
            rows.setdefault(key, []).append([float(value) for value in row])
        return rows

    def rings(self, parsed, link, header):
        """Return the groups of a key."""
        self.headers.append(header)
        rows = np.array(parsed.get(link.contour_key, np.empty((0, 5))))
        return [
            Group(
                [
                    rows[(rows[:, 0] == group) & (rows[:, 2] == ring), 3:]
                    for ring in np.unique(rows[rows[:, 0] == group, 2])
                ],
                is_xor=bool(rows[rows[:, 0] == group, 1][0]),
            )
            for group in np.unique(rows[:, 0])
        ]


def lines(key, group, is_xor, *rings):
    """Return the lines of the rings of a group."""
    return "".join(
        f"{key},{group},{is_xor},{k},{x},{y}\n"
        for k, ring in enumerate(rings)
        for x, y in ring
    )


@pytest.fixture
def source(monkeypatch):
    """The source, registered for the test."""
    new = PolygonTable()
    monkeypatch.setitem(sources.READERS, new.format, new)
    return new


@pytest.fixture
def joining(monkeypatch):
    """A reader of the same files, whose links of one class are joined."""
    reader = PolygonTable("joined-polygons", joins=True)
    monkeypatch.setitem(sources.READERS, reader.format, reader)
    return reader


def link_keys(study, contours, **fields):
    """Return a table with links of images to keys of files of the joining reader.

    contours : for each image, the class, file and key of each link
    """
    images = fastseg.link(study, keep_unlabelled=True)
    firsts = list({link.dicom_path: link for link in images.links}.values())
    names = ("label", "contour_path", "contour_key")
    links = [
        image._replace(
            **dict(zip(names, row, strict=True)), format="joined-polygons", **fields
        )
        for image, rows in zip(firsts, contours, strict=False)
        for row in rows
    ]
    return replace(images, links=links)


def link_table(study, text):
    """Return a table that links all images of a study to keys of one file."""
    (study / "polygons.csv").write_text(text)
    images = fastseg.link(study, keep_unlabelled=True)
    by_path = {link.dicom_path: link for link in images.links}
    links = [
        link._replace(
            contour_path="polygons.csv",
            contour_key=f"{k}",
            label="organ",
            format="polygon-table",
        )
        for k, link in enumerate(by_path.values())
    ]
    return replace(images, links=links)


@pytest.mark.parametrize("fill", ["even-odd", "nonzero", "union"])
@pytest.mark.parametrize("threads", [1, 3])
def test_groups_are_filled_and_joined(study, tmp_path, source, fill, threads):
    """`fill` acts within a group, but for XOR groups; the store holds the groups."""
    text = (
        lines(0, 0, 0, SQUARE, SHIFTED, INNER)
        + lines(1, 0, 0, SQUARE)
        + lines(1, 1, 0, SHIFTED, INNER)
        + lines(2, 0, 0, SQUARE, SHIFTED)
        + lines(2, 1, 1, SHIFTED, INNER, SQUARE)
    )
    table = link_table(study, text)
    chosen = replace(table, links=table.links[:3])
    report = fastseg.build(chosen, tmp_path / "o.h5", fill=fill, threads=threads)
    store = fastseg.open(report.path)
    expected = {
        0: [([SQUARE, SHIFTED, INNER], False)],
        1: [([SQUARE], False), ([SHIFTED, INNER], False)],
        2: [([SQUARE, SHIFTED], False), ([SHIFTED, INNER, SQUARE], True)],
    }
    number = 0
    for k, groups in expected.items():
        mask = np.zeros(store[k].mask.shape, bool)
        for rings, is_xor in groups:
            arrays = [np.array(ring, float) for ring in rings]
            parts = [[ring] for ring in arrays]
            joined = parts if fill == "union" and not is_xor else [arrays]
            rule = "nonzero" if fill == "nonzero" and not is_xor else "even-odd"
            for part in joined:
                mask |= rasterize_exact(part, mask.shape, fill=rule)
        assert_array_equal(store[k].mask_of("organ"), mask)
        count = sum(len(rings) for rings, _ in groups)
        stored = store.contours["group"][number : number + count]
        is_negative = [is_xor for rings, is_xor in groups for _ in rings]
        assert_array_equal(stored < 0, is_negative)
        number += count
    options = {"size": 40, "masks": "organ", "missing": "background"}
    augment = [fastseg.augment.Affine()]
    loader = fastseg.Loader(
        store, batch_size=3, shuffle=False, augment=augment, **options
    )
    batch = next(iter(loader))
    for k in range(3):
        plain = fastseg.Loader(store, indices=[k], batch_size=1, **options)
        assert_array_equal(batch.mask[k], next(iter(plain)).mask[0])


def test_a_file_is_parsed_once_and_its_contours_get_the_header(study, tmp_path, source):
    """However many links name a file, it is parsed once in a build."""
    table = link_table(study, "".join(lines(k, 0, 0, SQUARE) for k in range(12)))
    report = fastseg.build(table, tmp_path / "o.h5")
    assert report.samples == report.links == 12
    assert source.parsed == {"polygons.csv": 1}
    assert len(source.headers) == 12
    shapes = {(header.rows, header.columns) for header in source.headers}
    assert shapes == {(40, 40), (48, 36)}
    again = fastseg.build(table, tmp_path / "o.h5")
    assert again.reused == 12


def test_bad_contours_of_a_shared_file_are_rejected(study, tmp_path, source):
    """An image without a usable contour is left out, with the reason of its contour."""
    text = lines(0, 0, 0, SQUARE) + lines(1, 0, 0, [(1, 1), (2, 2)])
    table = link_table(study, text)
    with pytest.warns(RejectedWarning):
        report = fastseg.build(replace(table, links=table.links[:3]), tmp_path / "o.h5")
    assert report.samples == 1
    reasons = [x.reason for x in report.rejects if x.file == "polygons.csv"]
    assert "has 2 distinct vertices" in reasons[0]
    assert "holds no contour of this image" in reasons[1]
    (study / "polygons.csv").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RejectedWarning)
        with pytest.raises(fastseg.errors.NothingBuiltError, match="nothing to build"):
            fastseg.build(table, tmp_path / "n.h5")


@pytest.mark.parametrize("fill", ["even-odd", "nonzero", "union"])
def test_links_of_a_class_are_joined(study, tmp_path, joining, fill):
    """A class covers what a group of any of its links covers; groups are not mixed."""
    a = (
        lines("x", 0, 0, SQUARE, INNER)
        + lines("x", 1, 1, SHIFTED, SQUARE)
        + lines("y", 0, 0, INNER)
    )
    (study / "a.csv").write_text(a)
    (study / "b.csv").write_text(lines("z", 0, 0, SHIFTED))
    rows = [
        [
            ("heart", "a.csv", "x"),
            ("lung", "a.csv", "y"),
            ("heart", "b.csv", "z"),
            ("heart", "a.csv", "y"),
        ],
        [("heart", "b.csv", "z")],
    ]
    table = link_keys(study, rows)
    report = fastseg.build(table, tmp_path / "o.h5", fill=fill)
    assert (report.samples, report.links, report.rejects) == (2, 5, ())
    assert joining.parsed == {"a.csv": 1, "b.csv": 1}
    store = fastseg.open(report.path)
    rings = [len(some) for sample in store for some in sample.contours.values()]
    assert report.contours == sum(rings) == 8
    groups = {
        "heart": [([SQUARE, INNER], 0), ([SHIFTED, SQUARE], 1), ([SHIFTED], 0)],
        "lung": [],
    }
    for parts in groups.values():
        parts.append(([INNER], 0))
    for name, parts in groups.items():
        expected = np.zeros(store[0].mask.shape, bool)
        for rings, is_xor in parts:
            rule = "even-odd" if is_xor else fill
            expected |= fastseg.rasterize(rings, expected.shape, fill=rule)
        assert_array_equal(store[0].mask_of(name), expected)
    assert store[0].meta["labelled"] == 0b11
    # Each ring of XOR has the group of the other; two rings of a file share one unless
    # each is a group of its own.
    is_first = (store.contours["item"] == 0) & (store.contours["class"] == 0)
    numbers = store.contours["group"][is_first].tolist()
    assert len(set(numbers)) == (5 if fill == "union" else 4)
    assert sum(number < 0 for number in numbers) == 2
    paths = store.sources["path"][store.contours["source"][is_first]].tolist()
    assert paths == [b"a.csv"] * 4 + [b"b.csv", b"a.csv"]
    assert len(store.sources["path"]) == 4
    assert fastseg.verify(report.path, sources=study).is_valid


def test_a_build_with_joined_links_is_continued_and_repeated(study, tmp_path, joining):
    """Resumed, reused and new items give the same bytes and the same report."""
    (study / "a.csv").write_text(
        lines("x", 0, 0, SQUARE, INNER)
        + lines("y", 0, 0, SHIFTED)
        + lines("off", 0, 0, [(900, 5), (905, 5), (900, 9)])
    )
    rows = [
        [("heart", "a.csv", "x"), ("heart", "a.csv", "y"), ("lung", "a.csv", "off")]
    ]
    table = link_keys(study, rows * 6)
    whole = fastseg.build(table, tmp_path / "whole.h5")

    def stop(label, done, total):
        if label == "build" and 0 < done <= total:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "BLOCK_SIZE", 4)
        with pytest.raises(KeyboardInterrupt):
            fastseg.build(table, tmp_path / "o.h5", progress=steps.at(stop))
        resumed = fastseg.build(table, tmp_path / "o.h5")
    again = fastseg.build(table, tmp_path / "o.h5")
    assert [resumed.reused, again.reused] == [4, 6]
    facts = {
        (x.links, x.off_image, x.several_rings, x.rule_dependent, x.fingerprint)
        for x in (whole, resumed, again)
    }
    assert len(facts) == 1
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    first = table.links[0].dicom_path
    assert whole.links == 18
    assert whole.off_image[0] == f"a.csv, lung on {first}"
    assert len(whole.off_image) == whole.several_rings == 6
    assert whole.rule_dependent[0] == (first, "heart")
    assert len(whole.rule_dependent) == 6
    (study / "a.csv").write_text(
        lines("x", 0, 0, SQUARE) + lines("y", 0, 0, SHIFTED) + lines("off", 0, 0, INNER)
    )
    changed = fastseg.build(table, tmp_path / "o.h5")
    assert (changed.reused, changed.off_image, changed.rule_dependent) == (0, (), ())
    assert changed.several_rings == 6


def test_a_class_with_a_rejected_contour_is_rejected(study, tmp_path, joining):
    """A mask of some of the contours of a class would be wrong; others are kept."""
    (study / "a.csv").write_text(
        lines("x", 0, 0, SQUARE) + lines("bad", 0, 0, [(1, 1), (2, 2)])
    )
    rows = [
        [("heart", "a.csv", "x"), ("heart", "a.csv", "bad"), ("lung", "a.csv", "x")],
        [("lung", "a.csv", "bad")],
    ]
    table = link_keys(study, rows)
    with pytest.warns(RejectedWarning):
        report = fastseg.build(table, tmp_path / "o.h5")
    assert (report.samples, report.links, report.failed) == (1, 1, 1)
    store = fastseg.open(report.path)
    assert store[0].meta["labelled"] == 1 << store.class_index("lung")
    first, second = (link.dicom_path for link in table.links[2:])
    reasons = [(reject.file, reject.reason) for reject in report.rejects]
    assert reasons[0][0] == "a.csv"
    assert "has 2 distinct vertices" in reasons[0][1]
    assert reasons[1][1].startswith(f"heart on {first}, frame 0: left out")
    assert (second, "left out: none of its contours can be used") in reasons
    assert len(reasons) == 3


def test_an_image_that_fails_rejects_the_rest_of_a_file(study, tmp_path, joining):
    """Each file that loses a contour with its image is listed, once."""
    (study / "a.csv").write_text(
        lines("x", 0, 0, SQUARE) + lines("bad", 0, 0, [(1, 1), (2, 2)])
    )
    rows = [("heart", "a.csv", "x"), ("lung", "a.csv", "bad"), ("skin", "a.csv", "x")]
    table = link_keys(study, [rows, rows[:1]])
    paths = Paths(study)
    built, _ = plan.plan_build(table, paths, MAX_PIXEL_BYTES, False, 1, silent)
    block = next(built.blocks(1))
    files = Annotations(paths).read(block)
    header = dicom.read_header(study / table.links[0].dicom_path)
    contours = Annotations(paths).contours(block, 0, files, lambda: header)
    assert [x.link.label for x in contours] == ["heart", "skin"]
    block.reject(0, "is damaged")
    listed = [(x.file, x.reason.split(" rejected")[0]) for x in block.rejects[0]]
    path = table.links[0].dicom_path
    assert listed[1:] == [(path, "is damaged"), ("a.csv", f"its image {path} is")]


def test_links_of_a_class_are_joined_only_if_all_readers_do(
    study, tmp_path, source, joining
):
    """A list of points beside other contours of its class is refused, as they are."""
    (study / "a.csv").write_text(lines("x", 0, 0, SQUARE))
    table = link_keys(study, [[("heart", "a.csv", "x"), ("heart", "a.csv", "x")]])
    mixed = [table.links[0], table.links[1]._replace(format=source.format)]
    with pytest.raises(NothingBuiltError) as caught:
        fastseg.build(replace(table, links=mixed), tmp_path / "o.h5")
    reasons = [x.reason for x in caught.value.rejects]
    assert reasons[0].startswith("is one of 2 links of class heart to ")
    assert not source.parsed
    assert not joining.parsed


def test_a_contour_that_a_table_names_twice_is_rejected(study, tmp_path, joining):
    """Other contours of that file and class are joined all the same."""
    (study / "a.csv").write_text(lines("x", 0, 0, SQUARE) + lines("y", 0, 0, SHIFTED))
    twice = [("heart", "a.csv", "x"), ("heart", "a.csv", "y"), ("heart", "a.csv", "x")]
    table = link_keys(study, [twice, twice[:2]])
    with pytest.warns(RejectedWarning):
        report = fastseg.build(table, tmp_path / "o.h5")
    assert report.samples == 1
    path = table.links[0].dicom_path
    assert report.rejects[0].reason == (
        f"heart on {path}, frame 0: the table has this contour twice; keep one"
    )


def test_a_structure_set_without_a_format_is_named(study, studies, tmp_path):
    """The reason says what to write, not what a text file would have."""
    shutil.copy(next(studies["rtstruct"].glob("*/RS.dcm")), study / "set.dcm")
    link = fastseg.link(study).links[0]
    link = link._replace(contour_path="set.dcm", contour_key="1#1", format="")
    table = replace(fastseg.link(study), links=[link])
    with pytest.raises(NothingBuiltError) as caught:
        fastseg.build(table, tmp_path / "o.h5")
    assert caught.value.rejects[0].reason == (
        "is an RT structure set, but `format` is empty, which means sunnybrook; write "
        "rtstruct"
    )


def test_contours_in_millimetres_have_no_other_origin(studies, tmp_path):
    """`origin` would shift them by half a pixel, away from where they lie."""
    table = fastseg.link(studies["rtstruct"])
    with pytest.raises(OptionError, match=r"origin is 'corner', but .* 'rtstruct'"):
        fastseg.build(table, tmp_path / "o.h5", origin="corner")
    assert not list(tmp_path.iterdir())


class Wide:
    """What a reader has made of a file; a test counts how many there are."""


class Sized(Wide):
    """A `Wide` that says how much memory it takes."""

    nbytes = 10_000


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize(("kind", "file_bytes"), [(Wide, Sized.nbytes), (Sized, 1)])
def test_parsed_files_take_bounded_memory(
    study, tmp_path, joining, monkeypatch, threads, block_size, kind, file_bytes
):
    """Few files are kept besides those in use, and a file in use is parsed once.

    A file counts what its reader says that it holds, otherwise its own bytes.
    """
    monkeypatch.setattr(plan, "BLOCK_SIZE", block_size)
    text = lines("x", 0, 0, SQUARE).ljust(file_bytes)
    monkeypatch.setattr(annotations, "KEPT_BYTES", 3 * Sized.nbytes)  # of two files
    alive = weakref.WeakSet()
    most = []

    def parse(data, name):
        joining.parsed[name] += 1
        wide = kind()
        alive.add(wide)
        gc.collect()
        most.append(len(alive))
        return wide

    ring = [Group([np.array(SQUARE, float)])]
    monkeypatch.setattr(joining, "parse", parse)
    monkeypatch.setattr(joining, "rings", lambda *_: ring)
    for k in range(13):
        (study / f"{k}.csv").write_text(text)
    # Two images that follow each other share a file.
    rows = [[("a", f"{k}.csv", "x"), ("b", f"{k + 1}.csv", "x")] for k in range(12)]
    report = fastseg.build(link_keys(study, rows), tmp_path / "o.h5", threads=threads)
    assert report.links == 24
    assert len(joining.parsed) == 13
    assert max(most) <= 2 + 2 * threads
    if threads == 1:
        assert set(joining.parsed.values()) == {1}
    gc.collect()
    assert not alive


def test_a_file_over_the_limit_of_its_format_is_rejected(
    study, tmp_path, joining, monkeypatch
):
    """Each format has a limit of its own on the bytes of a file."""
    text = lines("x", 0, 0, SQUARE)
    (study / "a.csv").write_text(text)
    (study / "b.csv").write_text(text + "\n")
    monkeypatch.setattr(joining, "max_bytes", len(text))
    rows = [[("heart", "a.csv", "x")], [("heart", "b.csv", "x")]]
    with pytest.warns(RejectedWarning):
        report = fastseg.build(link_keys(study, rows), tmp_path / "o.h5")
    assert report.samples == 1
    size = len(text) + 1
    assert report.rejects[0].reason == (
        f"is {size} bytes long, over the limit of {size - 1}"
    )


def test_a_reader_gets_the_whole_header_of_each_image(study, tmp_path, joining):
    """Also what differs from file to file, such as the position, is in it."""
    (study / "a.csv").write_text(lines("x", 0, 0, SQUARE))
    rows = [[("heart", "a.csv", "x"), ("lung", "a.csv", "x")]] * 5
    table = link_keys(study, rows)
    fastseg.build(table, tmp_path / "o.h5")
    expected = [dicom.read_header(study / link.dicom_path) for link in table.links]
    assert joining.headers == expected
    assert len({header.sop_instance for header in expected}) == 5


@pytest.mark.parametrize("edges", ["half-open", "closed", "open"])
@pytest.mark.parametrize("fill", ["even-odd", "nonzero", "union"])
@pytest.mark.parametrize("origin", ["center", "corner"])
def test_classes_whose_mask_depends_on_the_rule_are_counted(
    study, tmp_path, joining, edges, fill, origin
):
    """The column has a bit for each class that another `fill` gives another mask."""
    turned = INNER[::-1]
    apart = [(31, 31), (35, 31), (35, 35), (31, 35)]
    on_edge = [(20, 5), (25, 5), (25, 20), (20, 20)]
    crossed = [(5, 25), (20, 35), (20, 25), (5, 35), (9, 22)]
    cases = {
        "hole": [([SQUARE, INNER], 0)],
        "turned": [([SQUARE, turned], 0)],
        "apart": [([SQUARE, apart], 0)],
        "overlap": [([SQUARE, SHIFTED], 0)],
        "neighbours": [([SQUARE, on_edge], 0)],
        "xor": [([SQUARE, SHIFTED, INNER], 1)],
        "groups": [([SQUARE], 0), ([SHIFTED], 0)],
        "hidden": [([SQUARE, INNER], 0), ([SQUARE], 0)],
        "crossed": [([crossed], 0)],
        "off": [([[(x + 900, y) for x, y in ring] for ring in (SQUARE, INNER)], 0)],
        "mixed": [([SQUARE, INNER], 0), ([SHIFTED, apart], 1)],
    }
    text = "".join(
        lines(name, number, is_xor, *rings)
        for name, groups in cases.items()
        for number, (rings, is_xor) in enumerate(groups)
    )
    (study / "a.csv").write_text(text)
    rows = [[(name, "a.csv", name)] for name in cases]
    rows.append([(name, "a.csv", name) for name in reversed(cases)])
    rules = {"edges": edges, "origin": origin}
    report = fastseg.build(
        link_keys(study, rows), tmp_path / "o.h5", fill=fill, **rules
    )
    store = fastseg.open(report.path)
    expected = {}
    for name, groups in cases.items():
        masks = []
        for rule in ("even-odd", "nonzero", "union"):
            mask = np.zeros(store[0].mask.shape, bool)
            for rings, is_xor in groups:
                own = "even-odd" if is_xor else rule
                mask |= fastseg.rasterize(rings, mask.shape, fill=own, **rules)
            masks.append(mask)
        several = sum(len(rings) for rings, _ in groups) > 1
        differ = any((mask != masks[0]).any() for mask in masks)
        expected[name] = several and differ
    assert {name for name, differs in expected.items() if differs} >= {"hole", "mixed"}
    assert not expected["xor"]
    assert not expected["crossed"]
    bits = {name: store.class_index(name) for name in cases}
    dependent = store.items["rule_dependent"]
    assert dependent.dtype == store.items["labelled"].dtype
    for k, name in enumerate(cases):
        assert dependent[k] == expected[name] << bits[name]
    assert dependent[-1] == sum(expected[name] << bits[name] for name in cases)
    names = [name for name in sorted(cases) if expected[name]]
    listed = [name for _, name in report.rule_dependent]
    assert listed == [name for name in cases if expected[name]] + names
    assert report.several_rings == 2 * (len(cases) - 1)
    summary = store.summary()["classes"]
    assert {c["name"]: c["rule_dependent"] for c in summary} == {
        name: 2 * differs for name, differs in expected.items()
    }
    assert {c["several_rings"] for c in summary if c["name"] != "crossed"} == {2}
