"""Builds without the images that a table of findings names."""

import csv

import pytest

import fastseg
from fastseg.errors import OptionError
from fastseg.findings_table import TABLE


def write(path, rows):
    """Write a table of (source, severity)."""
    cells = dict.fromkeys(TABLE.columns, "") | {"finding": "0" * 16, "rule": "x"}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, TABLE.columns)
        writer.writeheader()
        for source, severity in rows:
            writer.writerow(cells | {"source": source, "severity": severity})
    return path


def sources(path):
    return [sample.meta["source"] for sample in fastseg.open(path)]


def test_images_with_findings_are_left_out(tmp_path):
    """Those of a severity, or of a worse one."""
    links = tmp_path / "links.csv"
    fastseg.link("data/phantom").save(links)
    every = sources(fastseg.build(links, tmp_path / "all.h5").path)
    rows = [(every[3], "error"), (every[3], "note"), (every[5], "warning")]
    table = write(tmp_path / "f.csv", rows)
    for severity, gone in (("error", [3]), ("warning", [3, 5]), ("note", [3, 5])):
        report = fastseg.build(
            links, tmp_path / "some.h5", without=table, without_severity=severity
        )
        assert report.left_out == len(gone)
        kept = [name for k, name in enumerate(every) if k not in gone]
        assert sources(report.path) == kept
    assert report.reused == report.samples  # nothing was read again


def test_frames_are_named_by_their_number(tmp_path, real_data):
    """A file with several frames loses one of them."""
    table = fastseg.link(real_data / "series" / "enhanced_philips", slices="all")
    store = fastseg.open(fastseg.build(table, tmp_path / "a.h5").path)
    name = store[2].meta["source"]
    assert store[2].meta["frame"] == 2
    findings = write(tmp_path / "f.csv", [(f"{name}#3", "error")])
    report = fastseg.build(table, tmp_path / "b.h5", without=findings)
    assert report.left_out == 1
    frames = [s.meta["frame"] for s in fastseg.open(report.path)]
    assert frames == [s.meta["frame"] for s in store if s.index != 2]


def test_a_table_of_another_data_set_is_refused(tmp_path):
    """So is a file that is none of findings."""
    table = fastseg.link("data/phantom")
    findings = write(tmp_path / "f.csv", [("other/1.dcm", "error")])
    with pytest.raises(OptionError, match="findings of another data set"):
        fastseg.build(table, tmp_path / "a.h5", without=findings)
    with pytest.raises(OptionError, match="no column finding"):
        fastseg.build(table, tmp_path / "a.h5", without="data/phantom/link.csv")
    assert not (tmp_path / "a.h5").exists()
    empty = write(tmp_path / "f.csv", [])
    assert fastseg.build(table, tmp_path / "a.h5", without=empty).left_out == 0
