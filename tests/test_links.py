"""The links table: invalid rows are rejected, and equal data give equal bytes."""

import csv
import itertools
import pickle
import shutil
import tempfile
from dataclasses import replace
from io import FileIO
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastseg
from fastseg.errors import LinkError, PathError
from fastseg.links import COLUMNS, DTYPES, Link, Links, LinkTable
from fastseg.paths import Paths, natural_key
from fastseg.tables import Reject, rejects_path

HEADER = ",".join(COLUMNS)
# Fields of rows; a missing field is empty.
GOOD = {"patient": "P1", "dicom_path": "a/2.dcm"}
ALSO_GOOD = {"patient": "P1", "dicom_path": "a/10.dcm"}


def row(fields):
    return ",".join(fields.get(name, "") for name in COLUMNS)


def write(path, *rows, header=HEADER):
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8", newline="")
    return path


def files(table):
    """Return the real files that the links of a table name."""
    base = table.base
    return [
        ((base / link.dicom_path).resolve(), (base / link.contour_path).resolve())
        for link in table.links
    ]


def test_a_table_beside_its_data_survives_saving_and_loading(study):
    """A loaded table equals the saved one, images without contours included."""
    table = fastseg.link(study, keep_unlabelled=True)
    loaded = LinkTable.load(table.save(study / "links.csv"))
    assert loaded.links == table.links
    assert loaded.base == study
    assert loaded.rejects == ()


def test_every_column_survives_saving_and_loading(tmp_path):
    """A table of links with all fields equals itself after saving and loading."""
    links = [
        Link(
            patient="P1",
            dicom_path="a/2.dcm",
            contour_path="a/c.txt",
            frame=3,
            label="heart, left",
            contour_key="ROI 1",
            format="other",
            root="a",
            series="1.2.3",
            position_mm=-0.1,
            time=1e-30,
            rows=7,
            columns=70_000,
            dtype="int16",
        ),
        Link(patient="P1", dicom_path="a/2.dcm"),
        Link(patient="P10", dicom_path="1.dcm", position_mm=1e300),
    ]
    base = tmp_path / "base"
    table = LinkTable(base=base, links=Links.of(links).sorted())
    loaded = LinkTable.load(table.save(base / "links.csv"))
    assert loaded.rejects == ()
    assert loaded == table


@pytest.mark.parametrize("path", ["links.csv", "far/away/links.csv", "short/l.csv"])
def test_a_table_in_another_folder_names_the_same_files(study, tmp_path, path):
    """A table in another folder, even behind a symbolic link, names the same files."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "short").symlink_to(tmp_path / "deep" / "er")
    table = fastseg.link(study)
    loaded = LinkTable.load(table.save(tmp_path / path))
    assert files(loaded) == files(table)
    assert {(loaded.base / link.root).resolve() for link in loaded.links} == {study}
    away = path != "links.csv"
    assert all(link.dicom_path.startswith("../") == away for link in loaded.links)


def test_a_table_moved_and_moved_back_is_unchanged(study, tmp_path):
    """A table saved elsewhere, loaded and saved beside its data has the same bytes."""
    table = fastseg.link(study)
    away = LinkTable.load(table.save(tmp_path / "far" / "links.csv"))
    home = away.save(study / "links.csv").read_bytes()
    assert home == table.save(study / "direct.csv").read_bytes()


def test_relative_folders_give_the_same_table(study, tmp_path, monkeypatch):
    """A relative or absolute folder gives the same bytes of the table."""
    absolute = fastseg.link(study).save(tmp_path / "out" / "a.csv").read_bytes()
    monkeypatch.chdir(tmp_path)
    assert fastseg.link("study").save("out/b.csv").read_bytes() == absolute
    monkeypatch.chdir(study)
    assert fastseg.link(".").save("../out/c.csv").read_bytes() == absolute


def test_the_same_data_give_the_same_bytes(study, tmp_path):
    """The bytes depend neither on the order of files on disk nor on that of rows."""
    (study / "dicoms" / "PHANTOM0001" / "5.dcm").rename(
        study / "dicoms" / "PHANTOM0001" / "10.dcm"
    )
    other = tmp_path / "other"
    for path in sorted(study.rglob("*.*"), reverse=True):
        (other / path.relative_to(study)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other / path.relative_to(study))
    saved = fastseg.link(study).save(study / "links.csv").read_bytes()
    assert fastseg.link(other).save(other / "links.csv").read_bytes() == saved
    header, *rows = saved.decode().splitlines()
    names = [row.split(",")[1].rsplit("/")[-1] for row in rows if "PHANTOM0001" in row]
    # By time, then by position: the second slice lies below the first one.
    assert list(dict.fromkeys(names)) == ["4.dcm", "1.dcm", "10.dcm", "2.dcm"]
    shuffled = write(study / "shuffled.csv", *rows[::-1], header=header)
    assert LinkTable.load(shuffled).save(study / "s.csv").read_bytes() == saved


def test_counts_follow_from_the_links():
    """Classes, images and counts are those of the links; "" is no class."""
    links = (
        Link(patient="P", dicom_path="a", contour_path="x", label="b"),
        Link(patient="P", dicom_path="a", contour_path="y", label="a"),
        Link(patient="P", dicom_path="a", frame=1, contour_path="x", label="b"),
        Link(patient="P", dicom_path="c"),
    )
    table = LinkTable(base=Path(), links=links)
    assert len(table) == 4
    assert table.images == 3
    assert table.classes == ("a", "b")
    assert dict(table.counts()) == {"a": 1, "b": 2}


def test_saving_a_table_saves_its_rejects(study):
    """Saving a table writes its rejects beside it and leaves no partial file."""
    table = fastseg.link(study)
    before = set(study.iterdir())
    spoiled = replace(table, rejects=(Reject("x", 1, "no"),))
    path = spoiled.save(study / "links.csv")
    assert set(study.iterdir()) - before == {path, rejects_path(path)}
    table.save(path)
    assert set(study.iterdir()) - before == {path}


def test_the_required_columns_are_enough(tmp_path):
    """Without the other columns a link has their defaults."""
    header = "patient,dicom_path,contour_path,label"
    rows = "P1,a/2.dcm,c/2.txt,heart", "P1,a/3.dcm,,"
    loaded = LinkTable.load(write(tmp_path / "t.csv", *rows, header=header))
    assert loaded.rejects == ()
    assert loaded.links == (
        Link(
            patient="P1",
            dicom_path="a/2.dcm",
            contour_path="c/2.txt",
            label="heart",
        ),
        Link(patient="P1", dicom_path="a/3.dcm"),
    )


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\r"),
        lambda text: text.replace(b"\n", b"\n\n"),
        lambda text: text.replace(b",", b" , "),
        lambda text: text.replace(b"patient,dicom", b"Patient,DICOM"),
        lambda text: text.rstrip(b"\n"),
        lambda text: text.replace(b"P1", b'"P1"'),
    ],
    ids=["bom", "crlf", "both", "cr", "blank", "spaces", "case", "end", "quotes"],
)
def test_tables_of_other_tools_are_read(tmp_path, spell):
    """Byte order marks, line ends, blanks, quotes and capitals change nothing."""
    ours = write(tmp_path / "ours.csv", row(GOOD), row(ALSO_GOOD))
    spelled = tmp_path / "spelled.csv"
    spelled.write_bytes(spell(ours.read_bytes()))
    expected = LinkTable.load(ours)
    loaded = LinkTable.load(spelled)
    assert len(expected) == 2
    assert (loaded.links, loaded.rejects) == (expected.links, ())


def test_a_missing_table_is_a_missing_file(tmp_path):
    """A path that does not exist raises FileNotFoundError with its name."""
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        LinkTable.load(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ", line 1: no column patient, dicom_path, contour_path, label;"),
        (b"patient,dicom_path,contour_path\n", ", line 1: no column label;"),
        (
            b"patient;dicom_path,contour_path;label\n",
            ", line 1: the header has commas and semicolons between its names",
        ),
        ((HEADER + "\nJürgen,a.dcm").encode("latin-1"), ", line 2: is not UTF-8 text"),
        (
            HEADER.encode() + b",x",
            ", line 1: an unknown column x; expected a table with",
        ),
        (HEADER.encode() + b",", ", line 1: an unknown column ''; expected a table"),
        (HEADER.encode() + b",Frame", ", line 1: a doubled column frame; expected"),
        (HEADER.encode("utf-16"), ", line 1: is not UTF-8 text"),
        (f'{HEADER}\n\n"P1,a.dcm,,,,,,\n'.encode(), ", line 3: unexpected end"),
        (f'{HEADER}\n"P"1,a.dcm,,,,,,\n'.encode(), ", line 2: "),
        (
            HEADER.encode() + b"\n" + b"x" * 200_000,
            ", line 2: a row has more than 65536 characters",
        ),
    ],
    ids=[
        "empty",
        "column",
        "separators",
        "latin",
        "unknown",
        "unnamed",
        "doubled",
        "utf16",
        "unclosed",
        "quote",
        "huge",
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, content, text):
    """A file that cannot be a links table raises LinkError with file and line."""
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(LinkError) as caught:
        LinkTable.load(path)
    assert str(caught.value).startswith(f"{path}{text}")


CONTOUR = {"contour_path": "c.txt", "label": "heart"}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("P1,a.dcm", "the row has 2 fields, expected 14"),
        (row(GOOD) + ",", "the row has 15 fields, expected 14"),
        ({"patient": ""}, "the field patient is empty"),
        ({"patient": "P\0"}, "patient"),
        ({"dicom_path": " "}, "the field dicom_path is empty"),
        ({"frame": "-1"}, "frame is '-1', expected a whole number"),
        ({"frame": "x"}, "frame is 'x'"),
        ({"frame": "1.5"}, "frame is '1.5'"),
        ({"frame": "٣"}, "frame is '٣'"),
        ({"frame": "²"}, "frame is '²'"),
        ({"frame": "9" * 5000}, "frame"),
        ({"label": "heart"}, "contour_path and label must be given together"),
        ({"contour_path": "c.txt"}, "contour_path and label must be given together"),
        ({"dicom_path": "/a.dcm"}, "expected a path relative to the table"),
        (CONTOUR | {"contour_path": "/c.txt"}, "contour_path is '/c.txt'"),
        ({"root": "/"}, "root is '/'"),
        ({"dicom_path": r"a\2.dcm"}, "expected a path with forward slashes"),
        (CONTOUR | {"contour_path": r"\c.txt"}, "expected a path with forward slashes"),
        ({"dicom_path": "C:/a.dcm"}, "expected a path with forward slashes"),
        ({"dicom_path": "C:a.dcm"}, "expected a path with forward slashes"),
        ({"dicom_path": "a\0.dcm"}, "expected a path with forward slashes"),
        ({"dicom_path": "../a.dcm"}, "leads outside its root"),
        ({"dicom_path": "a/../../a.dcm"}, "leads outside its root"),
        ({"dicom_path": ".."}, "leads outside its root"),
        (CONTOUR | {"contour_path": "../c.txt"}, "leads outside its root"),
        (CONTOUR | {"contour_path": "a/../.."}, "leads outside its root"),
        ({"rows": "0"}, "rows is 0, expected a whole number from 1"),
        ({"rows": "2.0"}, "rows is '2.0', expected a whole number from 1"),
        ({"columns": "-2"}, "columns is '-2', expected a whole number from 1"),
        ({"position_mm": "1_0"}, "position_mm is '1_0', expected a finite number"),
        ({"position_mm": "nan"}, "position_mm is 'nan', expected a finite number"),
        ({"time": "1e999"}, "time is inf, expected a finite number"),
        ({"time": "٣"}, "time is '٣', expected a finite number"),
        ({"dtype": "<i2"}, "dtype is '<i2', expected one of 'uint8'"),
        ({"series": "1\t2"}, "series is '1\\t2', expected text without control"),
        ({"dicom_path": "\x1b]0;OWNED\x07"}, r"'\x1b]0;OWNED\x07', expected"),
        (CONTOUR | {"contour_path": "a\u200b"}, r"'a\u200b', expected text"),
        ({"root": "a\x85b"}, r"root is 'a\x85b', expected text without"),
        ({"position_mm": "'-3.5"}, "position_mm is"),
        ({"dicom_path": "a" * 766}, "a file name of 766 bytes, expected at most 765"),
        ({"root": "b"}, "a/2.dcm leads outside its root 'b'"),
        ({"root": "a", "dicom_path": "a/../b.dcm"}, "leads outside its root 'a'"),
    ],
)
def test_a_bad_row_is_rejected_and_the_others_stay(tmp_path, bad, reason):
    """A row that cannot be used is in `rejects` with file, line and reason."""
    text = bad if isinstance(bad, str) else row(GOOD | bad)
    path = write(tmp_path / "t.csv", row(GOOD), text, row(ALSO_GOOD))
    loaded = LinkTable.load(path)
    assert [link.dicom_path for link in loaded.links] == ["a/2.dcm", "a/10.dcm"]
    (reject,) = loaded.rejects
    assert reject[:2] == (str(path), 3)
    assert reason in reject.reason


@pytest.mark.parametrize(
    "link", ["file.dcm", "folder/x.dcm", "deep/../x.dcm", "chain.dcm"]
)
@pytest.mark.parametrize("column", ["dicom_path", "contour_path"])
def test_symbolic_links_do_not_lead_out_of_the_root(tmp_path, link, column):
    """No path opens a file outside the root by a linked file or a linked folder."""
    (tmp_path / "secret" / "down").mkdir(parents=True)
    (tmp_path / "secret" / "x.dcm").touch()
    base = tmp_path / "base"
    base.mkdir()
    (base / "file.dcm").symlink_to(tmp_path / "secret" / "x.dcm")
    (base / "folder").symlink_to(tmp_path / "secret")
    (base / "deep").symlink_to(tmp_path / "secret" / "down")
    (base / "chain.dcm").symlink_to(base / "file.dcm")
    assert (base / link).exists()
    path = write(base / "t.csv", row(GOOD | CONTOUR | {column: link}), row(ALSO_GOOD))
    loaded = LinkTable.load(path)
    if link in ("file.dcm", "chain.dcm"):  # a table is read without a look at its files
        assert not loaded.rejects
    else:
        assert [x.dicom_path for x in loaded.links] == ["a/10.dcm"]
        (reject,) = loaded.rejects
        assert reject[:2] == (str(path), 2)
        assert f"{link} leads outside its root" in reject.reason
    with pytest.raises(PathError, match="leads outside its root"):
        Paths(base).open(link, ".")


def test_symbolic_links_inside_the_root_are_followed(tmp_path):
    """A linked file, a linked folder and a linked table folder can be used."""
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "real" / "a" / "x.dcm").touch()
    (tmp_path / "real" / "file.dcm").symlink_to("a/x.dcm")
    (tmp_path / "real" / "b").symlink_to("a")
    (tmp_path / "base").symlink_to("real")
    paths = ["b/x.dcm", "file.dcm", "a/../file.dcm"]
    rows = [row(GOOD | {"dicom_path": path}) for path in paths]
    loaded = LinkTable.load(write(tmp_path / "base" / "t.csv", *rows))
    assert loaded.rejects == ()
    assert {link.dicom_path for link in loaded.links} == set(paths)
    (tmp_path / "real" / "a" / "x.dcm").write_bytes(b"content")
    for path in paths:
        with FileIO(Paths(tmp_path / "base").open(path, ".")) as file:
            assert file.read() == b"content"


def reference_order(link):
    """Return the sort key of a link."""

    def last(number):
        return (number is None, number)

    return (
        natural_key(link.patient),
        natural_key(link.series),
        last(link.time),
        last(link.position_mm),
        natural_key(link.dicom_path),
        link.frame,
        link.label,
        natural_key(link.contour_path),
        natural_key(link.contour_key),
    )


paths = st.sampled_from(
    ["2", "10", "ü1", "", "a/2", "a/10", "a/b/1", "a/b1/1", "a/b10/x", "a/b2/ü", "a-/2"]
)
numbers = st.none() | st.sampled_from([-1.0, -0.5, 0.0, 10.0, 9.5])
rows_of_links = st.lists(
    st.builds(
        Link,
        patient=st.sampled_from(["p2", "p10", "Ü"]),
        dicom_path=paths,
        contour_path=paths,
        frame=st.integers(0, 2),
        label=st.sampled_from(["", "l2", "l10"]),
        contour_key=st.sampled_from(["", "2", "10"]),
        format=st.sampled_from(["", "x"]),
        root=st.sampled_from([".", ".."]),
        series=st.sampled_from(["", "1.2", "1.10"]),
        position_mm=numbers,
        time=numbers,
        rows=st.none() | st.integers(1, 9),
        columns=st.none() | st.integers(1, 9),
        dtype=st.sampled_from(["", *DTYPES]),
    ).map(
        lambda link: (
            link
            if link.label and link.contour_path
            else link._replace(label="", contour_path="")
        )
    ),
    max_size=30,
)


@given(rows_of_links, st.integers(1, 9), st.data())
def test_columns_hold_the_links(links, rows_at_once, data):
    """Columns of links are a sequence equal to the list they are made of."""
    with mock.patch.object(fastseg.links, "ROWS_AT_ONCE", rows_at_once):
        columns = Links.of(iter(links))
        assert list(columns) == links
    assert columns == links
    assert tuple(links) == columns
    assert columns == pickle.loads(pickle.dumps(columns)) == Links.of(columns)
    assert len(columns) == len(links)
    assert columns != [*links, Link("p", "x")]
    assert columns != 1
    indices = st.integers(-len(links), len(links) - 1)
    chosen = data.draw(st.lists(indices)) if links else []
    assert columns.take(np.array(chosen, np.int64)) == [links[k] for k in chosen]
    assert columns.pick(np.array(chosen, np.int64)) == [links[k] for k in chosen]
    assert [columns[k] for k in chosen] == [links[k] for k in chosen]
    for name in ("frame", "rows", "columns", "time", "position_mm"):
        values = getattr(columns, name).tolist()
        unknown = [None if x != x or (x, name[-1]) == (-1, "s") else x for x in values]
        assert unknown == [getattr(link, name) for link in links]
    with pytest.raises(IndexError):
        columns[len(links)]
    part = data.draw(st.slices(len(links)))
    assert columns[part] == links[part]


@given(rows_of_links)
def test_links_are_sorted_by_patient_series_and_image(links):
    """The order is that of the sort key of each link, for nested folders as well."""
    assert Links.of(links).sorted() == sorted(links, key=reference_order)
    flat = [x._replace(dicom_path=x.dicom_path.replace("/", "_")) for x in links]
    assert Links.of(flat).sorted() == sorted(flat, key=reference_order)


@given(rows_of_links)
def test_links_are_grouped_by_image(links):
    """Images come in the order of their first links, their links in table order."""
    rows, bounds = Links.of(links).images()
    images = {}
    for k, link in enumerate(links):
        images.setdefault((link.dicom_path, link.frame), []).append(k)
    groups = [rows[a:b].tolist() for a, b in itertools.pairwise(bounds)]
    assert groups == list(images.values())
    assert rows.dtype == bounds.dtype == np.int64


# Texts that may look like a formula; paths have no colon and no backslash.
cells = st.text("'=+-@a1,;\"", min_size=1, max_size=6)


@given(
    st.lists(
        st.fixed_dictionaries(
            dict.fromkeys(
                [
                    "patient",
                    "dicom_path",
                    "contour_path",
                    "label",
                    "contour_key",
                    "format",
                    "series",
                ],
                cells,
            )
            | {"position_mm": st.sampled_from([-3.5, 0.5, None])}
        ).map(lambda fields: Link(**fields)),
        max_size=5,
    )
)
def test_a_saved_table_is_read_as_it_was(links):
    """Texts like formulas are quoted and read again; a negative number is no text."""
    with tempfile.TemporaryDirectory() as folder:
        table = LinkTable(base=folder, links=Links.of(links).sorted())
        path = table.save(Path(folder) / "l.csv")
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        again = LinkTable.load(path)
    assert again.rejects == ()
    assert again.links == table.links
    for row_, link in zip(rows, table.links, strict=True):
        number = row_.pop("position_mm")
        assert number == ("" if link.position_mm is None else str(link.position_mm))
        assert not [x for x in row_.values() if x[:1] in ("=", "+", "-", "@")]


def test_no_table_holds_a_folder_with_control_characters(tmp_path):
    """A data folder whose name a table cannot hold is refused when it is saved."""
    folder = tmp_path / "a\x1bb"
    folder.mkdir()
    table = LinkTable(base=folder, links=[Link("P", "c.dcm")])
    assert table.save(folder / "l.csv").exists()
    with pytest.raises(LinkError, match=r"'a\\x1bb/', expected text without control"):
        table.save(tmp_path / "l.csv")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("patient", 1, "patient is of type int, expected text"),
        ("dicom_path", Path("a"), r"dicom_path is of type \w+Path, expected text"),
        ("dicom_path", "\udcff", r"'\\udcff', expected text without control"),
        ("contour_path", "a\0", "expected text without control or format characters"),
        ("label", "x ", "label is 'x ', expected text without spaces around it"),
        ("patient", " x", "patient is ' x', expected text without spaces around it"),
        ("patient", "a\u202eb", r"patient is 'a\\u202eb', expected text without"),
        ("root", "\x1b[2J", r"root is '\\x1b\[2J', expected text without"),
        (
            "contour_path",
            "a/" + "é" * 383,
            "a file name of 766 bytes, expected at most",
        ),
        ("label", None, "label is of type NoneType, expected text"),
        ("frame", None, "frame is None, expected a whole number from 0"),
        ("frame", 1.5, "frame is 1.5, expected a whole number from 0"),
        ("frame", -1, "frame is -1, expected a whole number from 0"),
        ("frame", 10**9, "frame is 1000000000, expected a whole number from 0"),
        ("rows", 0, "rows is 0, expected a whole number from 1"),
        ("columns", "2", "columns is '2', expected a whole number from 1"),
        ("position_mm", float("nan"), "position_mm is nan, expected a finite number"),
        ("time", float("inf"), "time is inf, expected a finite number"),
        ("time", 10**400, "expected a finite number"),
        ("dtype", "<i2", "dtype is '<i2', expected one of 'uint8', 'int8', 'uint16'"),
    ],
)
def test_a_value_that_no_column_holds_is_refused(field, value, text):
    """LinkError names the column, the value and what was expected."""
    link = Link(patient="P", dicom_path="a")._replace(**{field: value})
    with pytest.raises(LinkError, match=text):
        LinkTable(base=Path(), links=[link])


def test_a_row_that_is_no_link_is_refused():
    """Plain tuples are not taken for links."""
    with pytest.raises(LinkError, match="links holds tuple, expected Link"):
        Links.of([tuple(Link("P", "a"))])
