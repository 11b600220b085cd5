"""Imports run one way, by layer, and importing fastseg costs nothing."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import fastseg

PACKAGE = Path(fastseg.__file__).parent

# Each layer imports from itself and from those above it in this list. A folder is one
# name, whatever lies in it.
LAYERS = [
    {
        "fastseg",
        "arrays",
        "bounds",
        "calls",
        "choices",
        "colours",
        "errors",
        "escapes",
        "file_batches",
        "files",
        "findings_table",
        "notebook",
        "outputs",
        "paths",
        "progress",
        "randomness",
        "remote",
        "reprs",
        "tables",
        "tasks",
        "threads",
        "urls",
        "_kernels",
    },
    {"raster", "codecs", "dicom", "augment", "geometry"},
    {"links", "sources"},
    {"store"},
    {"ingest", "loading", "pictures", "sliding_windows"},
    {"torch", "benchmark", "phantom", "quality"},
    {"cli", "__main__"},
]
FORBIDDEN = {
    "codecs": {"h5py", "numba"},
    "dicom": {"h5py"},
    "store": {"pydicom"},
    "loading": {"pydicom", "h5py"},
    "_kernels": {"pydicom", "h5py", "rich", "typer"},
}


# The modules that import numba: only processes that compile need it.
NUMBA = {
    f"fastseg._kernels.native.{name}"
    for name in ("compiler", "intrinsics", "numba_kernels")
}


def top_name(module):
    """Return the first name of a module below fastseg, "fastseg" for the package."""
    return module.split(".")[1] if "." in module else module


def layer_of(module):
    layers = [k for k, names in enumerate(LAYERS) if top_name(module) in names]
    assert len(layers) == 1, f"{module} is in no layer: add it to LAYERS"
    return layers[0]


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


@cache
def imported_by(path):
    """Return the modules that a file imports, at its top or inside a function."""
    return tuple(find_imports(path))


def find_imports(path):
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
    """No module imports from a layer above its own."""
    for other in imported_by(path):
        if other.split(".")[0] == "fastseg":
            assert layer_of(other) <= layer_of(module), f"{module} imports {other}"


def test_no_imports_form_a_circle():
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


@pytest.mark.parametrize("name", FORBIDDEN)
def test_folders_keep_to_their_libraries(name):
    """`dicom` never imports h5py, `codecs` never numba, `store` never pydicom."""
    for module, path in modules():
        if top_name(module) == name:
            roots = {name.split(".")[0] for name in imported_by(path)}
            assert not roots & FORBIDDEN[name], module


def test_only_what_compiles_imports_numba():
    """All else runs without it, once object code is there."""
    users = {
        module
        for module, path in modules()
        if any(name.split(".")[0] == "numba" for name in imported_by(path))
    }
    # `external` functions of `system`, and entries of `jit`, are made when numba asks.
    assert users - {"fastseg._kernels.jit", "fastseg._kernels.files.system"} == NUMBA


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


# Some first uses of a process, and what they can do without; see HEAVY, too.
USES = {
    "rasterize": (
        "fastseg.rasterize([[1, 1], [9, 1], [5, 9]], (16, 16))",
        ["h5py", "xxhash", "fastseg.store", "concurrent.futures"],
    ),
    "plain": (
        "next(iter(fastseg.Loader(fastseg.open(store), size=64)))",
        ["filelock", "fastseg.augment", "fastseg.loading.augmented"],
    ),
    "augmented": (
        "next(iter(fastseg.Loader(fastseg.open(store), size=64, augment='standard')))",
        ["filelock"],
    ),
    "build": (
        "fastseg.build(fastseg.link(study), output)",
        ["fastseg.augment", "fastseg.loading", "numpy.random"],
    ),
}
HEAVY = ["numba", "numpy.ma", "pydicom", "typer", "rich", "html", "importlib.metadata"]


@pytest.mark.parametrize("use", USES)
def test_first_uses_import_what_they_need(use, sample_study, store, tmp_path):
    """Modules that take milliseconds to import are imported when they are needed."""
    call, others = USES[use]
    code = (
        f"import sys, fastseg; _, study, store, output = sys.argv; {call}; "
        f"print([m for m in {HEAVY + others} if m in sys.modules])"
    )
    paths = [sample_study, store.path, tmp_path / "new.h5"]
    for _ in range(2):  # the first one compiles what is missing
        paths[-1].unlink(missing_ok=True)
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, *map(str, paths)],
            capture_output=True,
            text=True,
            check=True,
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


def test_an_old_name_is_refused_with_the_new_one():
    """Whoever uses a name that was changed is told the name to use."""
    with pytest.raises(AttributeError, match=r"renamed: fastseg\.check_split"):
        _ = fastseg.prove_split
    with pytest.raises(fastseg.errors.RenamedError, match="is 'pad_value'") as caught:
        fastseg.Loader(None, pad=1)
    assert isinstance(caught.value, TypeError)


def test_an_old_attribute_is_refused_with_the_new_one(store, small_study, tmp_path):
    """So are attributes; a misspelt one is an ordinary AttributeError."""
    loader = fastseg.Loader(store, size=96, missing="background")
    with pytest.raises(AttributeError, match=r"renamed: Sample\.meta"):
        _ = store[0].facts
    with pytest.raises(AttributeError, match=r"renamed: Loader\.preprocessing"):
        _ = loader.recipe
    with pytest.raises(AttributeError, match=r"renamed: VerifyReport\.is_valid"):
        _ = fastseg.verify(store).is_sound
    report = fastseg.build(fastseg.link(small_study), tmp_path / "new.h5")
    with pytest.raises(AttributeError, match=r"renamed: BuildReport\.reused"):
        _ = report.kept
    with pytest.raises(AttributeError, match="no attribute 'imag'"):
        _ = store[0].imag
    assert not hasattr(loader, "nonsense")


def test_type_checkers_find_misspelt_names(tmp_path):
    """mypy sees which names fastseg has, and that the package is typed."""
    assert (PACKAGE / "py.typed").exists()
    script = tmp_path / "script.py"
    script.write_text("import fastseg\nfastseg.rasterize\nfastseg.rasterise\n")
    run = subprocess.run(
        [sys.executable, "-m", "mypy", str(script)],  # with the cache of the linter
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
    )
    found = [line for line in run.stdout.splitlines() if "script.py" in line]
    assert [line.split(":")[1] for line in found] == ["3"], run.stdout
    assert "rasterise" in found[0]


def test_extras_are_those_of_the_distribution():
    """Errors name the packages that pyproject.toml lists for an extra."""
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    listed = tomllib.loads(text)["project"]["optional-dependencies"]
    for extra, packages in fastseg.errors.EXTRAS.items():
        names = [re.match(r"[\w-]+", package)[0] for package in listed[extra]]
        assert tuple(names) == packages, extra


def test_a_module_whose_package_is_missing_says_how_to_install_it():
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
    expected = "fastseg.torch needs an optional package: pip install torch"
    assert run.stdout.strip() == expected
