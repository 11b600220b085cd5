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
    cache.own_folder.cache_clear()
    yield folder
    cache.own_folder.cache_clear()


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
        cache.own_folder.cache_clear()
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
        cache.own_folder.cache_clear()
        assert read() == code


@pytest.mark.usefixtures("shared_group")
def test_a_group_is_trusted_where_that_is_asked_for(file, monkeypatch):
    cache.configured_root().chmod(0o770)
    monkeypatch.setenv("FASTSEG_CACHE_TRUST", "group")
    cache.own_folder.cache_clear()
    assert read() == CODE
    cache.configured_root().chmod(0o702)
    cache.own_folder.cache_clear()
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


@pytest.mark.usefixtures("shared_group")
@pytest.mark.parametrize("part", [0, 1, 2])
def test_what_is_inside_counts_too(file, caplog, part):
    """The object, the folder of its level and that of its digest, as of a copy."""
    path = [file, *file.parents][part]
    path.chmod(0o707)
    cache.own_folder.cache_clear()
    assert read() is None
    assert f"everybody can write to {path}." in caplog.text


@pytest.mark.skipif(os.getuid() != 0, reason="only a folder of root's is like /tmp")
def test_a_folder_like_tmp_is_no_cache(file, caplog):
    """Another user may have made what is in it."""
    cache.configured_root().chmod(0o1777)
    cache.own_folder.cache_clear()
    with pytest.raises(cache.CacheError, match="everybody can write"):
        cache.make_folder(LEVEL)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_group_is_trusted_only_by_its_members(file, monkeypatch, caplog):
    monkeypatch.setenv("FASTSEG_CACHE_TRUST", "group")
    for group, code in ((os.getgid(), CODE), (54321, None)):
        os.chown(cache.configured_root(), 12345, group)
        cache.own_folder.cache_clear()
        assert read() == code
    assert "belongs to user 12345" in caplog.text


def test_a_link_is_followed_once(file, tmp_path, monkeypatch):
    """Who changes it later does not change where code is read."""
    link = tmp_path / "link"
    link.symlink_to(cache.configured_root())
    monkeypatch.setenv("FASTSEG_CACHE_DIR", str(link))
    cache.own_folder.cache_clear()
    assert read() == CODE
    assert cache.make_folder(LEVEL) == file.parent.resolve()
    link.unlink()
    link.symlink_to("/nowhere")
    assert cache.own_folder(LEVEL) is None
    link.unlink()
    link.symlink_to(file.parents[2])
    cache.own_folder.cache_clear()
    assert cache.own_folder(LEVEL) == file.parent.resolve()


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_folder_of_another_user_is_refused(file, caplog):
    os.chown(cache.configured_root(), 12345, 12345)
    cache.own_folder.cache_clear()
    assert read() is None
    assert "belongs to user 12345" in caplog.text


@pytest.mark.parametrize("kind", ["file", "below a file", "no such disk"])
def test_a_cache_that_cannot_be_is_named(tmp_path, monkeypatch, kind):
    (tmp_path / "file").write_text("")
    place = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "x"}
    monkeypatch.setenv("FASTSEG_CACHE_DIR", str(place.get(kind, Path("/proc/x"))))
    cache.own_folder.cache_clear()
    with pytest.raises(cache.CacheError, match="Set FASTSEG_CACHE_DIR to a folder"):
        cache.make_folder(LEVEL)
    cache.own_folder.cache_clear()


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
    names = ("0" * 20, "1" * 20, "2" * 20, "thesis-data-2025-new")
    old, used, fuller, other = (file.parents[2] / name for name in names)
    for path in (old, used, fuller, other):
        shutil.copytree(file.parents[1], path)
    (fuller / "note").write_text("")
    for path in (old, fuller, other):
        make_old(path)
    cache.remove_outdated(file.parent)
    assert not old.exists()
    assert (used / LEVEL / file.name).exists()
    assert [path.name for path in fuller.iterdir()] == ["note"]
    assert (other / LEVEL / file.name).exists()
    assert read() == CODE


def make_old(path):
    long_ago = time.time() - (cache.KEPT_DAYS + 1) * cache.DAY
    os.utime(path, (long_ago, long_ago))


def test_what_is_read_is_in_use(file):
    """Also if nothing is compiled any more."""
    make_old(file.parents[1])
    cache.own_folder.cache_clear()
    assert read() == CODE
    assert time.time() - file.parents[1].stat().st_mtime < cache.DAY


def test_a_relative_folder_stays_the_same(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTSEG_CACHE_DIR", "some cache")
    assert cache.configured_root() == tmp_path / "some cache"
    monkeypatch.chdir("/")
    assert cache.configured_root() == tmp_path / "some cache"


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
    assert "it is a file" in finished.stderr
    assert "it cannot be kept" in finished.stderr


def test_each_fault_of_the_cache_is_said_once(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    code = textwrap.dedent(CALL) + "examples.weigh(np.ones((2, 2)))\n"
    finished = call(file, code)
    assert not finished.returncode
    assert finished.stderr.count("This process compiles for itself alone") == 1


@pytest.mark.parametrize("options", [[], ["-I"]])
def test_no_module_of_the_current_folder_is_run(tmp_path, options):
    """As of a script that lies elsewhere."""
    (tmp_path / "json.py").write_text("raise SystemExit('a module of the user')")
    code = f"import sys; sys.path[:] = {sys.path!r}\n{textwrap.dedent(CALL)}"
    finished = subprocess.run(
        [sys.executable, "-P", *options, "-c", code.replace("\n", "\n" + IMPATIENT, 1)],
        cwd=tmp_path,
        env={**os.environ, "FASTSEG_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.stdout == "[2.0, 2.0, 2.0] False\n", finished.stderr


def test_a_process_forked_meanwhile_keeps_nobody_waiting(tmp_path):
    """It inherits the pipes to the processes that compile, and lives on."""
    code = """
        import os, threading, time
        from fastseg._kernels.native import entries, signatures, workers
        from tests.kernels.native import examples

        forked = []
        feed = workers._Team._feed
        def noted(self, process):
            forked.append(os.fork())
            if not forked[-1]:
                time.sleep(100)
                os._exit(0)
            feed(self, process)
        workers._Team._feed = noted
        request = examples.weigh.path, signatures.join(examples.weigh.signatures[0])
        start = time.monotonic()
        workers.compile_objects([request], entries.levels()[0])
        print(time.monotonic() - start < 90)
        os.kill(forked[0], 9)
    """
    finished = call(tmp_path / "cache", code)
    assert finished.stdout == "True\n", finished.stderr


def test_a_compiler_that_ends_between_two_kernels_is_an_error(tmp_path):
    code = """
        from fastseg._kernels.native import entries, signatures, workers
        from tests.kernels.native import examples

        feed = workers._Team._feed
        def killed(self, process):
            process.kill()
            process.wait()
            feed(self, process)
        workers._Team._feed = killed
        request = examples.weigh.path, signatures.join(examples.weigh.signatures[0])
        try:
            workers.compile_objects([request], entries.levels()[0])
        except workers.CompileError as exc:
            print(exc)
    """
    finished = call(tmp_path / "cache", code)
    assert finished.stdout.endswith("ended with status -9: it says nothing\n")


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
