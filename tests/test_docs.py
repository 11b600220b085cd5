"""README and docs: commands and code run, figures are measured, names exist."""

import doctest
import inspect
import logging
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
import typer.main

import fastseg
from fastseg.cli.main import app
from tests.conftest import PROJECT

README = PROJECT / "README.md"
DOCS = PROJECT / "docs"
BENCHMARKS = DOCS / "benchmarks.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
REFERENCE = sorted((DOCS / "reference").glob("*.md"))
# What runs, and what only shows how something looks or is installed.
RUN, SHOWN = {"console", "python"}, {"sh", "text"}


def read(path):
    return path.read_text(encoding="utf-8")


def name_of(path):
    return path.relative_to(PROJECT).as_posix()


def blocks_of(path):
    """Return (language, text) of the fenced blocks of a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```", read(path), re.DOTALL | re.MULTILINE)


def commands_of(block):
    """Yield (arguments, exit status, expected output) of a console block."""
    for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, output = text.partition("\n")
        status = re.search(r"# exit status (\d+)$", line)
        yield shlex.split(line, comments=True), int(status[1]) if status else 0, output


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the sample data, in which a page runs."""
    shutil.copytree(PROJECT / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def loggers():
    """Undoes what a page changes in the logging of this process."""
    handlers = logging.root.handlers.copy()
    yield
    logging.root.handlers[:] = handlers
    logging.getLogger("fastseg.compile").setLevel(logging.NOTSET)


def run_command(fastseg_command, arguments, status, output):
    program, *rest = arguments
    assert program == "fastseg"
    run = fastseg_command(*rest)
    assert run.returncode == status, run.stderr
    assert status or not run.stderr
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    same = doctest.OutputChecker().check_output(output, run.stdout, flags)
    assert same or not output, f"{shlex.join(arguments)} printed:\n{run.stdout}"


def run_page(path, fastseg_command):
    """Run the blocks of a page from top to bottom and return the Python scope."""
    scope = {}
    for language, block in blocks_of(path):
        assert language in RUN | SHOWN, language
        if language == "console":
            for arguments, status, output in commands_of(block):
                run_command(fastseg_command, arguments, status, output)
        elif language == "python":
            code = compile(block, name_of(path), "exec")
            if "torch" not in block or find_spec("torch"):
                exec(code, scope)
    return scope


def test_the_readme_runs_from_top_to_bottom(folder, fastseg_command, capsys):
    """It makes a table, a store and a picture, and prints what it says."""
    run_page(README, fastseg_command)
    names = {path.name for path in folder.iterdir()}
    assert {"links.csv", "heart.h5", "picture.png", "report.html", "good.h5"} <= names
    printed = capsys.readouterr().out
    assert "(96, 96) uint16" in printed
    assert "200 pixels" in printed


@pytest.mark.usefixtures("loggers")
@pytest.mark.parametrize(
    "path",
    [
        page
        for page in PAGES[1:]
        # tests/test_frameworks.py runs that page, as other packages warn.
        if {*dict(blocks_of(page))} & RUN and page.name != "frameworks.md"
    ],
    ids=name_of,
)
def test_each_page_runs_from_top_to_bottom(path, folder, store, fastseg_command):
    """Its commands and code print what it shows, and nothing warns."""
    if "fastseg build links.csv -o heart.h5" not in read(path):
        shutil.copy(store.path, folder / "heart.h5")
    run_page(path, fastseg_command)


def test_the_readme_is_short():
    """A reader has an overview after 200 lines; everything else stands in docs."""
    assert len(read(README).splitlines()) <= 200


@pytest.mark.parametrize(
    "table",
    [
        *("epoch_rate", "raster", "build", "loader", "augment", "compress", "scale"),
        *(f"structure_sets_{name}" for name in ("peers", "arrays", "link", "build")),
        *("volumes", "volumes_neighbours", "volumes_memory"),
        *("cluster_simulation", "concat", "parts"),
    ],
)
def test_the_tables_are_the_measured_ones(table):
    """The pages of benchmarks and clusters show what the benchmarks wrote."""
    measured = read(PROJECT / f"benchmarks/results/{table}.md").strip()
    page = read(DOCS / "clusters.md" if table == "cluster_simulation" else BENCHMARKS)
    assert f"<!-- {table} -->\n{measured}\n<!-- /{table} -->" in page


def test_the_speeds_of_the_readme_are_measured():
    """Each figure of its table of speeds is one of the page of benchmarks."""
    table = re.search(r"<!-- speeds -->(.*)<!-- /speeds -->", read(README), re.DOTALL)
    rows = [line.split("|")[2:-1] for line in table[1].strip().splitlines()[2:]]
    figures = [re.search(r"[\d.,]+\d", cell)[0] for row in rows for cell in row]
    assert len(figures) == 12
    measured = re.findall(r"[\d.,]+\d", read(BENCHMARKS))
    assert not {*figures} - {*measured}


def test_every_make_command_exists():
    """What a page tells to type is a target of the Makefile."""
    targets = re.findall(r"^([\w-]+):", read(PROJECT / "Makefile"), re.MULTILINE)
    pages = [*PAGES, PROJECT / "CONTRIBUTING.md"]
    named = {
        name for page in pages for name in re.findall("make ([a-z-]+)`", read(page))
    }
    assert {"docs", "test"} <= named <= {*targets}


@pytest.mark.parametrize("path", [*PAGES, PROJECT / "CONTRIBUTING.md"], ids=name_of)
def test_every_file_that_is_named_exists(path):
    """Links and paths lead somewhere, but for what `make docs` makes."""
    text = re.sub(r"^```.*?^```", "", read(path), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert "://" in link or (path.parent / link).exists(), link
    named = r"`((?:fastseg|benchmarks|examples|tests|docs)/[\w/.]+)`"
    for file in re.findall(named, text):
        assert file.startswith("docs/_build/") or (PROJECT / file).exists(), file


def test_nobody_is_told_to_install_a_strangers_package():
    """The package index has a foreign `fastseg`: no text asks to install that."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        data = (PROJECT / name).read_bytes() if (PROJECT / name).is_file() else b""
        assert not re.search(rb"fastseg\[[a-z]|pip install [\"']?fastseg\b", data), name


def test_the_reference_lists_every_public_name():
    """Each name of `__all__`, of augment, of geometry and of torch has its entry."""
    text = "\n".join(map(read, REFERENCE))
    listed = re.findall(r"^\.\. (?:auto|py:)\w+:: ([\w.]+)", text, re.MULTILINE)
    public = {*fastseg.__all__, *fastseg.augment.__all__} - {"__version__"}
    public |= {*fastseg.geometry.__all__}
    public -= {"augment", "dicom", "errors", "geometry"}  # which are pages
    public -= {"FastsegError"}  # which the page of errors lists, as it does all others
    public |= {"as_torch", "TorchLoader", "TorchBatch", "Dataset"}
    public |= {"read_header", "read_image", "Header", "Image"}
    assert not public - {*listed}


def test_the_page_of_the_command_line_names_every_option():
    """All commands and all their options are explained."""
    text = read(DOCS / "cli.md")
    for name, command in typer.main.get_command(app).commands.items():
        assert f"`fastseg {name} " in text
        shown = [given for given in command.params if not getattr(given, "hidden", 0)]
        for option in (option for given in shown for option in given.opts):
            assert not option.startswith("--") or f"`{option}`" in text, option


def test_the_page_of_the_loader_names_every_option():
    """All parameters of `Loader` stand in its tables."""
    text = read(DOCS / "loader.md")
    for name in [*inspect.signature(fastseg.Loader).parameters][1:]:
        assert f"`{name}`" in text, name


def test_the_page_of_volumes_names_every_option_of_patches():
    """All parameters of `PatchLoader` that `Loader` lacks stand in its table."""
    text = read(DOCS / "volumes.md")
    patches, samples = (
        {*inspect.signature(loader).parameters}
        for loader in (fastseg.PatchLoader, fastseg.Loader)
    )
    assert all(f"| `{name}` |" in text for name in patches - samples)


def test_the_page_of_augmentation_names_every_transform():
    """All transforms stand in its tables."""
    text = read(DOCS / "augmentation.md")
    for name in fastseg.augment.__all__:
        value = getattr(fastseg.augment, name)
        if isinstance(value, type) and value is not fastseg.augment.Transform:
            assert f"`{name}`" in text, name


def test_the_site_is_built_without_a_warning(tmp_path):
    """Sphinx reads all pages and docstrings, and finds nothing wrong."""
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    options = ["-W", "--keep-going", "-q", "-b", "html", "-d", tmp_path / "doctrees"]
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, DOCS, tmp_path / "html"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
