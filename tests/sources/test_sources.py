"""A source is found by its format, and a second one needs nothing but the protocol."""

import csv
import re
from collections import defaultdict

import numpy as np
import pytest

import fastseg
from fastseg import dicom, sources
from fastseg.errors import ContourError, LinkError, OptionError
from fastseg.links import Link, Links, LinkTable
from fastseg.sources.base import Group

FILE = "polygons.csv"
HEADER = "image,class,polygon,x,y\n"


class Polygons:
    """A Source of one CSV file of all polygons, beside the images.

    Its coordinates are fractions of the columns and rows of the image. A link's
    `contour_key` is the name of its image in that file.
    """

    format = "polygons"
    outline = f"{FILE} with the images that it names"
    is_point_list = False
    joins = False
    is_in_pixels = True
    max_bytes = 2**25

    def recognise(self, root):
        return [self.outline] if (root / FILE).exists() else []

    def has_contours(self, root):
        return True

    def find_links(self, root, labels, slices, progress):
        polygons = self.parse((root / FILE).read_bytes(), FILE)
        links = []
        with progress("read headers", len(polygons)) as advance:
            for name, label in polygons:
                if labels is None or label in labels:
                    image = Link(patient="P", dicom_path=name, format=self.format)
                    links.append(
                        image._replace(contour_path=FILE, label=label, contour_key=name)
                    )
                advance()
        bare = {path.name for path in root.glob("*.dcm")} - {
            name for name, _ in polygons
        }
        if slices == "all":
            links += [Link(patient="P", dicom_path=name) for name in bare]
        return LinkTable(
            base=root, links=Links.of(links).sorted(), unlabelled=len(bare)
        )

    def parse(self, data, name):
        polygons = defaultdict(lambda: defaultdict(list))
        for line, row in enumerate(csv.DictReader(data.decode().splitlines()), 2):
            try:
                point = float(row["x"]), float(row["y"])
            except ValueError:
                raise ContourError(f"{name}, line {line}: no point", line) from None
            polygons[row["image"], row["class"]][row["polygon"]].append(point)
        return polygons

    def rings(self, parsed, link, header):
        polygons = parsed.get((link.contour_key, link.label))
        if polygons is None:
            raise ContourError(f"{link.contour_path}: has no {link.contour_key}")
        size = header.columns, header.rows
        return [Group([np.array(ring) * size for ring in polygons.values()])]


@pytest.fixture
def polygons(study, tmp_path, monkeypatch):
    """A folder of three images, two of them with polygons, for a registered source."""
    source = Polygons()
    monkeypatch.setitem(sources.SOURCES, source.format, source)
    monkeypatch.setitem(sources.READERS, source.format, source)
    root = tmp_path / "polygons"
    root.mkdir()
    for k in (1, 2, 3):
        path = study / "dicoms" / "PHANTOM0001" / f"{k}.dcm"
        (root / path.name).write_bytes(path.read_bytes())
    rows = [
        *("1.dcm,a,0,.25,.5", "1.dcm,a,0,.75,.5", "1.dcm,a,0,.75,.75"),
        *("1.dcm,a,1,0,0", "1.dcm,a,1,.5,0", "1.dcm,a,1,.5,.5"),
        *("2.dcm,b,0,0,0", "2.dcm,b,0,1,0", "2.dcm,b,0,1,1"),
    ]
    (root / FILE).write_text(HEADER + "\n".join(rows), encoding="utf-8")
    return root


def test_a_second_source_finds_its_links(polygons):
    """`link` takes the source that recognises the folder, and passes the options on."""
    table = fastseg.link(polygons)
    keys = [(x.dicom_path, x.label, x.contour_path, x.contour_key) for x in table.links]
    assert keys == [("1.dcm", "a", FILE, "1.dcm"), ("2.dcm", "b", FILE, "2.dcm")]
    assert {link.format for link in table.links} == {"polygons"}
    assert table.unlabelled == 1
    assert fastseg.link(polygons, labels="b").links == table.links[1:]
    assert len(fastseg.link(polygons, slices="all")) == 3
    loaded = LinkTable.load(table.save(polygons / "links.csv"))
    assert (loaded.links, loaded.rejects) == (table.links, ())


def test_a_second_source_reads_the_rings_of_each_link(polygons):
    """One parsed file gives the rings of all its links, in pixels of the image."""
    table = fastseg.link(polygons)
    (reader,) = {sources.reader_of(link) for link in table.links}
    parsed = reader.parse((polygons / FILE).read_bytes(), FILE)
    counts = []
    for link in table.links:
        header = dicom.read_header(polygons / link.dicom_path)
        (group,) = reader.rings(parsed, link, header)
        counts.append(len(group.rings))
        assert not group.is_xor
    assert counts == [2, 1]
    np.testing.assert_array_equal(group.rings[0], [[0, 0], [40, 0], [40, 40]])


def test_a_second_source_is_built(polygons, tmp_path):
    """The masks of a store are those of the rings that the source gives."""
    store = fastseg.open(fastseg.build(fastseg.link(polygons), tmp_path / "o.h5").path)
    triangles = [[(10, 20), (30, 20), (30, 30)], [(0, 0), (20, 0), (20, 20)]]
    expected = fastseg.rasterize(triangles, (40, 40))
    np.testing.assert_array_equal(store[0].mask_of("a"), expected)
    expected = fastseg.rasterize([(0, 0), (40, 0), (40, 40)], (40, 40))
    np.testing.assert_array_equal(store[1].mask_of("b"), expected)


def test_a_folder_of_two_sources_is_refused(polygons, study):
    """LinkError says what each source has seen."""
    (study / FILE).write_text(HEADER)
    with pytest.raises(LinkError) as caught:
        fastseg.link(study)
    text = str(caught.value)
    assert text.startswith(f"{study}: holds several layouts at once; separate them: ")
    assert "contourfiles" in text
    assert Polygons.outline in text
    assert "SCD_ManualContours" not in text


def test_a_folder_of_no_source_lists_all_sources(polygons):
    """LinkError names the subfolder that a source knows, and what each expects."""
    with pytest.raises(LinkError) as caught:
        fastseg.link(polygons.parent)
    text = str(caught.value)
    assert re.search(rf"did you mean {re.escape(str(polygons))}\?; it holds ", text)
    for source in sources.SOURCES.values():
        assert source.outline in text


def test_an_unknown_format_is_refused():
    """The error names the format, all known ones and the nearest."""
    link = Link("P", "a.dcm", "c.txt", label="x", format="sunybrook")
    with pytest.raises(LinkError, match=r"format is 'sunybrook'.*mean 'sunnybrook'"):
        sources.reader_of(link)


def test_no_format_means_the_default(study, tmp_path):
    """Links without a format give the same store as those that name the default."""
    table = fastseg.link(study)
    assert {link.format for link in table.links} == {sources.DEFAULT_FORMAT}
    bare = [link._replace(format="") for link in table.links]
    stores = [
        fastseg.build(LinkTable(base=study, links=links), tmp_path / name)
        for name, links in (("named.h5", table.links), ("bare.h5", bare))
    ]
    assert stores[0].path.read_bytes() == stores[1].path.read_bytes()
    fastseg.build(LinkTable(base=study, links=bare), stores[0].path)
    again = fastseg.build(LinkTable(base=study, links=bare), stores[0].path)
    assert again.reused == again.samples


def test_slices_say_which_images_are_linked(study):
    """ "labelled" is the default, "all" is keep_unlabelled, and both are no pair."""
    labelled = fastseg.link(study)
    everything = fastseg.link(study, slices="all")
    assert fastseg.link(study, slices="labelled") == labelled
    assert fastseg.link(study, keep_unlabelled=True) == everything
    assert fastseg.link(study, keep_unlabelled=True, slices="all") == everything
    assert len(everything) == len(labelled) + labelled.unlabelled
    with pytest.raises(OptionError, match="slices is 'labelled', but keep_unlabelled"):
        fastseg.link(study, slices="labelled", keep_unlabelled=True)
    with pytest.raises(OptionError, match="slices is 'some', expected one of 'label"):
        fastseg.link(study, slices="some")
