"""`fastseg warmup` compiles what is missing, says so, and compiles nothing twice."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastseg._kernels import jit
from fastseg._kernels.native import cache, catalogue, entries, machine, signatures
from tests.conftest import PROJECT
from tests.kernels.native import examples

if jit.INTERPRETED or not machine.uses_objects():
    pytest.skip("there is no object code here", allow_module_level=True)
REQUESTS = [
    (kernel.path, signatures.join(kernel.signatures[0]))
    for kernel in (examples.pour, examples.add_to_all)
]


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty cache; fastseg seems to have only the entries of `REQUESTS`."""
    monkeypatch.setenv(cache.SETTING, str(tmp_path / "cache"))
    monkeypatch.setattr(catalogue, "all_requests", lambda: REQUESTS)
    cache.own_folder.cache_clear()
    yield tmp_path / "cache"
    cache.own_folder.cache_clear()


def objects_in(folder):
    return sorted(folder.rglob("*.o"))


def test_all_that_is_missing_is_compiled_once(call, folder):
    """It says how many kernels, how large and where; the second time, that all is
    there."""
    (level, *_) = entries.levels()
    done = call("warmup")
    place = folder / cache.digest() / level
    assert (done.status, done.err) == (0, "")
    first, second = done.out.splitlines()
    assert first == f"compiling 2 kernels for {level}"
    assert re.fullmatch(
        rf"2 kernels for {level}, 0\.\d MB, in {re.escape(str(place))}", second
    )
    files = objects_in(folder)
    assert [file.parent for file in files] == [place, place]
    for path, signature in REQUESTS:
        assert cache.read(path, signature, [level])
    stamps = [file.stat().st_mtime_ns for file in files]
    assert call("warmup").out == f"nothing to compile: {second}\n"
    assert call("warmup -q") == (0, "", "")
    assert [file.stat().st_mtime_ns for file in files] == stamps


def test_other_levels_are_compiled_when_asked_for(call, folder):
    """Each level that is named, and no other one; the object is for that level."""
    words = ["warmup", "--cpu", "x86-64-v2", "--cpu", "x86-64", "--cpu", "x86-64-v2"]
    done = call([*words, "--json"])
    assert (done.status, done.err) == (0, "")
    levels = json.loads(done.out)["levels"]
    assert [(each["cpu"], each["kernels"], each["compiled"]) for each in levels] == [
        ("x86-64-v2", 2, 2),
        ("x86-64", 2, 2),
    ]
    for each in levels:
        place = folder / cache.digest() / each["cpu"]
        assert each["folders"] == [str(place)]
        sizes = [file.stat().st_size for file in place.glob("*.o")]
        assert each["bytes"] == sum(sizes)
        assert len(sizes) == 2
    assert len(objects_in(folder)) == 4
    again = json.loads(call([*words, "--json"]).out)["levels"]
    assert again == [each | {"compiled": 0} for each in levels]


def test_what_the_package_has_counts(call, folder, monkeypatch, tmp_path):
    """Objects of a wheel are not compiled again; those that it lacks are."""
    (level, *_) = entries.levels()
    monkeypatch.setattr(catalogue, "all_requests", lambda: REQUESTS[:1])
    call("warmup")
    package = tmp_path / "objects"
    (folder / cache.digest()).rename(package)
    monkeypatch.setattr(cache, "PACKAGE", package)
    place = package / level
    line = f"1 kernel for {level}, 0.0 MB, in {place}"
    assert call("warmup").out == f"nothing to compile: {line}\n"
    assert not objects_in(folder)
    monkeypatch.setattr(catalogue, "all_requests", lambda: REQUESTS)
    lines = call("warmup").out.splitlines()
    assert lines[:2] == [f"compiling 1 kernel for {level}", line]
    assert lines[2].endswith(str(folder / cache.digest() / level))
    assert len(objects_in(folder)) == 1


def test_a_damaged_object_is_compiled_again(call, folder, caplog):
    """A warning names the file."""
    call("warmup")
    (level, *_) = entries.levels()
    damaged = objects_in(folder)[0]
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1])
    done = call("warmup")
    assert f"{damaged} is cut off" in caplog.text
    assert done.out.startswith(f"compiling 1 kernel for {level}\n2 kernels")
    assert damaged.read_bytes() == content


def test_a_cache_that_cannot_be_used_is_an_error(call, folder, tmp_path):
    """One line says how to choose another folder."""
    folder.write_text("no folder")
    done = call("warmup")
    assert done.status == 1
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert f"Set {cache.SETTING} to a folder" in line


def test_where_nothing_can_be_compiled_it_says_so(call, folder, monkeypatch):
    """On other platforms, and where kernels run as Python; the status is 1."""
    monkeypatch.setattr(machine, "uses_objects", lambda: False)
    done = call("warmup")
    assert (done.status, done.out) == (1, "")
    assert "error: nothing can be compiled beforehand here" in done.err
    monkeypatch.setattr(jit, "INTERPRETED", True)
    done = call("warmup")
    assert (done.status, done.out) == (1, "")
    assert "NUMBA_DISABLE_JIT" in done.err


def test_a_wrong_level_in_the_environment_is_refused(call, folder, monkeypatch):
    """It names the variable and the levels."""
    monkeypatch.setenv("FASTSEG_CPU", "x86-64-v9")
    entries.levels.cache_clear()
    try:
        done = call("warmup")
    finally:
        entries.levels.cache_clear()
    assert done.status == 2
    assert "FASTSEG_CPU is 'x86-64-v9', expected one of 'x86-64-v4'" in done.err


PROGRAM = """
import sys
from fastseg._kernels.native import catalogue
catalogue.all_requests = lambda: {requests}
sys.argv = ["fastseg", "warmup"]
from fastseg.__main__ import main
try:
    main()
finally:
    print("numba" in sys.modules)
"""


def run_alone(tmp_path, requests, **more):
    """Start the command in a process of its own, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(requests=requests)],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": str(PROJECT), cache.SETTING: str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **more,
    )


def processes_of(session):
    """Return the IDs of the processes of a session that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(folder.name))
    return found


def test_the_process_itself_imports_no_numba(tmp_path):
    """numba is imported by the processes that compile."""
    process = run_alone(tmp_path, REQUESTS[:1])
    out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1] == "False"
    assert not processes_of(process.pid)


def test_ctrl_c_leaves_no_process_and_keeps_what_is_done(tmp_path):
    """It ends at once with status 130; no file is left that is not whole."""
    requests = [
        (kernel.path, signatures.join(kernel.signatures[0]))
        for kernel in catalogue.all_entries()
    ]
    process = run_alone(tmp_path, REQUESTS + requests)
    try:
        end = time.monotonic() + 100
        while len(processes_of(process.pid)) < 2 or not objects_in(tmp_path / "cache"):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, "error: interrupted\n")
    assert not processes_of(process.pid)
    left = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    for file in left:
        assert file.suffix in (".o", ".lock"), file
    kept = [
        json.loads(file.read_bytes().partition(b"\n")[0])
        for file in objects_in(tmp_path)
    ]
    assert kept
    assert all(
        (each["kernel"], each["signature"]) in REQUESTS + requests for each in kept
    )
