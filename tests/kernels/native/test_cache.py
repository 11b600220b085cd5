"""Objects in the cache: whole, trusted, and of these sources; or they are not used."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from llvmlite import binding

from fastseg._kernels.jit import INTERPRETED
from fastseg._kernels.native import cache, machine, signatures
from fastseg.errors import OptionError
from tests.kernels.native import examples

pytestmark = pytest.mark.skipif(
    INTERPRETED or not machine.uses_objects(), reason="there is no object code here"
)

KERNEL = examples.add_to_all
TEXT = signatures.join(KERNEL.signatures[0])
LEVEL = "x86-64-v3"
VERSIONS = {"numba": "0.61", "llvmlite": "0.44"}
# An object file of this machine, as far as the cache looks.
CODE = cache.ELF.ljust(18, b"\0") + cache.X86_64 + bytes(range(256))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder for the cache."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("FASTSEG_CACHE_DIR", str(folder))
    monkeypatch.delenv("FASTSEG_CACHE_TRUST", raising=False)
    cache.root.cache_clear()
    yield folder
    cache.root.cache_clear()


@pytest.fixture
def file(folder):
    """An object in it."""
    return cache.write(
        cache.make_folder(LEVEL), KERNEL.path, TEXT, LEVEL, CODE, VERSIONS
    )


def read():
    return cache.read(KERNEL.path, TEXT, [LEVEL])


def test_an_object_is_read_as_it_was_written(file):
    assert read() == CODE
    manifest = json.loads(file.read_bytes().partition(b"\n")[0])
    assert manifest["kernel"] == KERNEL.path
    assert manifest["signature"] == TEXT
    assert manifest["level"] == LEVEL
    assert {"numba", "llvmlite", "sha256", "digest"} < set(manifest)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert cache.read(KERNEL.path, TEXT, ["x86-64-v4"]) is None
    assert cache.read(KERNEL.path, "int64", [LEVEL]) is None


def test_the_best_level_is_taken(file):
    better = CODE + b"better"
    cache.write(
        cache.make_folder("x86-64-v4"), KERNEL.path, TEXT, "x86-64-v4", better, VERSIONS
    )
    assert cache.read(KERNEL.path, TEXT, ["x86-64-v4", LEVEL]) == better
    assert cache.read(KERNEL.path, TEXT, [LEVEL, "x86-64-v4"]) == CODE


def with_manifest(content, **changed):
    line, _, code = content.partition(b"\n")
    return json.dumps({**json.loads(line), **changed}).encode() + b"\n" + code


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda content: content[:-1], "is cut off"),
        (lambda content: content + b"x", "is cut off"),
        (lambda content: content[:-1] + b"x", "has been altered"),
        (lambda content: b"", "does not begin with a manifest"),
        (lambda content: b"[]\n" + content, "does not begin with a manifest"),
        (lambda content: os.urandom(500), "does not begin with a manifest"),
        (lambda content: with_manifest(content, format=2), "has format 2"),
        (lambda content: with_manifest(content, kernel="x"), "is for another kernel"),
        (lambda content: with_manifest(content, level="x"), "is for another processor"),
    ],
)  # fmt: skip
def test_a_damaged_object_is_not_used_and_named(file, caplog, spoil, fault):
    file.write_bytes(spoil(file.read_bytes()))
    assert read() is None
    assert fault in caplog.text
    assert str(file) in caplog.text


def test_an_object_of_another_architecture_is_not_used(folder, caplog):
    arm = CODE[:18] + b"\xb7\0" + CODE[20:]
    cache.write(cache.make_folder(LEVEL), KERNEL.path, TEXT, LEVEL, arm, VERSIONS)
    assert read() is None
    assert "is for another processor" in caplog.text


def test_an_object_of_other_sources_is_not_used(file, monkeypatch, caplog):
    """As in a wheel whose files somebody has edited: that is no fault."""
    file.write_bytes(with_manifest(file.read_bytes(), digest="0" * 20))
    assert read() is None
    assert not caplog.records


def test_the_digest_is_of_all_sources(tmp_path, monkeypatch):
    """An edited callee, a new module and a renamed one change it."""
    copy = tmp_path / "fastseg" / "_kernels"
    shutil.copytree(cache.KERNELS, copy, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(cache.OTHER_SOURCES[0], copy.parent)
    monkeypatch.setattr(cache, "KERNELS", copy)
    monkeypatch.setattr(cache, "OTHER_SOURCES", (copy.parent / "bounds.py",))
    found = [cache.digest()]

    def note():
        cache.digest.cache_clear()
        found.append(cache.digest())

    try:
        note()
        assert found[0] == found[1]
        with (copy / "contours" / "exact.py").open("a") as callee:
            callee.write("# changed\n")
        note()
        (copy / "new.py").write_text("")
        note()
        (copy / "new.py").rename(copy / "newer.py")
        note()
        with (copy.parent / "bounds.py").open("a") as numbers:
            numbers.write("# changed\n")
        note()
    finally:
        monkeypatch.undo()
        cache.digest.cache_clear()
    assert len(set(found)) == len(found) - 1


@pytest.fixture
def shared_group(monkeypatch):
    """No group is the user's alone."""
    monkeypatch.setattr(cache, "_is_private", lambda group: False)


@pytest.mark.usefixtures("shared_group")
def test_a_cache_of_others_is_refused_with_a_remedy(file, caplog):
    for mode, who in ((0o702, "everybody"), (0o770, "a group")):
        cache.configured_root().chmod(mode)
        cache.root.cache_clear()
        caplog.clear()
        assert read() is None
        assert f"{who} can write to" in caplog.text
        assert "chmod go-w" in caplog.text
        with pytest.raises(cache.CacheError, match="could be changed by others"):
            cache.make_folder(LEVEL)


def test_a_group_of_the_user_alone_is_nobody_else(file, monkeypatch):
    """Many systems make one for each user, and let it write to new folders."""
    grp, pwd = pytest.importorskip("grp"), pytest.importorskip("pwd")
    user = pwd.getpwuid(os.getuid())
    other = grp.struct_group((user.pw_name, "x", user.pw_gid, ["somebody"]))
    alone = grp.struct_group((user.pw_name, "x", user.pw_gid, []))
    cache.configured_root().chmod(0o770)
    for group, code in ((alone, CODE), (other, None)):
        monkeypatch.setattr(grp, "getgrgid", lambda number, group=group: group)
        cache.root.cache_clear()
        assert read() == code


@pytest.mark.usefixtures("shared_group")
def test_a_group_is_trusted_where_that_is_asked_for(file, monkeypatch):
    cache.configured_root().chmod(0o770)
    monkeypatch.setenv("FASTSEG_CACHE_TRUST", "group")
    cache.root.cache_clear()
    assert read() == CODE
    cache.configured_root().chmod(0o702)
    cache.root.cache_clear()
    assert read() is None


def test_a_shared_cache_is_made_for_the_group(folder, monkeypatch):
    """Folders in it have the modes of the umask; else only its owner writes to them."""
    monkeypatch.setenv("FASTSEG_CACHE_DIR", str(folder / "shared"))
    before = os.umask(0o002)
    try:
        for trust, mode in (("", 0o755), ("group", 0o775)):
            monkeypatch.setenv("FASTSEG_CACHE_TRUST", trust)
            made = cache.make_folder(LEVEL)
            for part in (made, made.parent, made.parents[1]):
                assert part.stat().st_mode & 0o777 == mode
            shutil.rmtree(folder / "shared")
    finally:
        os.umask(before)


def test_a_folder_above_counts_too(folder, monkeypatch):
    """Who can rename a folder can put another in its place; not so in /tmp."""
    inner = folder / "a" / "b"
    inner.mkdir(mode=0o700, parents=True)
    monkeypatch.setenv("FASTSEG_CACHE_DIR", str(inner))
    folder.chmod(0o707)
    with pytest.raises(cache.CacheError, match="everybody can write"):
        cache.make_folder(LEVEL)
    if os.getuid() == 0:
        folder.chmod(0o1777)
        cache.make_folder(LEVEL)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_folder_of_another_user_is_refused(file, caplog):
    os.chown(cache.configured_root(), 12345, 12345)
    cache.root.cache_clear()
    assert read() is None
    assert "belongs to user 12345" in caplog.text


@pytest.mark.parametrize("kind", ["file", "below a file", "no such disk"])
def test_a_cache_that_cannot_be_is_named(tmp_path, monkeypatch, kind):
    (tmp_path / "file").write_text("")
    place = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "x"}
    monkeypatch.setenv("FASTSEG_CACHE_DIR", str(place.get(kind, Path("/proc/x"))))
    cache.root.cache_clear()
    with pytest.raises(cache.CacheError, match="Set FASTSEG_CACHE_DIR to a folder"):
        cache.make_folder(LEVEL)
    cache.root.cache_clear()


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("FASTSEG_CACHE_DIR", raising=False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    assert cache.configured_root() == tmp_path / "numba" / "fastseg"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    if sys.platform == "linux":
        assert cache.configured_root() == tmp_path / "home" / "fastseg"


def test_what_nobody_uses_is_removed(file):
    """Of other digests, after a month; never anything else in the folder."""
    old, used, other = (file.parents[2] / name for name in ("0" * 20, "1" * 20, "note"))
    for path in (old, used, other):
        path.mkdir()
        long_ago = time.time() - (cache.KEPT_DAYS + 1) * cache.DAY
        os.utime(path, (long_ago, long_ago))
    os.utime(used)
    cache.remove_outdated()
    assert not old.exists()
    assert used.exists()
    assert other.exists()
    assert read() == CODE


def test_a_level_is_chosen_among_those_of_the_machine(monkeypatch):
    runnable = machine.runnable_levels()
    assert runnable[-1] == "x86-64"
    monkeypatch.setenv("FASTSEG_CPU", "x86-64-v2")
    assert machine.runnable_levels() == ["x86-64-v2", "x86-64"]
    monkeypatch.setenv("FASTSEG_CPU", "x86-64-v9")
    with pytest.raises(OptionError, match="expected one of 'x86-64-v4', 'x86-64-v3'"):
        machine.runnable_levels()
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: {"sse2": True})
    monkeypatch.setenv("FASTSEG_CPU", "x86-64-v4")
    with pytest.raises(OptionError, match="FASTSEG_CPU is 'x86-64-v4'"):
        machine.runnable_levels()


CALL = """
    import sys
    import numpy as np
    from tests.kernels.native import examples

    values = np.zeros(3)
    examples.add_to_all(values, 2)
    print(values.tolist(), "numba" in sys.modules)
"""


# Says at once what is compiled, so that tests do not depend on how long it takes.
IMPATIENT = "from fastseg._kernels.native import workers; workers.PATIENCE = 0\n"


def call(folder, code=CALL, **environment):
    return subprocess.run(
        [sys.executable, "-c", IMPATIENT + textwrap.dedent(code)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "FASTSEG_CACHE_DIR": str(folder),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def objects_in(folder):
    return sorted(path for path in folder.rglob("*.o"))


def test_a_cache_copied_elsewhere_serves_there(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert call(first).stdout.split() == ["[2.0,", "2.0,", "2.0]", "False"]
    shutil.copytree(first, second)
    before = {path: path.stat().st_mtime_ns for path in objects_in(second)}
    finished = call(second)
    assert finished.stdout == "[2.0, 2.0, 2.0] False\n"
    assert not finished.stderr
    assert {p: p.stat().st_mtime_ns for p in objects_in(second)} == before


def test_a_damaged_object_is_compiled_again(tmp_path):
    folder = tmp_path / "cache"
    call(folder)
    [file] = objects_in(folder)
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    finished = call(folder)
    assert finished.stdout == "[2.0, 2.0, 2.0] False\n"
    assert "is cut off; it is compiled again" in finished.stderr
    assert file.read_bytes() == whole  # the same bytes from the same sources


def test_where_nothing_can_be_written_it_works_and_says_so(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    finished = call(file)
    assert finished.stdout == "[2.0, 2.0, 2.0] False\n"
    assert "Set FASTSEG_CACHE_DIR to a folder that can" in finished.stderr
    assert "it cannot be kept" in finished.stderr


def test_compiling_is_said_in_one_line_that_can_be_silenced(tmp_path):
    finished = call(tmp_path / "cache")
    [line] = finished.stderr.splitlines()
    assert "fastseg is compiling add_to_all for this machine, 0 of 1 done" in line
    assert str(tmp_path / "cache") in line
    quiet = "import logging; logging.getLogger('fastseg.compile').setLevel('ERROR')"
    finished = call(tmp_path / "other", f"{quiet}\n{textwrap.dedent(CALL)}")
    assert not finished.stderr


def test_a_level_that_this_machine_does_not_run_is_an_error(tmp_path):
    finished = call(tmp_path / "cache", FASTSEG_CPU="x86-64-v9")
    assert "FASTSEG_CPU is 'x86-64-v9'" in finished.stderr
    assert finished.returncode


def test_ctrl_c_while_compiling_leaves_no_process(tmp_path):
    code = """
        import os, signal, subprocess, sys, threading, time
        from fastseg._kernels.native import cache, entries, signatures, workers
        from tests.kernels.native import examples

        requests = [(k.path, signatures.join(k.signatures[0]))
                    for k in (examples.weigh, examples.echo, examples.pour)]
        threading.Timer(0.8, os.kill, (os.getpid(), signal.SIGINT)).start()
        children = []
        start = subprocess.Popen.__init__
        def noted(self, *args, **options):
            start(self, *args, **options)
            children.append(self)
        subprocess.Popen.__init__ = noted
        try:
            workers.compile_objects(requests, entries.levels()[0])
        except KeyboardInterrupt:
            print("interrupted", len(children), [c.poll() is None for c in children])
    """
    finished = call(tmp_path / "cache", code)
    assert finished.stdout.startswith("interrupted"), finished.stderr
    assert "True" not in finished.stdout
    assert not list((tmp_path / "cache").rglob("*.o-*"))


def test_a_compiler_that_is_killed_is_an_error(tmp_path):
    code = """
        import subprocess
        from fastseg._kernels.native import entries, signatures, workers
        from tests.kernels.native import examples

        start = subprocess.Popen.__init__
        def killed(self, *args, **options):
            start(self, *args, **options)
            self.kill()
        subprocess.Popen.__init__ = killed
        try:
            workers.compile_objects(
                [(examples.weigh.path, signatures.join(examples.weigh.signatures[0]))],
                entries.levels()[0],
            )
        except workers.CompileError as exc:
            print(exc)
    """
    finished = call(tmp_path / "cache", code)
    assert "ended with status -9" in finished.stdout, finished.stderr


def test_where_no_process_can_compile_numba_does(tmp_path):
    """As with a version of numba whose inner parts are others."""
    code = f"""
        import sys
        sys.executable = "/nowhere/python"
        {textwrap.indent(textwrap.dedent(CALL), " " * 8).strip()}
    """
    finished = call(tmp_path / "cache", code)
    assert finished.stdout == "[2.0, 2.0, 2.0] True\n", finished.stderr
    assert "numba compiles it in this process instead" in finished.stderr
    assert "/nowhere/python" in finished.stderr
