"""Nothing but listed metadata leaves an image file, and no text of another kind."""

import io
import logging
import random
import subprocess
import sys
import warnings
from contextlib import redirect_stderr

import numpy as np
import pydicom
import pytest

import fastseg
from fastseg.dicom.header import HEADER_ELEMENTS
from fastseg.errors import FastsegError
from fastseg.store.split_table import write_split
from tests import dicom_damage as damage

SECRET = "GEHEIM^NAME 19610203"
# Names, dates, comments and IDs, which fastseg does not read.
OTHERS = {
    0x00080020: b"DA",
    0x00080050: b"SH",
    0x00080080: b"LO",
    0x00080090: b"PN",
    0x0008103E: b"LO",
    0x00100010: b"PN",
    0x00100020: b"LO",
    0x00100030: b"DA",
    0x00104000: b"LT",
    0x00080018: b"UI",
    0x00080060: b"CS",
    0x00091010: b"LO",
}


def write_image(path, number, secrets=()):
    """Write an image; some elements, given by tag and VR, hold the secret."""
    parts = damage.make_elements(random.Random(0), True, 0)
    changed = {e.tag: e for e in parts}
    pixels = parts[-1]
    other = random.Random(str(path)).randbytes(len(pixels.value))
    changed[pixels.tag] = pixels._replace(value=other)
    changed[0x00200013] = damage.Element(0x00200013, b"IS", damage.even(b"%d" % number))
    for tag, vr in secrets:
        changed[tag] = damage.Element(tag, vr, damage.even(SECRET.encode()))
    path.write_bytes(damage.write_file(sorted(changed.values()), True))


@pytest.fixture
def folder(tmp_path):
    """A data folder in the challenge layout, with two patients."""
    (tmp_path / "link.csv").write_text("patient_id,original_id\nP1,C1\nP2,C2\n")
    for patient in "12":
        images = tmp_path / "dicoms" / f"P{patient}"
        contours = tmp_path / "contourfiles" / f"C{patient}" / "i-contours"
        images.mkdir(parents=True)
        contours.mkdir(parents=True)
        for number in (1, 2):
            write_image(images / f"{number}.dcm", number)
            name = f"IM-0001-{number:04}-icontour-manual.txt"
            (contours / name).write_text("0 0\n2 0\n2 2\n")
    return tmp_path


def outputs_of(folder):
    """Link, build, split and print all; return every text and byte that came out."""
    texts = []
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught, redirect_stderr(log):
            warnings.simplefilter("always")
            try:
                table = fastseg.link(folder, slices="all")
                table.save(folder / "out.csv")
                texts += [str(table.links), str(table.rejects), *map(str, table.links)]
                report = fastseg.build(folder / "out.csv", folder / "out.h5")
                texts.append(str(report))
                store = fastseg.open(folder / "out.h5")
                parts = {"a": np.arange(len(store))}
                write_split(folder / "out.split.csv", store, parts)
            except FastsegError as exc:
                texts += [str(exc), repr(exc)]
    finally:
        logging.getLogger().removeHandler(handler)
    texts += [log.getvalue(), *(str(w.message) for w in caught)]
    written = [path.read_bytes() for path in folder.glob("out*")]
    return "".join(texts).encode() + b"".join(written)


PLANTED = [
    *((tag, vr.encode()) for tag, vr in HEADER_ELEMENTS.values()),
    *((tag, vr) for tag, _ in HEADER_ELEMENTS.values() for vr in (b"PN", b"UN")),
    *OTHERS.items(),
]


@pytest.mark.parametrize(("tag", "vr"), PLANTED, ids=str)
def test_no_text_of_an_image_comes_out(folder, tag, vr):
    """A name in any element is in no store, table, reject, warning, error or log."""
    write_image(folder / "dicoms/P1/1.dcm", 1, [(tag, vr)])
    output = outputs_of(folder)
    assert b"2.dcm" in output
    assert b"GEHEIM" not in output


def test_no_text_of_a_contour_file_comes_out(folder):
    """A line of text in a contour file is reported by file, line and length."""
    path = next(folder.glob("contourfiles/C1/*/*.txt"))
    path.write_text(f"0 0\n{SECRET}\n2 0\n2 2\n")
    output = outputs_of(folder)
    assert b"text of 20 characters is not a vertex" in output
    assert b"GEHEIM" not in output


def test_the_commands_print_no_text_of_an_image(folder):
    """Neither stdout nor stderr of `link` and `build` has a name of an image."""
    for k, tag in enumerate((0x0020000E, 0x00200013, 0x00280004, 0x00280030)):
        write_image(folder / f"dicoms/P1/{k + 3}.dcm", k + 3, [(tag, b"LO")])
    for command in (
        ["link", ".", "-o", "out.csv", "--keep-unlabelled", "--verbose"],
        ["build", "out.csv", "-o", "out.h5", "--verbose"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "fastseg", *command],
            cwd=folder,
            capture_output=True,
            check=False,
        )
        assert done.returncode in (0, 3)
        assert b"GEHEIM" not in done.stdout + done.stderr
    assert (
        b"SeriesInstanceUID is text of 20 bytes"
        in (folder / "out.csv.rejects.csv").read_bytes()
    )


def test_a_series_that_is_no_uid_is_rejected_by_a_build(folder):
    """A table that gives shape and dtype cannot bring such an image into a store."""
    table = fastseg.link(folder)
    write_image(folder / "dicoms/P1/1.dcm", 1, [(0x0020000E, b"UI")])
    with pytest.warns(fastseg.errors.RejectedWarning):
        report = fastseg.build(table, folder / "s.h5")
    reasons = {reject.file: reject.reason for reject in report.rejects}
    text = "SeriesInstanceUID is text of 20 bytes, expected a UID"
    assert reasons["dicoms/P1/1.dcm"].startswith(text)
    assert report.samples == 3
    assert b"GEHEIM" not in (folder / "s.h5").read_bytes()


def test_instances_with_two_values_are_rejected(folder):
    """InstanceNumber 1\\2 rejects the image by `link` and `build`, and is never 1."""
    table = fastseg.link(folder)
    path = folder / "dicoms/P1/1.dcm"
    image = pydicom.dcmread(path)
    image.InstanceNumber = [1, 2]
    image.save_as(path)
    with pytest.warns(fastseg.errors.RejectedWarning):
        report = fastseg.build(table, folder / "s.h5")
    reasons = {reject.file: reject.reason for reject in report.rejects}
    text = "InstanceNumber has 2 values, expected one"
    assert reasons["dicoms/P1/1.dcm"] == text
    with pytest.warns(fastseg.errors.RejectedWarning):
        rejects = fastseg.link(folder).rejects
    assert text in [reject.reason for reject in rejects]
