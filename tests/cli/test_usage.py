"""Usage errors have exit status 2, whatever the command, and other errors have not."""

import subprocess
import sys

import pytest
import typer.main

from fastseg.cli.main import app

PART = "split heart.h5 --part a=1"
BENCH = "bench heart.h5 --size 32"
# For each option with a value: a call in which the value is wrong, and what the error
# says.
WRONG_VALUES = {
    ("link", "--out"): ("link study -o nowhere/l.csv", "no folder nowhere"),
    ("link", "--label"): ("link study --label icontuor", "did you mean 'icontour'"),
    ("link", "--slices"): ("link study --slices labeled", "'labelled'?"),
    ("build", "--out"): ("build links.csv -o links.csv/s.h5", "no folder links.csv"),
    ("link", "--roi"): ("link study --roi heart", "--roi is 'heart', expected a class"),
    ("link", "--aliases"): ("link study --aliases heart.h5", "no file of aliases by"),
    ("link", "--plane-tolerance"): ("link study --plane-tolerance 11", "is 11, expect"),
    ("link", "--pseudonyms"): ("link study --pseudonyms heart.h5", "is no key, it"),
    ("link", "--processes"): ("link study --processes 0", "is 0, expected 1 to"),
    ("link", "--dask"): ("link study --dask host", "as in tcp://host:8786"),
    ("rois", "--out"): ("rois study -o aliases.csv", "ends with .toml"),
    ("rois", "--roi"): ("rois study --roi heart", "as in heart='Heart|HEART*'"),
    ("rois", "--aliases"): ("rois study --aliases links.txt", "ends with .toml or"),
    ("build", "--edges"): ("build links.csv --edges opn", "mean 'open'"),
    ("build", "--fill"): ("build links.csv --fill odd-even", "mean 'even-odd'?"),
    ("build", "--origin"): ("build links.csv --origin centre", "mean 'center'"),
    ("build", "--threads"): ("build links.csv --threads 0", "threads is 0, expected"),
    ("build", "--workers"): ("build links.csv --workers 2", "renamed: --threads"),
    ("build", "--max-pixel-bytes"): ("build links.csv --max-pixel-bytes 0", "is 0, "),
    ("build", "--decode-timeout"): ("build links.csv --decode-timeout nan", "is nan"),
    ("build", "--root"): ("build links.csv --root links.csv", "expected a folder"),
    ("build", "--processes"): ("build links.csv --processes 0", "is 0, expected 1 to"),
    ("build", "--dask"): ("build links.csv --dask host", "as in tcp://host:8786"),
    ("check", "--out"): ("check heart.h5 -o report.txt", "expected one of .csv, .json"),
    ("check", "--fail-on"): ("check heart.h5 --fail-on errors", "mean 'error'?"),
    ("check", "--accept"): ("check heart.h5 --accept links.csv", "no column finding"),
    ("check", "--inside"): ("check heart.h5 --inside icontour", "expected inner:outer"),
    ("check", "--splits"): ("check heart.h5 --splits links.csv", "expected a table"),
    ("check", "--rule"): (
        "check heart.h5 --rule constant-imag",
        "did you mean 'constant-image'",
    ),
    ("check", "--skip"): (
        "check heart.h5 --skip constant-imag",
        "did you mean 'constant-image'",
    ),
    ("check", "--set"): ("check heart.h5 --set x=1", "expected as in rule.threshold"),
    ("check", "--processes"): ("check heart.h5 --processes 0", "is 0, expected 1 to"),
    ("check", "--dask"): ("check heart.h5 --dask host", "as in tcp://host:8786"),
    ("check", "--threads"): ("check heart.h5 --threads 0", "threads is 0, expected"),
    ("build", "--upload"): ("build links.csv --upload x.h5", "--upload is 'x.h5', exp"),
    ("finish", "--upload"): ("finish x.h5.plan --upload x", "--upload is 'x', expect"),
    ("build", "--without"): (
        "build links.csv --without links.csv",
        "no column finding",
    ),
    ("build", "--without-severity"): (
        "build links.csv --without-severity all",
        "expected one of 'error', 'warning', 'note'",
    ),
    ("plan", "--out"): ("plan links.csv -o nowhere/b.h5", "no folder nowhere"),
    ("plan", "--edges"): ("plan links.csv --edges opn", "mean 'open'"),
    ("plan", "--fill"): ("plan links.csv --fill odd-even", "mean 'even-odd'?"),
    ("plan", "--origin"): ("plan links.csv --origin centre", "mean 'center'"),
    ("plan", "--max-pixel-bytes"): ("plan links.csv --max-pixel-bytes 0", "is 0, "),
    ("plan", "--decode-timeout"): ("plan links.csv --decode-timeout nan", "is nan"),
    ("plan", "--root"): ("plan links.csv --root links.csv", "expected a folder"),
    ("plan", "--without"): ("plan links.csv --without links.csv", "no column finding"),
    ("plan", "--without-severity"): (
        "plan links.csv --without-severity all",
        "expected one of",
    ),
    ("part", "--threads"): ("part links.csv 1/2 --threads x", "expected a whole numb"),
    ("verify", "--sources"): ("verify heart.h5 --sources links.csv", "expected a fold"),
    ("verify", "--threads"): (
        "verify heart.h5 --threads 1.5",
        "--threads is '1.5', expected a whole number (fastseg verify --help",
    ),
    ("split", "--part"): ("split heart.h5 --part train:0.8", "as in train=0.8"),
    ("split", "--folds"): ("split heart.h5 --folds 1", "folds is 1, expected"),
    ("split", "--out"): (f"{PART} -o nowhere/x.csv", "no folder nowhere"),
    ("split", "--by"): (f"{PART} --by patients", "mean 'patient'?"),
    ("split", "--stratify"): (f"{PART} --stratify class", "mean 'classes'?"),
    ("split", "--label"): (f"{PART} --label icontuor", "mean 'icontour'"),
    ("split", "--seed"): (f"{PART} --seed -1", "seed is -1, expected 0 to"),
    ("show", "--out"): ("show heart.h5 -o notes.txt", "ends with .png"),
    ("show", "--count"): ("show heart.h5 -n 0", "count is 0, expected at least 1"),
    ("show", "--patient"): ("show heart.h5 --patient Z", "patient is 'Z', expected"),
    ("show", "--class"): ("show heart.h5 --class icontuor", "mean 'icontour'"),
    ("show", "--index"): ("show heart.h5 --index 999", "expected 0 to"),
    ("show", "--volume"): ("show heart.h5 --volume 99", "volume is 99, expected 0 to"),
    ("show", "--window"): ("show heart.h5 --window heder", "mean 'header'?"),
    ("show", "--seed"): ("show heart.h5 --seed -1", "seed is -1, expected 0 to"),
    ("show", "--augment"): ("show heart.h5 --augment lite", "mean 'light'?"),
    ("bench", "--batch-size"): ("bench heart.h5 --batch-size 0", "batch_size is 0"),
    ("bench", "--size"): ("bench heart.h5 --size 96x", "--size is '96x', expected"),
    ("bench", "--neighbours"): (f"{BENCH} --neighbours -1", "neighbours is -1"),
    ("bench", "--dtype"): ("bench heart.h5 --dtype float23", "mean 'float32'"),
    ("bench", "--masks"): (f"{BENCH} --masks label", "mean 'labels'"),
    ("bench", "--threads"): (f"{BENCH} --threads 0", "threads is 0, expected"),
    ("bench", "--prefetch"): (f"{BENCH} --prefetch -1", "prefetch is -1"),
    ("bench", "--seconds"): ("bench heart.h5 --seconds 0", "seconds is 0.0, expected"),
    ("bench", "--rounds"): ("bench heart.h5 --rounds 0", "rounds is 0, expected"),
    ("warmup", "--cpu"): ("warmup --cpu x86-64-v5", "mean 'x86-64-v4' or 'x86-64-v3'?"),
    ("phantom", "--kind"): ("phantom new --kind rtstrct", "did you mean 'rtstruct'?"),
    ("phantom", "--patients"): ("phantom new --patients 0", "patients is 0, expected"),
    ("phantom", "--size"): ("phantom new --size 9", "size is 9x9, expected"),
    ("phantom", "--slices"): ("phantom new --slices 0", "slices is 0, expected"),
    ("phantom", "--phases"): ("phantom new --phases 0", "phases is 0, expected"),
    ("phantom", "--seed"): ("phantom new --seed -1", "seed is -1, expected 0 to"),
}
USAGE_ERRORS = [
    *WRONG_VALUES.values(),
    ("link study -o study", "is a folder, expected the name of a links table"),
    ("build links.csv -o links.csv", "links.csv"),
    ("build links.csv --processes 2 --dask tcp://h:1", "exclude each other"),
    ("split heart.h5", "give --part for each part"),
    ("split heart.h5 --part train", "--part is 'train', expected a new name and a"),
    ("split heart.h5 --part train=x", "--part is 'train=x', expected"),
    ("split heart.h5 --part a=0.5 --part a=0.5", "--part is 'a=0.5', expected a new"),
    ("split heart.h5 --part a=1 --folds 2", "or --folds 5"),
    ("split heart.h5 --part a=0.5", "sum to 0.5, expected 1"),
    ("split heart.h5 --folds 100", "folds is 100, expected"),
    ("show heart.h5 -o nowhere/x.png", "there is no folder nowhere; make it, or"),
    (["show", "heart.h5", "-o", f"{'x' * 300}/x.png"], "there is no folder xxx"),
    ("rois study --match-case", "give one of these"),
    ("rois study -o nowhere/a.toml", "there is no folder nowhere; make it, or"),
    ("phantom study", "is not an empty folder"),
    ("phantom nowhere/new", "there is no folder nowhere"),
    ("phantom links.csv/new", "there is no folder links.csv"),
    ("part links.csv", "Missing argument"),
    ("check heart.h5 -o a.csv -o a.csv", "--out is 'a.csv' twice"),
    ("inf heart.h5", "No such command 'inf'"),
    ("build links.csv --root nowhere", "expected a folder"),
    ("bench heart.h5", "give the size"),
    ("info", "Missing argument"),
    ("bench heart.h5 heart.h5", "unexpected extra argument"),
    ("info heart.h5 --verbos", "fastseg info --help"),
    ("show heart.h5 --window 1,2,3", "expected two numbers, as in -160,240"),
    ("show heart.h5 --window 2,1", "expected (low, high)"),
    ("show heart.h5 --window 40", "or two numbers, as in -160,240"),
    ("show heart.h5 --augment aug.yaml", "a file of a Compose ends with .json"),
    ("bench heart.h5 --seconds 1s", "--seconds is '1s', expected a number"),
    ("show heart.h5 -n", "fastseg show --help"),
    ("--verbos info heart.h5", "fastseg --help"),
    ("-v info heart.h5 -q", "--verbose and --quiet exclude each other"),
    ("info heart.h5 -v -q", "--verbose and --quiet exclude each other"),
]
INPUT_ERRORS = [
    ("link nowhere", "error: nowhere: does not exist, expected"),
    ("link .", "error: .: has no layout that fastseg knows; did you mean study"),
    ("rois nowhere", "error: nowhere: does not exist, expected"),
    ("rois study", "has no RT structure sets; it holds"),
    ("rois study --aliases links.csv", "line 1: no column class"),
    ("rois study --aliases nowhere.toml", "writes one to start with"),
    ("build nowhere.csv", "`fastseg link` writes a links table"),
    ("build heart.h5", "is an HDF5 file, expected a links table"),
    ("build study/link.csv", "line 1: no column patient, dicom_path"),
    ("build links.csv --root folder", "lies outside folder"),
    ("info nowhere.h5", "No such file"),
    ("info links.csv", "is a text file, expected a store"),
    ("verify nowhere.h5", "No such file"),
    ("verify links.csv", "is a text file, expected a store"),
    ("split nowhere.h5 --folds 2", "No such file"),
    ("show nowhere.h5", "No such file"),
    ("show heart.h5 --augment nowhere.json", "No such file"),
    ("bench nowhere.h5", "No such file"),
]


def has_value(option):
    return option.param_type_name == "option" and not option.is_flag


@pytest.mark.parametrize(("words", "text"), USAGE_ERRORS)
def test_a_usage_error_has_status_2(call, built, monkeypatch, words, text):
    """It is one line that says what was expected, and nothing is written."""
    monkeypatch.chdir(built)
    before = sorted(built.iterdir())
    done = call(words)
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert text in line
    assert sorted(built.iterdir()) == before


def test_each_option_is_tried_with_a_wrong_value():
    """The table above names every option of every command that has a value."""
    listed = {
        (name, option.opts[0])
        for name, command in typer.main.get_command(app).commands.items()
        for option in command.params
        if has_value(option)
    }
    assert set(WRONG_VALUES) == listed


@pytest.mark.parametrize(("words", "text"), INPUT_ERRORS)
def test_missing_or_damaged_input_has_status_1(call, built, monkeypatch, words, text):
    """It is one line, without a traceback."""
    monkeypatch.chdir(built)
    done = call(words)
    assert (done.status, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert text in line


def test_switches_stand_before_or_after_the_command(call, built, monkeypatch):
    """-v, -q and --debug do the same on both sides of the command."""
    monkeypatch.chdir(built)
    for words in ("-q info heart.h5", "info -q heart.h5", "-q info heart.h5 -q"):
        assert call(words) == (0, "", "")
    assert "patient PHANTOM0001" not in call("info heart.h5").out
    for words in ("--verbose info heart.h5", "info heart.h5 -v"):
        assert "patient PHANTOM0001" in call(words).out
    monkeypatch.setattr(sys, "argv", ["fastseg", "--debug", "link", "nowhere"])
    from fastseg.__main__ import main
    from fastseg.errors import LinkError

    with pytest.raises(LinkError):
        main()


def test_without_a_command_the_help_is_shown(call):
    """`fastseg` alone lists the commands, with the status of a usage error."""
    done = call("")
    assert done.status == 2
    assert "phantom" in done.out


def test_ctrl_c_is_one_line(call, monkeypatch):
    """Ctrl-C in the parser, before a command runs, has status 130."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.core.TyperGroup.make_context", interrupt)
    assert call("info heart.h5") == (130, "", "error: interrupted\n")


IMPORTING = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
runpy.run_module("fastseg", run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_ctrl_c_while_the_program_is_imported_is_one_line():
    """There is no traceback of the imports."""
    command = [sys.executable, "-c", IMPORTING]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "error: interrupted\n")
