"""Bounds on numbers and text from outside: each is on a page, and each is kept."""

import os
import re
import tracemalloc

import pydicom
import pytest

import fastseg
from fastseg import augment, bounds
from fastseg.errors import ContourError, LinkError, OptionError, RejectedWarning
from fastseg.links import Link, Links, LinkTable
from fastseg.sources.sunnybrook import Sunnybrook
from tests.conftest import PROJECT

PUBLIC = [name for name in vars(bounds) if name.isupper()]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_page_gives_each_bound(name):
    """docs/limits.md has a row for each bound, with its number."""
    page = (PROJECT / "docs/limits.md").read_text(encoding="utf-8")
    section = page.split("## Bounds\n")[1].split("\n## ")[0]
    rows = re.findall(rf"^\|[^|]*\(`{name}`\) \| ([\d .e]+?) \|", section, re.MULTILINE)
    assert [float(row.replace(" ", "")) for row in rows] == [getattr(bounds, name)]


def test_the_page_lists_nothing_else():
    """Every bound that docs/limits.md names exists."""
    page = (PROJECT / "docs/limits.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\(`(M(?:AX|IN)_\w+)`\)", page)) == sorted(PUBLIC)


HEADER = "patient,dicom_path,contour_path,label\n"


def test_a_row_is_bounded_and_not_its_table(tmp_path, monkeypatch):
    """A row has up to 65 536 characters in any number of lines, a table any."""
    path = tmp_path / "t.csv"
    fill = "p,a.dcm,,\n" * 20_000
    for size, is_valid in [(bounds.MAX_ROW_CHARACTERS, True), (10**6, False)]:
        for text in ("x" * 20 + "\n", '"\n",'):
            # One row, whose quoted fields hold line ends or one long text.
            row = (text * (size // len(text) + 1))[: size - 2]
            row = f'"{row[:-1]}"\n' if "," not in text else row[:-6] + '""\n'
            path.write_text(HEADER + fill + row + "p,b.dcm,,\n")
            if is_valid:
                table = LinkTable.load(path)
                assert len(table.rejects) == 1
                assert len(table) == 20_001
            else:
                with pytest.raises(LinkError, match=r"line \d+: a row has more"):
                    LinkTable.load(path)


def test_a_line_of_gigabytes_takes_no_memory(tmp_path):
    """One line of 512 MB ends as a LinkError, with some MB of memory."""
    path = tmp_path / "t.csv"
    path.write_text(HEADER)
    os.truncate(path, 2**29)
    tracemalloc.start()
    try:
        with pytest.raises(LinkError, match=r"t\.csv, line 2: a row has more than"):
            LinkTable.load(path)
        path.write_text(HEADER + "\xff", encoding="latin-1")
        os.truncate(path, 2**29)
        with pytest.raises(LinkError, match=r"t\.csv, line \d: "):
            LinkTable.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "most"),
    [("patient", 1024), ("label", 1024), ("contour_key", 1024), ("series", 1024)]
    + [("root", 4096), ("dicom_path", 4096)],
)
def test_texts_of_a_table_are_bounded(tmp_path, name, most):
    """A longer text of a links table is an error, or rejects its row."""
    folders = "d/" * (most // 2 - 1)
    longest = folders + "a" * (most - len(folders)) if most > 1024 else "a" * most
    link = Link("p", "a.dcm", "a.txt", 0, "c")
    Links.of([link._replace(**{name: longest})])
    with pytest.raises(LinkError, match=f"{name} has {most + 1} bytes"):
        Links.of([link._replace(**{name: longest + "a"})])
    row = {**link._asdict(), name: longest + "a"}
    row = {key: "" if value is None else str(value) for key, value in row.items()}
    path = tmp_path / "t.csv"
    path.write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    table = LinkTable.load(path)
    assert not len(table)
    assert f"{name} has {most + 1} bytes" in table.rejects[0].reason


def test_contour_files_are_bounded():
    """Long lines are refused, and a file at the bound takes some times its size."""
    parse = Sunnybrook().parse
    with pytest.raises(ContourError, match="line 2: has 65537 characters"):
        parse(b"1 1\n" + b"1" * (bounds.MAX_ROW_CHARACTERS + 1), "a.txt")
    with pytest.raises(ContourError, match="line 1: text of 18 characters") as caught:
        parse(b"GEHEIM^NAME 196102\n", "a.txt")
    assert "GEHEIM" not in str(caught.value)
    data = b"1  1\n2  1\n2  2\n" * 70_000  # two spaces: read by Python
    tracemalloc.start()
    try:
        assert len(parse(data, "a.txt")) == 210_000
        assert tracemalloc.get_traced_memory()[1] < 20 * len(data)
    finally:
        tracemalloc.stop()


def test_a_contour_file_over_the_bound_is_rejected(study):
    """A file of more bytes is rejected before it is read, whatever it holds."""
    table = fastseg.link(study)
    link = next(link for link in table.links if link.contour_path)
    os.truncate(study / link.contour_path, bounds.MAX_CONTOUR_BYTES + 1)
    with pytest.warns(RejectedWarning):
        report = fastseg.build(table, study / "s.h5")
    reasons = {reject.file: reject.reason for reject in report.rejects}
    assert (
        reasons[link.contour_path]
        == "is 33554433 bytes long, over the limit of 33554432"
    )


def test_grids_are_bounded(study):
    """A wrong PixelSpacing cannot make Resample fill the memory; nor can a size."""
    for path in study.glob("dicoms/*/*.dcm"):
        image = pydicom.dcmread(path)
        image.PixelSpacing = [3000, 3000]
        image.save_as(path)
    store = fastseg.open(fastseg.build(fastseg.link(study), study / "s.h5").path)
    steps = [augment.Resample(spacing_mm=1)]
    with pytest.raises(OptionError, match=r"has pixels of \[3000.0, 3000.0\] mm"):
        fastseg.Loader(store, batch_size=1, augment=steps, size=8)
    for size in (100_000, (1, bounds.MAX_GRID_CELLS + 1)):
        with pytest.raises(OptionError, match="expected at most 134217728 pixels"):
            fastseg.Loader(store, batch_size=1, size=size)
        with pytest.raises(OptionError, match="expected at most 134217728 pixels"):
            augment.Resize(size=size)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"transforms": ' * 50_000, " " * (2**20 + 1), "{}", "[1"]
)
def test_a_compose_in_json_is_bounded(tmp_path, store, fastseg_command, text):
    """A file that is too large or nested too deeply is an error with its name."""
    (tmp_path / "c.json").write_text(text)
    done = fastseg_command("show", store.path, "-o", "x.png", "--augment", "c.json")
    assert done.returncode in (1, 2)
    assert "c.json" in done.stderr
    assert "Traceback" not in done.stderr
