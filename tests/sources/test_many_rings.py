"""The rings of many links of a structure set are those of one link after the other."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastseg
from fastseg import dicom
from fastseg.errors import ContourError
from fastseg.sources.rtstruct import RtStruct
from tests.sources.dicom_files import save_slice
from tests.structure_sets import make_contour, make_structure_set, save

SQUARE = ((1, 1), (5, 1), (5, 5), (1, 5))
SMALL = ((2, 2), (4, 2), (4, 4), (2, 4))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """A phantom of oblique CT with structure sets, and its links."""
    root = tmp_path_factory.mktemp("chest") / "study"
    fastseg.make_phantom(root, kind="rtstruct", patients=2, slices=6)
    return root, fastseg.link(root)


def all_rings(reader, root, links):
    """Return what both functions give for links of one file, None for an error."""
    parsed = reader.parse((root / links[0].contour_path).read_bytes(), "file")
    headers = [dicom.read_header(root / link.dicom_path) for link in links]
    one_by_one = []
    for link, header in zip(links, headers, strict=True):
        try:
            one_by_one.append(reader.rings(parsed, link, header))
        except ContourError:
            one_by_one.append(None)
    return one_by_one, reader.many_rings(parsed, links, headers)


def assert_same(expected, groups):
    """Groups must have the same rings, to the last bit."""
    if expected is None or groups is None:
        assert expected is groups
        return
    for one, other in zip(expected, groups, strict=True):
        assert one.is_xor == other.is_xor
        for ring, same in zip(one.rings, other.rings, strict=True):
            assert_array_equal(ring, same, strict=True)


def test_many_rings_equal_those_of_each_link(phantom):
    """On oblique slices, to the last bit."""
    root, table = phantom
    files = {link.contour_path for link in table.links} - {""}
    assert len(files) == 2
    counts = []
    for file in files:
        links = [link for link in table.links if link.contour_path == file]
        one_by_one, many = all_rings(RtStruct(), root, links)
        for expected, groups in zip(one_by_one, many, strict=True):
            assert_same(expected, groups)
            counts.append(len(groups[0].rings))
    assert max(counts) > 1
    assert len(counts) > 10


def test_links_without_rings_do_not_disturb_others(tmp_path):
    """None stands for a link that `rings` refuses, whatever is wrong with it."""
    paths = [save_slice(tmp_path / f"{k}.dcm", k) for k in range(3)]

    def contour(k, pixels=SQUARE, dz=0.0, **options):
        x, y = np.array(pixels, float).T
        z = np.full(len(x), 2.0 * k + dz)
        return make_contour(np.column_stack([x - 8, y - 8, z]), **options)

    xor = {"kind": "CLOSEDPLANAR_XOR"}
    rois = {
        "good": [contour(0), contour(1), contour(1, SMALL)],
        "mixed": [contour(0), contour(0, SMALL, **xor)],
        "xor": [contour(2, **xor), contour(2, SMALL, **xor)],
        "junk": [contour(0, data="1\\2\\three")],
        "far": [contour(0, dz=11.0)],
        "few": [contour(0, SMALL[:2])],
    }
    save(make_structure_set(rois), tmp_path / "rs.dcm")
    keys = [
        *("1#1", "2#1,2", "1#4", "3#1,2", "9#1", "4#1", "1#2,3", "x", "5#1", "6#1"),
        *("2#2", "1#3"),
    ]
    images = [0, 0, 0, 2, 0, 0, 1, 0, 0, 0, 0, 1]
    links = [
        fastseg.links.Link(
            patient="P1",
            dicom_path=paths[k].name,
            contour_path="rs.dcm",
            contour_key=key,
            label="organ",
        )
        for key, k in zip(keys, images, strict=True)
    ]
    one_by_one, many = all_rings(RtStruct(), tmp_path, links)
    for expected, groups in zip(one_by_one, many, strict=True):
        assert_same(expected, groups)
    found = [groups and len(groups[0].rings) for groups in many]
    assert found == [1, None, None, 2, None, None, 2, None, None, None, 1, 1]
    reader = RtStruct()
    parsed = reader.parse((tmp_path / "rs.dcm").read_bytes(), "file")
    without = dicom.read_header(paths[0])._replace(position_mm=None)
    assert reader.many_rings(parsed, links[:1], [without]) == [None]


def test_a_store_does_not_depend_on_how_rings_are_read(phantom, tmp_path, monkeypatch):
    """A build gives the same bytes if each link is read for itself."""
    _, table = phantom
    many = fastseg.build(table, tmp_path / "many.h5")
    monkeypatch.delattr(RtStruct, "many_rings")
    one = fastseg.build(table, tmp_path / "one.h5")
    assert many.path.read_bytes() == one.path.read_bytes()
    assert (many.several_rings, many.rejects) == (one.several_rings, ())
    assert many.several_rings > 0
