"""Wheels: one with object code inside, made as `make wheel` does, and the pure one.

Both are made from this project and tried in fresh environments, which find the other
packages where the tests do.
"""

import base64
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import filelock
import pytest

import fastseg
from fastseg._kernels import jit
from fastseg._kernels.contours import polygon
from fastseg._kernels.native import cache, entries, machine, signatures
from tests.conftest import PROJECT

pytest.importorskip("hatchling")
pytestmark = pytest.mark.skipif(
    jit.INTERPRETED or not machine.is_supported(), reason="there is no object code here"
)
SWITCH = "HATCH_BUILD_HOOK_ENABLE_CUSTOM"
# What decides where Python and fastseg look.
CHANGED = ("PYTHONPATH", "FASTSEG_CPU", "FASTSEG_CACHE_DIR")
NAME = f"fastseg_contours-{fastseg.__version__}"
DRAW = """
import sys
import fastseg
from fastseg._kernels.native import cache
corners = [(1.5, 1.5), (6.5, 1.5), (6.5, 4.5)]
mask = fastseg.rasterize(corners, shape=(6, 8))
print(fastseg.__file__, cache.digest(), int(mask.sum()), "numba" in sys.modules)
"""
COMPILE = """
import json, sys
from pathlib import Path
from fastseg._kernels.native import workers
workers.MOST_PROCESSES = 1
workers.compile_objects(json.loads(sys.argv[1]), sys.argv[2], Path("."), print)
"""


def request():
    """Return the one object of the wheel; the others would take minutes."""
    signature = signatures.join(polygon.fill_one.signatures[0])
    return polygon.fill_one.path, signature


def object_for(level):
    """Return its name in a wheel."""
    return f"fastseg/_kernels/objects/{level}/{cache.name_of(*request())}.o"


def build(target, folder, cwd=PROJECT, **environment):
    """Build a wheel or an sdist into a folder; return its path and what was printed."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder]
    clean = {name: text for name, text in os.environ.items() if name != SWITCH}
    done = subprocess.run(
        command, cwd=cwd, env=clean | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return path, done.stderr


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A wheel with the object code of one kernel; all processes of the tests use it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    with filelock.FileLock(base / "wheel.lock"):
        if not (base / "wheel.txt").exists():
            path, signature = request()
            options = {SWITCH: "true", "FASTSEG_WHEEL_ONLY": f"{path}({signature})"}
            _, printed = build("wheel", base / "wheel", **options)
            (base / "wheel.txt").write_text(printed)
    (path,) = (base / "wheel").iterdir()
    return path, (base / "wheel.txt").read_text()


@pytest.fixture(scope="module")
def wheel(built):
    return built[0]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel."""
    return install(wheel, tmp_path_factory.mktemp("environment"))


def install(wheel, folder):
    """Install a wheel into a new environment; return the folder of its packages."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    options = ["--disable-pip-version-check", "--quiet", "--no-deps", "--no-index"]
    command = ["-m", "pip", "--python", python, "install", *options, wheel]
    subprocess.run([sys.executable, *command], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith("-packages")]
    (packages / "others.pth").write_text("\n".join(others))
    return packages


def run(packages, code, cwd, empty, **environment):
    """Run code in an environment, in another folder; return the words it prints."""
    python = packages.parents[2] / "bin" / "python"
    clean = {
        n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "FASTSEG_CPU")
    }
    done = subprocess.run(
        [python, "-c", code],
        cwd=cwd,
        env=clean | {cache.SETTING: str(empty)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def names_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_it_is_a_wheel_for_linux_on_x86_64_and_any_python(wheel):
    """Its name and its tags say so, and it holds objects for two levels."""
    assert wheel.name == f"{NAME}-py3-none-manylinux_2_17_x86_64.whl"
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"{NAME}.dist-info/WHEEL").decode()
        names = archive.namelist()
    assert "Tag: py3-none-manylinux_2_17_x86_64\n" in text
    assert "Root-Is-Purelib: false\n" in text
    objects = [name for name in names if name.endswith(".o")]
    assert sorted(objects) == [*map(object_for, sorted(machine.IN_WHEELS))]
    assert len(names) == len({*names})


def test_its_record_is_right(wheel):
    """It lists each file with its size and hash, as installers check."""
    with zipfile.ZipFile(wheel) as archive:
        record = f"{NAME}.dist-info/RECORD"
        rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
        assert sorted(row[0] for row in rows) == sorted(archive.namelist())
        for name, digest, size in rows:
            content = archive.read(name)
            if name != record:
                hashed = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
                assert digest == f"sha256={hashed.decode().rstrip('=')}"
                assert int(size) == len(content)


def test_building_it_says_what_it_does_and_leaves_the_project_alone(built):
    """Each level, how many kernels, and the sizes."""
    wheel, printed = built
    for level in machine.IN_WHEELS:
        assert f"compiling 1 kernel for {level} ...\n" in printed
        assert f"1 kernel for {level}: 0." in printed
    assert f"{wheel}: {wheel.stat().st_size / 1e6:.2f} MB\n" in printed
    assert not cache.PACKAGE.exists()


def test_its_code_is_used_without_a_compiler_and_a_cache(installed, tmp_path):
    """From another folder; for each level; nothing is written, and numba not used."""
    before = names_below(installed)
    for level in machine.IN_WHEELS:
        if level in entries.levels():
            empty = tmp_path / "cache"
            path, digest, pixels, imports_numba = run(
                installed, DRAW, tmp_path, empty, FASTSEG_CPU=level
            )
            assert Path(path).is_relative_to(installed)
            assert digest == cache.digest()
            assert (pixels, imports_numba) == ("8", "False")
            assert not empty.exists()
    assert names_below(installed) == before


def test_the_package_may_be_moved_and_read_only(installed, tmp_path):
    """Object code does not know where it lies."""
    moved = tmp_path / "elsewhere" / "python"
    shutil.copytree(installed, moved, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*moved.rglob("*"), moved):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        path, _, pixels, imports_numba = run(
            installed, DRAW, tmp_path, tmp_path / "cache", PYTHONPATH=str(moved)
        )
        assert Path(path).is_relative_to(moved)
        assert (pixels, imports_numba) == ("8", "False")
        assert not (tmp_path / "cache").exists()
    finally:
        for path in (moved, *moved.rglob("*")):
            path.chmod(0o755)


def test_a_cache_may_be_copied(wheel, tmp_path):
    """What another process has compiled is used from a copy in another folder."""
    level = next(filter(machine.IN_WHEELS.__contains__, entries.levels()), None)
    if level is None:
        pytest.skip("this machine does not run the code of the wheel")
    place = tmp_path / "cache" / cache.digest() / level
    place.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        name = object_for(level)
        (place / Path(name).name).write_bytes(archive.read(name))
    copy = shutil.copytree(tmp_path / "cache", tmp_path / "copy")
    shutil.rmtree(tmp_path / "cache")
    pure, _ = build("wheel", tmp_path / "wheels")
    packages = install(pure, tmp_path / "environment")
    before = names_below(copy)
    _, _, pixels, imports_numba = run(packages, DRAW, tmp_path, copy, FASTSEG_CPU=level)
    assert (pixels, imports_numba) == ("8", "False")
    assert names_below(copy) == before


def test_object_code_depends_on_the_sources_alone(wheel, tmp_path):
    """Compiled in another folder, and after another kernel, it has the same bytes."""
    level = machine.IN_WHEELS[0]
    shutil.copytree(PROJECT / "fastseg", tmp_path / "project" / "fastseg")
    other = polygon.check_rings
    listed = [(other.path, signatures.join(other.signatures[0])), request()]
    place = tmp_path / "objects"
    place.mkdir()
    subprocess.run(
        [sys.executable, "-c", COMPILE, json.dumps(listed), level],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "project")},
        check=True,
    )
    name = object_for(level)
    with zipfile.ZipFile(wheel) as archive:
        assert (place / Path(name).name).read_bytes() == archive.read(name)


def test_without_the_switch_the_wheel_is_pure(tmp_path):
    """From the project as from its sdist: for any platform, with the same files."""
    pure, printed = build("wheel", tmp_path / "pure")
    assert pure.name == f"{NAME}-py3-none-any.whl"
    assert "compiling" not in printed
    archive, _ = build("sdist", tmp_path / "sdist")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    again, _ = build("wheel", tmp_path / "again", cwd=tmp_path / NAME)
    assert again.name == pure.name
    with zipfile.ZipFile(pure) as first, zipfile.ZipFile(again) as second:
        assert first.namelist() == second.namelist()
        assert not [name for name in first.namelist() if name.endswith(".o")]
        for name in first.namelist():
            assert first.read(name) == second.read(name)


def test_the_dockerfile_copies_what_a_wheel_needs(tmp_path):
    """What it copies makes the same wheel as the project; it switches the hook on."""
    text = (PROJECT / "examples" / "Dockerfile").read_text()
    assert f"RUN {SWITCH}=true pip wheel" in text
    copied = tmp_path / "project"
    copied.mkdir()
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            if (PROJECT / source).is_dir():
                shutil.copytree(PROJECT / source, copied / target)
            else:
                shutil.copy(PROJECT / source, copied / target)
    wheels = [
        build("wheel", tmp_path / name, cwd=folder)[0]
        for name, folder in (("there", PROJECT), ("here", copied))
    ]
    assert wheels[0].read_bytes() == wheels[1].read_bytes()


def test_a_kernel_that_is_not_there_is_no_wheel(tmp_path):
    """A misspelt name in FASTSEG_WHEEL_ONLY does not make a wheel without code."""
    options = {SWITCH: "true", "FASTSEG_WHEEL_ONLY": "fill_oen"}
    with pytest.raises(AssertionError, match="there is nothing to compile"):
        build("wheel", tmp_path / "wheel", **options)
