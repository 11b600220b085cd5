"""The command line, run as a user runs it."""

import json
import os
import re
import shutil

import numpy as np
import pytest

from tests.sources.dicom_files import save_slice
from tests.structure_sets import make_contour, make_structure_set, save


@pytest.fixture
def heart(fastseg_command, study, tmp_path):
    """A store built by the command line from the small study."""
    for arguments in (("link", study), ("build", "links.csv", "-o", "heart.h5")):
        assert fastseg_command(*arguments).returncode == 0
    return tmp_path / "heart.h5"


def test_the_main_job(fastseg_command, study, tmp_path):
    """link, build, info and show each print in one line what they did."""
    run = fastseg_command("link", study, "-o", "links.csv")
    assert (run.returncode, run.stderr) == (0, "")
    assert "links.csv: 8 images, 8 icontour, 4 ocontour" in run.stdout
    assert "4 images without a contour" in run.stdout
    run = fastseg_command("build", "links.csv", "-o", "heart.h5")
    assert (run.returncode, run.stderr) == (0, "")
    assert "heart.h5: 8 samples, 20 contours" in run.stdout
    run = fastseg_command("info", "heart.h5")
    assert (run.returncode, run.stderr) == (0, "")
    for text in ("samples", "40x40_uint16", "48x36_uint16", "icontour", "fingerprint"):
        assert text in run.stdout
    run = fastseg_command("show", "heart.h5", "-o", "picture.png", "-n", "2")
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob("*.rejects.csv"))


def test_rejects_are_listed_and_set_the_exit_status(fastseg_command, study, tmp_path):
    """Rejects are printed and written to a file, and the exit status is 3."""
    (
        study / "contourfiles/PH-1/i-contours/IM-0001-0099-icontour-manual.txt"
    ).write_text("1 1\n2 2\n1 2\n")
    contour = study / "contourfiles/PH-2/i-contours/IM-0001-0001-icontour-manual.txt"
    contour.write_text("1 1\n2 x\n")
    run = fastseg_command("link", study, "-o", "links.csv")
    assert run.returncode == 3
    assert "8 images" in run.stdout
    assert "1 rejected, listed in links.csv.rejects.csv" in run.stderr
    assert "0099" in (tmp_path / "links.csv.rejects.csv").read_text()
    assert fastseg_command("link", study, "--allow-rejects").returncode == 0
    run = fastseg_command("build", "links.csv", "-o", "heart.h5")
    assert run.returncode == 3
    assert "IM-0001-0001-icontour-manual.txt:2: " in run.stderr
    listed = (tmp_path / "heart.h5.rejects.csv").read_text().splitlines()
    assert listed[0] == "file,line,reason"
    assert len(listed) == 2
    run = fastseg_command("build", "links.csv", "-o", "heart.h5", "--allow-rejects")
    assert run.returncode == 0
    contour.write_text("9 9\n12 9\n12 12\n")
    assert fastseg_command("build", "links.csv", "-o", "heart.h5").returncode == 0
    assert not (tmp_path / "heart.h5.rejects.csv").exists()


def test_verify_checks_a_store(fastseg_command, heart, study):
    """For a valid store, status 0 and the fingerprint that `info` prints."""
    run = fastseg_command("verify", "heart.h5", "--sources", study, "--threads", 2)
    assert (run.returncode, run.stderr) == (0, "")
    first, second = run.stdout.splitlines()
    assert re.fullmatch(
        r"heart\.h5: valid, 8 samples, 0\.\d{3} GB in \d+\.\d s \(\d+\.\d GB/s\)", first
    )
    digest = second.removeprefix("fingerprint ")
    assert digest in fastseg_command("info", "heart.h5").stdout
    assert fastseg_command("verify", "heart.h5", "-q").stdout == ""


def test_verify_lists_damage(fastseg_command, heart, study):
    """One line for each damaged item or changed file; five, or all with --verbose."""
    import fastseg

    opened = fastseg.open(heart)
    offset = opened.offsets["masks/40x40_uint16"]
    size = opened.masks["40x40_uint16"].nbytes
    with heart.open("r+b") as file:
        file.seek(offset)
        file.write(bytes([255]) * size)
    for path in study.rglob("*.dcm"):
        path.unlink()
    run = fastseg_command("verify", "heart.h5")
    assert run.returncode == 1
    assert "heart.h5: damaged, 8 samples" in run.stdout
    assert "4 damaged:" in run.stderr
    line = "  sample 0 (dicoms/PHANTOM0001/4.dcm): mask differs from what was written"
    assert line in run.stderr.splitlines()
    run = fastseg_command("verify", "heart.h5", "--sources", study)
    assert run.returncode == 1
    assert "8 changed since the store was built:" in run.stderr
    assert "  dicoms/PHANTOM0001/1.dcm: is missing" in run.stderr
    assert "  and 3 more (--verbose lists all)" in run.stderr
    run = fastseg_command("verify", "heart.h5", "--sources", study, "-v")
    assert run.stderr.count("is missing") == 8


def test_a_build_without_samples_lists_the_rejects(fastseg_command, study, tmp_path):
    """If all input is rejected there is no store; the list is written, status 3."""
    assert fastseg_command("link", study).returncode == 0
    for path in study.glob("dicoms/*/*.dcm"):
        path.write_text("gone")
    run = fastseg_command("build", "links.csv", "-o", "heart.h5", "--allow-rejects")
    assert run.returncode == 3
    assert "error: nothing to build" in run.stderr
    assert "is not a DICOM file" in run.stderr
    assert (tmp_path / "heart.h5.rejects.csv").exists()
    assert not (tmp_path / "heart.h5").exists()


def test_debug_shows_the_traceback(fastseg_command):
    """With --debug, an error is shown with its traceback."""
    run = fastseg_command("link", "nowhere", "--debug")
    assert run.returncode == 1
    assert "Traceback" in run.stderr
    assert "LinkError" in run.stderr


def test_quiet_and_verbose(fastseg_command, study):
    """--quiet prints nothing without errors; --verbose lists ignored files and more."""
    (study / "notes.txt").write_text("mine")
    (study / "dicoms/PHANTOM0001/notes.txt").write_text("mine")
    run = fastseg_command("link", study, "-q")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    run = fastseg_command("link", study)
    assert "ignored 1 file of another kind" in run.stdout
    run = fastseg_command("link", study, "-v")
    assert "ignored dicoms/PHANTOM0001/notes.txt" in run.stderr
    run = fastseg_command("build", "links.csv", "-v")
    assert "fingerprint" in run.stderr
    run = fastseg_command("info", "store.h5", "-v")
    assert "patient PHANTOM0002" in run.stdout


def test_a_store_is_split_into_a_table(fastseg_command, store, tmp_path):
    """Counts of each part are printed, patients only with --verbose; a table is
    written."""
    arguments = ("split", store.path, "--part", "train=0.5", "--part", "val=0.5")
    run = fastseg_command(*arguments, "--seed", 4, "--stratify", "classes")
    assert (run.returncode, run.stderr) == (0, "")
    lines = [line.split() for line in run.stdout.splitlines()]
    assert ["train", "val"] in lines
    assert ["samples", "16", "16"] in lines
    assert ["fraction", "50.0%", "50.0%"] in lines
    assert ["patients", "2", "2"] in lines
    assert ["icontour", "16", "16"] in lines
    assert ["ocontour", "8", "8"] in lines
    assert "splits.csv: 32 samples by patient, seed 4; no patient in" in run.stdout
    assert "PHANTOM" not in run.stdout
    import fastseg

    expected = store.split({"train": 0.5, "val": 0.5}, seed=4, stratify="classes")
    parts = fastseg.read_split(tmp_path / "splits.csv", store)
    assert {k: v.tolist() for k, v in parts.items()} == {
        k: v.tolist() for k, v in expected.items()
    }
    run = fastseg_command(*arguments, "-o", "few.csv", "--label", "ocontour", "-v")
    assert "few.csv: 16 samples by patient" in run.stdout
    assert "PHANTOM0001" in run.stdout
    run = fastseg_command(*arguments, "-q", "--by", "sample")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    run = fastseg_command(*arguments, "--by", "sample")
    assert " patients in more than one part" in run.stdout


def test_a_contour_off_its_image_is_counted(fastseg_command, study):
    """A contour that covers no pixel is not rejected, but the user is told."""
    name = "contourfiles/PH-1/i-contours/IM-0001-0001-icontour-manual.txt"
    (study / name).write_text("900 900\n910 900\n910 910\n")
    fastseg_command("link", study)
    run = fastseg_command("build", "links.csv", "-v")
    assert run.returncode == 0
    assert "empty masks: the contour covers no pixel" in run.stdout
    assert name in run.stderr


def test_masks_that_depend_on_fill_are_counted(fastseg_command, tmp_path):
    """A build says so, lists them with -v, and says the same again; so does `info`."""
    square, hole = (2, 6), (3, 5)
    rings = {"organ": [square, hole], "cord": [(9, 10), (12, 14)]}
    contours = {
        name: [
            make_contour(
                [(x - 8, y - 8, 0) for x, y in ((a, a), (b, a), (b, b), (a, b))]
            )
            for a, b in corners
        ]
        for name, corners in rings.items()
    }
    save_slice(tmp_path / "ct" / "0.dcm")
    save(make_structure_set(contours), tmp_path / "rs.dcm")
    assert fastseg_command("link", tmp_path, "-o", "l.csv").returncode == 0
    sentence = (
        "1 of 2 masks with several rings depend on --fill: even-odd, nonzero and union "
        "differ"
    )
    for _ in range(2):
        run = fastseg_command("build", "l.csv")
        assert run.returncode == 0
        assert f"{sentence} (--verbose lists them)" in run.stdout
    run = fastseg_command("build", "l.csv", "-v")
    assert f"{sentence}\n" in run.stdout
    assert "rules differ: organ on ct/0.dcm" in run.stderr
    assert run.stderr.count("rules differ") == 1
    assert sentence in fastseg_command("info", "store.h5").stdout


def test_version_prints_the_version_of_the_package(fastseg_command):
    """--version prints name and version, and nothing else."""
    import fastseg

    assert fastseg_command("--version").stdout == f"fastseg {fastseg.__version__}\n"


def test_the_metadata_of_a_sample_is_json(heart):
    """`sample.meta` is the same after a round trip through JSON."""
    import fastseg

    meta = fastseg.open(heart)[0].meta
    np.testing.assert_equal(json.loads(json.dumps(meta)), meta)  # also of NaN


@pytest.mark.parametrize("command", ["link", "build", "split", "show"])
def test_no_command_replaces_another_file(
    fastseg_command, heart, study, tmp_path, command
):
    """Status 2, the file and the remedy in one line; with --force it is replaced."""
    arguments = {
        "link": [study, "-o", "notes.txt"],
        "build": ["links.csv", "-o", "notes.txt"],
        "split": ["heart.h5", "--part", "a=1", "-o", "notes.txt"],
        "show": ["heart.h5", "-n", "1", "-o", "notes.png"],
    }[command]
    notes = tmp_path / arguments[-1]
    notes.write_text("mine")
    run = fastseg_command(command, *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"error: {notes.name}: is not recognised as a")
    assert "--force" in line
    assert notes.read_text() == "mine"
    assert fastseg_command(command, *arguments, "--force").returncode == 0
    assert notes.read_bytes() != b"mine"
    assert fastseg_command(command, *arguments).returncode == 0


def test_links_and_roots_are_reported(fastseg_command, heart, study, tmp_path):
    """Outputs say where a symbolic link led, and `build` from where it reads."""
    (tmp_path / "elsewhere").mkdir()
    for name in ("l.csv", "s.h5", "p.csv", "p.png"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere" / name)
    for arguments in (
        ("link", study, "-o", "l.csv"),
        ("build", "l.csv", "-o", "s.h5"),
        ("split", "s.h5", "--part", "a=1", "-o", "p.csv"),
        ("show", "s.h5", "-n", "1", "-o", "p.png"),
    ):
        run = fastseg_command(*arguments)
        assert run.returncode == 0
        real = tmp_path / "elsewhere" / arguments[-1]
        assert f"{arguments[-1]} is a symbolic link, written to {real}" in run.stdout
        assert "root:" not in run.stdout
        assert real.exists()
    (tmp_path / "tables").mkdir()
    assert fastseg_command("link", study, "-o", "tables/l.csv").returncode == 0
    run = fastseg_command("build", "tables/l.csv")
    assert f"root: {study} (outside the folder of tables/l.csv)" in run.stdout
    run = fastseg_command("build", "tables/l.csv", "--root", "tables")
    assert run.returncode == 1
    assert str(study) in run.stderr
    assert fastseg_command("build", "tables/l.csv", "--root", ".").returncode == 0


OWNED = "\x1b]0;OWNED\x07\u202e"


NAMED = (
    (f"{OWNED}", "x"),
    ("info", f"a{OWNED}", f"b{OWNED}"),
    ("info", f"--{OWNED}"),
    ("info", b"\xffOWNED\x1b.h5"),
    ("build", f"{OWNED}.csv"),
    ("build", "links.csv", "--threads", OWNED),
    ("build", "links.csv", "--edges", OWNED),
    ("build", "links.csv", "-o", f"{OWNED}.h5", "--verbose"),
    ("link", f"{OWNED}"),
    ("link", "study", "--label", OWNED),
    ("split", "heart.h5", "--part", f"{OWNED}=1"),
    ("split", "heart.h5", "--part", "a=1", "-o", f"{OWNED}.csv"),
    ("show", "heart.h5", "-n", "1", "-o", f"{OWNED}.png"),
    ("show", "heart.h5", "-o", f"{OWNED}"),
    ("show", "heart.h5", "--augment", OWNED),
    ("phantom", "new", "--size", OWNED),
    ("verify", f"{OWNED}.h5"),
)


@pytest.mark.parametrize("name", [":smile:", "[red]x[/red]", "[/x]"])
def test_names_are_printed_as_they_are(fastseg_command, heart, name):
    """No part of a name is taken for the name of a colour or of a picture."""
    path = heart.with_name(f"{name.replace('/', '')}.h5")
    heart.rename(path)
    assert path.name in fastseg_command("info", path.name).stdout
    run = fastseg_command("info", f"{name}.csv")
    assert f"{name}.csv" in run.stderr


def test_no_control_character_reaches_a_terminal(fastseg_command, heart):
    """Results and errors show names and values with escapes, whatever the command."""
    for arguments in NAMED:
        run = fastseg_command(*map(os.fsdecode, arguments))
        text = run.stdout + run.stderr
        assert "OWNED" in text or "--threads" in text, arguments
        assert "Traceback" not in text, text
        assert not [c for c in text if c != "\n" and not c.isprintable()], text


def test_rejects_show_control_characters_as_escapes(fastseg_command, study, tmp_path):
    """File names are escaped on stderr and in the list; `link` rejects such files."""
    image = next(study.glob("dicoms/*/*.dcm"))
    for name in (f"{OWNED}.dcm", "=1+1.dcm", "b\udcff.dcm"):
        shutil.copy(image, image.with_name(name))
    folder = study / "contourfiles/PH-1/i-contours" / f"more{OWNED}"
    folder.mkdir()
    run = fastseg_command("link", study, "--verbose")
    assert run.returncode == 3
    listed = (tmp_path / "links.csv.rejects.csv").read_text("utf-8")
    for text in (run.stderr, listed):
        assert r"\x1b]0;OWNED\x07\u202e.dcm" in text
        assert r"b\udcff.dcm" in text
        assert r"more\x1b]0;OWNED\x07\u202e" in text
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert OWNED not in (tmp_path / "links.csv").read_text("utf-8")
