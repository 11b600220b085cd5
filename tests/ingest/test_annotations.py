"""Contours of a source whose files hold the contours of many images."""

import csv
import io
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastseg
from fastseg import sources
from fastseg.errors import ContourError, RejectedWarning
from fastseg.sources.base import Group
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
    max_bytes = 2**25

    def __init__(self):
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
