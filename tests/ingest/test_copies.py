"""Images that several patients share are reported, whatever their headers say."""

import shutil
import warnings

import numpy as np
import pydicom
import pytest

import fastseg
from fastseg.errors import CopiesWarning
from fastseg.links import Link, LinkTable


@pytest.fixture
def folder(study, tmp_path):
    """A folder with images of two patients, a copy each of bytes and of pixels."""
    first, second, *_ = sorted(study.glob("dicoms/*/*.dcm"))
    target = tmp_path / "images"
    target.mkdir()
    shutil.copy(first, target / "a0.dcm")
    shutil.copy(first, target / "b0.dcm")
    shutil.copy(second, target / "a1.dcm")
    image = pydicom.dcmread(second)
    image.InstanceNumber = 999
    image.SeriesInstanceUID = "1.2.3"
    image.save_as(target / "b1.dcm")
    image.PixelData = np.zeros_like(image.pixel_array).tobytes()
    for name in ("a2", "b2"):  # two empty images
        image.save_as(target / f"{name}.dcm")
    shutil.copy(target / "a0.dcm", target / "a3.dcm")  # twice in one patient
    return target


def build(folder, names, **options):
    links = [Link(name[0], f"{name}.dcm") for name in names]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = fastseg.build(
            LinkTable(base=folder, links=links), folder / "s.h5", **options
        )
    return report, [w for w in caught if w.category is CopiesWarning]


@pytest.mark.parametrize("compress", [False, True])
def test_copies_under_two_patients_are_reported(folder, compress):
    """Copies of bytes and of pixels alone are listed, and again by the next build."""
    if compress:
        pytest.importorskip("zstandard")
    names = ["a0", "a1", "a2", "a3", "b0", "b1", "b2"]
    expected = (("a0.dcm", "a3.dcm", "b0.dcm"), ("a1.dcm", "b1.dcm"))
    for _ in range(2):
        report, caught = build(folder, names, compress=compress)
        assert report.copies == expected
        assert report.samples == len(names)
        assert len(caught) == 1
        assert "2 images are in the store under several patients" in str(
            caught[0].message
        )


@pytest.mark.parametrize("names", [["a0", "a1", "a3"], ["a0", "a2", "b1", "b2"]])
def test_other_images_are_no_copies(folder, names):
    """Neither copies within one patient nor images of one value are reported."""
    report, caught = build(folder, names)
    assert report.copies == ()
    assert not caught


def test_the_command_prints_the_number(folder, fastseg_command):
    """`build` says how many images several patients share; --verbose names them."""
    table = LinkTable(base=folder, links=[Link("a", "a0.dcm"), Link("b", "b0.dcm")])
    table.save(folder / "l.csv")
    done = fastseg_command("build", folder / "l.csv", "-o", "s.h5", "--verbose")
    assert done.returncode == 0
    assert "1 image under several patients" in done.stderr
    assert "the same pixels: a0.dcm; b0.dcm" in done.stdout + done.stderr
