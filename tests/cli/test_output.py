"""What commands print: as JSON, on narrow terminals, into pipes that break."""

import contextlib
import io
import json
import logging
import os
import re
import sys
import warnings

import numpy as np
import pytest
from rich.cells import cell_len

import fastseg
from fastseg.cli import terminal
from fastseg.cli.main import app
from fastseg.cli.terminal import EXIT_BROKEN_PIPE, NARROW, Output
from fastseg.store.verify import ChangedSource, Damage, VerifyReport

STRANGE = "a\x1b]\x7f\u202e\x9b\udcff"


class _Screen(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def run(monkeypatch):
    """Runs a command in this process; returns its status, stdout and stderr.

    width : columns of the terminal at stdout and stderr; None for pipes
    """

    def run(*arguments, width=None):
        out, err = (_Screen() if width else io.StringIO() for _ in range(2))
        with monkeypatch.context() as patch, warnings.catch_warnings():
            patch.setattr(logging, "lastResort", logging.lastResort)
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setenv("TERM", "xterm")
            patch.setenv("NO_COLOR", "1")
            patch.setenv("COLUMNS", str(width or 40))
            with pytest.raises(SystemExit) as exit_:
                app([str(argument) for argument in arguments])
        return exit_.value.code, out.getvalue(), err.getvalue()

    return run


def strict(text):
    """Return the object of JSON as the standard has it, without NaN."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def two_stores(sample_study, tmp_path_factory):
    """Paths of two stores of one data set, and of one of other classes."""
    folder = tmp_path_factory.mktemp("stores")
    links = fastseg.link(sample_study).links
    first = links[0].patient
    contents = {
        "first": [link for link in links if link.patient == first],
        "second": [link for link in links if link.patient != first],
        "other": [link for link in links if link.label == "icontour"],
    }
    paths = []
    for name, some in contents.items():
        paths.append(folder / f"{name}.h5")
        fastseg.build(fastseg.LinkTable(base=sample_study, links=some), paths[-1])
    return paths


def test_commands_read_several_stores_as_one(run, store, two_stores, tmp_path):
    """`info`, `split` and `show` see all samples; `verify` each file."""
    first, second, other = two_stores
    status, out, _ = run("info", first, second, "--json")
    summary = strict(out)
    assert (status, summary["samples"]) == (0, len(store))
    assert summary["files"] == [str(first), str(second)]
    status, out, _ = run("info", first, second)
    assert f"{first}, {second}" in out
    status, _, err = run("info", first, other)
    assert status == 2
    assert f"but ('icontour',) in {other}" in err
    table = tmp_path / "splits.csv"
    status, out, _ = run("split", first, second, "--folds", 4, "-o", table)
    assert f"{len(store)} samples by patient" in out
    last = len(store) - 1
    status, out, _ = run(
        "show", first, second, "--index", last, "-o", tmp_path / "a.png"
    )
    assert f"1 of {len(store)} samples" in out


def test_verify_names_each_of_several_stores(run, two_stores, tmp_path):
    """One that is damaged makes the exit status 1."""
    first, second, _ = two_stores
    status, out, _ = run("verify", first, second)
    assert status == 0
    assert all(f"{path}: valid" in out for path in (first, second))
    damaged = tmp_path / "damaged.h5"
    whole = bytearray(second.read_bytes())
    whole[fastseg.open(second).offsets["items/mean"]] ^= 1
    damaged.write_bytes(whole)
    status, out, _ = run("verify", damaged, first, "--json")
    report = strict(out)
    assert (status, report["is_valid"]) == (1, False)
    assert [each["is_valid"] for each in report["stores"]] == [False, True]


def test_info_as_json_has_what_the_store_holds(run, store):
    """One object on stdout, equal to `Store.summary`, whose numbers are the store's."""
    status, out, err = run("info", store.path, "--json")
    assert (status, err) == (0, "")
    summary = strict(out)
    assert summary == store.summary()
    assert summary["samples"] == len(store)
    assert summary["patients"] == len(store.patients)
    assert summary["bytes"] == store.path.stat().st_size
    assert summary["fingerprint"] == store.fingerprint
    for bucket in summary["buckets"]:
        images = store.images[bucket["name"]]
        assert bucket["samples"] == len(images)
        assert (*bucket["shape"], bucket["dtype"]) == (*images.shape[1:], images.dtype)
        assert bucket["values"] == [images.min(), images.max()]
    for entry in summary["classes"]:
        areas = [
            sample.mask_of(entry["name"]).sum()
            for sample in store
            if entry["name"] in sample.contours
        ]
        assert entry["samples"] == len(areas)
        assert entry["mean_pixels"] == pytest.approx(np.mean(areas))
    assert "patient_ids" not in summary
    _, out, _ = run("info", store.path, "--json", "-v")
    assert strict(out)["patient_ids"] == list(store.patients)


def test_info_lists_each_volume(run, study, tmp_path):
    """With `--volumes`, a line or an object for each; without, how many there are."""
    path = tmp_path / "all.h5"
    fastseg.build(fastseg.link(study, slices="all"), path)
    volumes = fastseg.open(path).volumes
    assert volumes
    _, out, _ = run("info", path)
    assert f"volumes      {len(volumes)} of " in out
    assert "patient  series" not in out
    for options, start in (("-v",), 0), ((), -12):
        _, out, _ = run("info", path, "--volumes", *options)
        heading, *lines = out.splitlines()
        assert heading.split()[:3] == ["volume", "patient", "series"]
        assert lines[-1].startswith(f"volumes: {len(volumes)} of ")
        for volume, line in zip(volumes, lines[:-2], strict=True):
            cells = [str(volume.index), volume.patient, f"{volume.time:g}"]
            cells += [
                "x".join(map(str, volume.shape)),
                *", ".join(volume.classes).split(),
            ]
            assert {*cells} <= {*line.split()}
            assert volume.series[start:] in line
    assert any(volume.classes for volume in volumes)
    _, out, _ = run("info", path, "--json", "--volumes")
    for volume, entry in zip(volumes, strict(out)["volumes"]["list"], strict=True):
        assert entry["affine"] == volume.affine.tolist()
        assert entry["first_sample"] == volume.samples[0]
        assert tuple(entry["classes"]) == volume.classes
        assert tuple(entry["shape"]) == volume.image.shape
        assert tuple(entry["spacing_mm"]) == volume.spacing_mm


def test_unknown_numbers_are_null(store, monkeypatch):
    """A spacing that no header has, and the area of a class without samples, are
    None."""
    items = dict(store.items)
    items["spacing_mm"] = np.full_like(items["spacing_mm"], np.nan)
    items["labelled"] = np.zeros_like(items["labelled"])
    opened = fastseg.open(store.path)
    monkeypatch.setattr(opened, "_items", items)
    summary = strict(json.dumps(opened.summary(), allow_nan=False))
    assert {bucket["spacing_mm"] for bucket in summary["buckets"]} == {None}
    assert {entry["mean_pixels"] for entry in summary["classes"]} == {None}


def test_verify_as_json_has_the_report(run, store, tmp_path):
    """The report on stdout, with status 1 and nothing on stderr if a mask differs."""
    status, out, err = run("verify", store.path, "--json")
    assert (status, err) == (0, "")
    report = strict(out)
    assert report.pop("seconds") > 0
    assert report == fastseg.verify(store).as_dict()
    assert report["is_valid"]
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(store.path.read_bytes())
    with damaged.open("r+b") as file:
        file.seek(store.offsets["masks/96x96_uint16"])
        file.write(b"\xff")
    status, out, err = run("verify", damaged, "--json")
    assert (status, err) == (1, "")
    (damage,) = strict(out)["damages"]
    sample = fastseg.open(damaged)[damage["sample"]]
    assert damage["part"] == "mask"
    assert (damage["patient"], damage["source"]) == (
        sample.patient,
        sample.meta["source"],
    )


def test_json_is_printed_even_if_quiet_and_errors_are_not_json(run, store, tmp_path):
    """-q leaves what was asked for; an error leaves stdout empty, with status 1."""
    assert strict(run("info", store.path, "--json", "-q")[1]) == store.summary()
    status, out, err = run("info", tmp_path / "none.h5", "--json")
    assert (status, out) == (1, "")
    assert err.startswith("error: ")


def test_text_from_outside_is_escaped_as_json_does(capsys):
    """JSON is ASCII without control characters, and reads back as what went in."""
    report = VerifyReport(
        path=fastseg.paths.Path(STRANGE),
        samples=1,
        fingerprint="",
        damages=(Damage(part=STRANGE, reason="x"),),
        changed_sources=(ChangedSource(path=STRANGE, reason="x"),),
        bytes_read=0,
    )
    Output(False, False).json(report.as_dict())
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert printed.isascii()
    read = json.loads(printed)
    assert read == report.as_dict()
    assert read["damages"][0]["part"] == STRANGE


NAMES = ("left_ventricular_endocardium", "心室", "papillary muscles, the posterior one")


def _joined(text):
    """Return a text without spaces, so that what was wrapped reads as one."""
    return "".join(text.split())


def _plain(text):
    """Return a text without the codes of bold headings."""
    return re.sub(r"\x1b\[\d+m", "", text)


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_no_terminal_cuts_off_a_cell(run, store, width):
    """`info` shows every value of the summary at any width, and no line is wider."""
    status, out, _ = run("info", store.path, width=width)
    out = _plain(out)
    assert status == 0
    assert "…" not in out
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    summary = store.summary()
    texts = [summary["fingerprint"], *summary["software"].values()]
    texts += [entry["name"] for entry in summary["buckets"] + summary["classes"]]
    for text in texts:
        assert _joined(text) in _joined(out)


@pytest.mark.parametrize("count", [1, 3, 10, 19])
@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 1000])
def test_a_wide_table_is_turned_or_listed(monkeypatch, count, width):
    """Every cell of a split into many folds is readable, beside or below its fold."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", out := _Screen())
    folds = [f"fold{k}" for k in range(count)]
    rows = [
        [name, *(f"{100 * n + k}" for k in range(count))]
        for n, name in enumerate(("samples", *NAMES), 1)
    ]
    Output(False, False).table(rows, ("", *folds))
    text = _plain(out.getvalue())
    assert max(map(cell_len, text.splitlines())) <= width
    words = text.split()
    for row in rows:
        assert set(row[1:]) <= set(words)
    assert set(folds) <= set(words)
    if width > 30:  # one of the words is longer
        assert {word for name in NAMES for word in name.split()} <= set(words)


@pytest.mark.parametrize("width", [30, 40, 59, 60, 80, 120])
def test_help_has_the_whole_names_of_options(run, width):
    """No --help cuts off anything with an ellipsis in a frame, at any width."""
    for command in ("link", "build", "info", "verify", "split", "show", "bench"):
        status, out, _ = run(command, "--help", width=width)
        assert status == 0
        assert "--verbose" in _plain(out)
        assert "…" not in out


def test_a_pipe_gets_a_row_on_a_line(run, store):
    """What is no terminal has no width: COLUMNS changes nothing, nothing is folded."""
    _, out, _ = run("info", store.path)
    assert f"fingerprint  {store.fingerprint}" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["bucket", "samples", "spacing", "(mm)", "values"] in lines
    path = store.path.parent / ("a" * 120)
    _, _, err = run("info", path)
    assert str(path) in err


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        (["show", "-n", "2", "-o", "{}/p.png"], {"draw", "write"}),
        (["bench", "--size", "64", "--seconds", "0.1", "--rounds", "1"], {"measure"}),
    ],
)
def test_slow_commands_show_bars(run, store, tmp_path, monkeypatch, arguments, labels):
    """On a terminal, the bars are on stderr, and stdout is the same as without."""
    monkeypatch.setattr(terminal, "BAR_AFTER_S", 0)
    command, *options = (text.format(tmp_path) for text in arguments)
    status, out, err = run(command, store.path, *options, width=80)
    assert status == 0
    words = _plain(err).split()
    assert labels <= set(words)
    assert "━" in err
    assert "━" not in out
    assert run(command, store.path, *options)[2] == ""  # a pipe


@pytest.mark.parametrize("width", [20, 30, 40])
def test_a_narrow_terminal_shows_whole_numbers(run, store, monkeypatch, width):
    """Progress has its label and numbers in full; the bar is left out first."""
    monkeypatch.setattr(terminal, "BAR_AFTER_S", 0)
    err = run("verify", store.path, width=width)[2]
    assert re.search(r"verify +.*(\d+)/\1\b", _plain(err))
    assert "…" not in err
    assert ("━" in err) == (width >= NARROW)


def test_library_functions_report_their_progress(store, tmp_path):
    """Each step advances to its total, in `show`, `bench` and `write_split`."""
    steps = []

    @contextlib.contextmanager
    def progress(label, total):
        steps.append([label, total, 0])

        def advance(n=1):
            steps[-1][2] += n

        yield advance

    fastseg.show(store, tmp_path / "p.png", count=3, progress=progress)
    assert steps == [["draw", 3, 3], ["write", 3, 3]]
    steps.clear()
    fastseg.bench(store, size=64, seconds=0.01, rounds=2, progress=progress)
    assert steps == [["first batch", 2, 2], ["measure", 50, 50]]
    steps.clear()
    parts = store.split({"train": 0.5, "val": 0.5})
    fastseg.write_split(tmp_path / "s.csv", store, parts, progress=progress)
    assert steps == [["write", len(store), len(store)]]


@pytest.fixture
def stdout_is(monkeypatch):
    """Opens a file as standard output, and forgets what it could not write."""
    opened = []

    def replace(file):
        opened.append(open(file, "w"))  # noqa: SIM115, PTH123  closed below
        monkeypatch.setattr(sys, "stdout", opened[-1])

    yield replace
    for file in opened:
        with contextlib.suppress(OSError):
            file.close()


def _status(*arguments):
    with pytest.raises(SystemExit) as exit_:
        app(list(map(str, arguments)))
    return exit_.value.code


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is a file of Linux")
@pytest.mark.parametrize("option", ["--version", "--help", "info"])
def test_a_full_disk_is_an_error(option, stdout_is, store, capsys):
    """Status 1 and a line, also for what no command prints."""
    stdout_is("/dev/full")
    assert _status(*([option, store.path] if option == "info" else [option])) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: [Errno 28] No space left on device")


@pytest.mark.parametrize("option", ["--version", "--help", "info"])
def test_a_closed_stdout_is_an_error(option, store, monkeypatch, capsys):
    """`fastseg info >&-` says so instead of printing nothing with status 0."""
    monkeypatch.setattr(sys, "stdout", None)
    saved = os.dup(1)
    os.close(1)
    try:
        status = _status(*([option, store.path] if option == "info" else [option]))
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    assert status == 1
    printed = capsys.readouterr().err
    assert printed == "error: [Errno 9] Bad file descriptor: 'standard output'\n"


@pytest.mark.parametrize(
    "command", ["info", "verify", "info --json", "--help", "--version", "info --help"]
)
def test_a_pipe_that_nobody_reads_ends_the_program(command, stdout_is, store, capsys):
    """`fastseg info | true` prints no error, and has the status of a broken pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    stdout_is(writer)
    arguments = command.split() if "--" in command else [command, store.path]
    arguments += [store.path] if command == "info --json" else []
    assert _status(*arguments) == EXIT_BROKEN_PIPE
    assert capsys.readouterr().err == ""


def test_no_file_is_opened_as_a_standard_one(tmp_path):
    """If the shell has closed stdout, the next file does not get its number: what a
    library prints would be written into it."""
    saved = os.dup(1)
    os.close(1)
    try:
        assert _status("--version") == 0
        with (tmp_path / "file").open("w") as file:
            number = file.fileno()
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    assert number > 2
