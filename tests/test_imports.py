"""The house: imports run one way, and importing fastseg costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastseg

PACKAGE = Path(fastseg.__file__).parent

# Rooms by floor; a room imports from its own floor and those below it.
FLOORS = [
    {"fastseg", "fastseg.errors"},
    {"fastseg.files", "fastseg.progress", "fastseg.spool"},
    {"fastseg._kernels"},
    {"fastseg.raster", "fastseg.distance", "fastseg.areas", "fastseg.dicom"},
    {"fastseg.links", "fastseg.sources", "fastseg.store", "fastseg.augment"},
    {"fastseg.ingest.images", "fastseg.ingest.plan"},
    {"fastseg.ingest.item"},
    {"fastseg.ingest.inputs"},
    {"fastseg.ingest.fast_path"},
    {"fastseg.ingest.comparing"},
    {"fastseg.ingest.builder", "fastseg.loading"},
    {"fastseg.pictures", "fastseg.phantom", "fastseg.benchmark", "fastseg.torch"},
    {"fastseg.cli.terminal"},
    {"fastseg.cli.data", "fastseg.cli.store"},
    {"fastseg.cli"},
]
FORBIDDEN = {
    "fastseg.dicom": {"h5py"},
    "fastseg.store": {"pydicom"},
    "fastseg.loading": {"pydicom", "h5py"},
    "fastseg._kernels": {"pydicom", "h5py", "rich", "typer"},
}


def room_of(module):
    """Return the room that a module belongs to: its package below fastseg, if any."""
    return ".".join(module.split(".")[:2])


def floor_of(module):
    floors = [k for k, rooms in enumerate(FLOORS) if room_of(module) in rooms]
    assert len(floors) == 1, f"{module} stands on no floor: add it to FLOORS"
    return floors[0]


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def imported_by(path):
    """Return the modules that a file imports, at its top or inside a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                is_module = (PACKAGE.parent / below.replace(".", "/")).with_suffix(
                    ".py"
                )
                is_package = PACKAGE.parent / below.replace(".", "/") / "__init__.py"
                found = is_module.exists() or is_package.exists()
                yield below if found else node.module


@pytest.mark.parametrize(("module", "path"), list(modules()))
def test_imports_run_one_way(module, path):
    """No room imports from a floor above its own."""
    for other in imported_by(path):
        if other.split(".")[0] == "fastseg":
            assert floor_of(other) <= floor_of(module), f"{module} imports {other}"


def test_one_room_does_not_import_itself_in_a_circle():
    """The modules can be ordered so that each imports only earlier ones."""
    graph = {
        module: {o for o in imported_by(path) if o.startswith("fastseg.")}
        for module, path in modules()
    }
    done: set[str] = set()
    while len(done) < len(graph):
        ready = {m for m, needs in graph.items() if m not in done and needs <= done}
        assert ready, f"a circle among {sorted(set(graph) - done)}"
        done |= ready


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_keep_to_their_libraries(room):
    """`dicom` never imports h5py, `store` never pydicom, kernels neither."""
    for module, path in modules():
        if room_of(module) == room:
            roots = {name.split(".")[0] for name in imported_by(path)}
            assert not roots & FORBIDDEN[room], module


def test_importing_fastseg_imports_nothing_heavy():
    """`import fastseg` alone loads no numpy, numba, pydicom, h5py, typer or torch."""
    code = (
        "import sys, fastseg; print([m for m in "
        "('numpy', 'numba', 'pydicom', 'h5py', 'typer', 'rich', 'torch') "
        "if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_every_public_name_is_there_and_described():
    """All names of `__all__` resolve, are documented and stay what they are."""
    for name in fastseg.__all__:
        value = getattr(fastseg, name)
        assert value is getattr(fastseg, name)
        assert value.__doc__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fastseg.nonsense


def test_a_room_whose_package_is_missing_says_how_to_install_it():
    """Without torch, `fastseg.torch` is refused with one line, and the rest works."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import fastseg\n"
        "from fastseg import *\n"
        "try:\n"
        "    fastseg.torch\n"
        "except fastseg.errors.MissingExtraError as exc:\n"
        "    print(exc)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    expected = 'fastseg.torch needs an optional package: pip install "fastseg[torch]"'
    assert run.stdout.strip() == expected
