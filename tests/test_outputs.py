"""Outputs replace only their own kind, and nothing is written through links."""

import os
import shutil
import stat
import subprocess
import sys
from functools import partial

import h5py
import pytest

import fastseg
from fastseg import outputs
from fastseg.errors import BuildError, OutputError, PathError, RejectedWarning
from fastseg.links import LinkTable
from fastseg.outputs import check_work, open_work, write_atomically
from fastseg.tables import REJECTS, Reject, rejects_path, save_rejects
from tests.structure_sets import make_contour, make_structure_set, save

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs the files of POSIX")
ROOT = pytest.mark.skipif(
    os.name == "nt" or os.geteuid() != 0, reason="needs to give files to other users"
)
WORK = tuple(f".partial{x}" for x in ("", ".journal", ".old", ".old.journal", ".index"))


@pytest.fixture
def links(small_study):
    """The links of the small study."""
    return fastseg.link(small_study)


@pytest.fixture
def small_store(links, tmp_path):
    """A store of the small study, opened."""
    folder = tmp_path / "opened"
    folder.mkdir()
    return fastseg.open(fastseg.build(links, folder / "s.h5").path)


@pytest.fixture(scope="module")
def rois(tmp_path_factory):
    """A folder with a structure set."""
    contour = make_contour([(0, 0, 0), (9, 0, 0), (9, 9, 0)])
    folder = tmp_path_factory.mktemp("rois")
    save(make_structure_set({"Heart": [contour]}), folder / "RS.dcm")
    return folder


@pytest.fixture
def write(links, small_store, rois):
    """Functions that write an output of each kind to a path."""
    parts = {"all": range(len(small_store))}
    return {
        "store": lambda path, **o: fastseg.build(links, path, **o).path,
        "links": lambda path, **o: links.save(path, **o),
        "split": lambda path, **o: fastseg.write_split(path, small_store, parts, **o),
        "picture": lambda path, **o: fastseg.show(
            small_store, path, count=1, dpi=20, **o
        ),
        "aliases": lambda path, **o: fastseg.list_rois(rois).save_aliases(path, **o),
    }


NAMES = {"store": "s.h5", "links": "l.csv", "split": "p.csv", "picture": "p.png"}
NAMES |= {"aliases": "a.toml"}
KINDS = pytest.mark.parametrize("kind", NAMES)


@KINDS
def test_an_output_replaces_its_own_kind_only(write, tmp_path, kind):
    """Each other kind, a note, a folder: refused and unchanged, unless it is forced."""
    target = tmp_path / NAMES[kind]
    target.touch()  # as mktemp does
    mine = write[kind](target).read_bytes()
    assert mine
    assert write[kind](target).read_bytes() == mine
    others = {other: tmp_path / f"other-{NAMES[other]}" for other in NAMES}
    for other, path in others.items():
        write[other](path)
    contents = [path.read_bytes() for other, path in others.items() if other != kind]
    header, *_ = others["links"].read_bytes().splitlines()
    contents += [b"mine", b"\n", b"\x89PNG\r\n\x1a\nmine", header[:-1], b"x" + header]
    for content in contents:
        target.write_bytes(content)
        with pytest.raises(OutputError, match=r"force") as caught:
            write[kind](target)
        assert str(target) in str(caught.value)
        assert target.read_bytes() == content
        assert write[kind](target, force=True).read_bytes() == mine
    target.unlink()
    target.mkdir()
    for force in (False, True):
        with pytest.raises(OutputError, match="is a folder"):
            write[kind](target, force=force)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_pictures_are_recognised_by_their_metadata(write, tmp_path, suffix):
    """A picture of each format is replaced, one that names another program is not."""
    path = write["picture"](tmp_path / f"p{suffix}")
    write["picture"](path)
    data = path.read_bytes()
    assert data.count(b"fastseg ") == 1
    path.write_bytes(data.replace(b"fastseg ", b"slowseg "))
    with pytest.raises(OutputError):
        write["picture"](path)


@pytest.mark.parametrize(
    ("damage", "is_replaced"),
    [
        (lambda file: file.attrs.__setitem__("version", 99), True),
        (lambda file: file.attrs.__delitem__("fingerprint"), True),
        (lambda file: file.__delitem__("items"), True),
        (lambda file: file.attrs.__delitem__("format"), False),
        (lambda file: file.attrs.__setitem__("format", "another"), False),
    ],
)
def test_a_store_is_recognised_by_its_format(write, tmp_path, damage, is_replaced):
    """A store of another version and a damaged one are replaced, other files not."""
    path = write["store"](tmp_path / "s.h5")
    sound = path.read_bytes()
    with h5py.File(path, "r+") as file:
        damage(file)
    damaged = path.read_bytes()
    if is_replaced:
        assert write["store"](path).read_bytes() == sound
    else:
        with pytest.raises(OutputError):
            write["store"](path)
        assert path.read_bytes() == damaged


def test_a_store_that_h5py_has_open_is_recognised(write, tmp_path):
    """A handle in this process does not hide what the file is."""
    path = write["store"](tmp_path / "s.h5")
    with h5py.File(path):
        write["store"](path)


def test_what_appears_during_the_work_is_not_replaced(links, tmp_path):
    """The target is looked at again at the rename; the work is kept."""
    path = tmp_path / "s.h5"

    def progress(label, total):
        path.write_text("mine")
        return fastseg.progress.silent(label, total)

    with pytest.raises(OutputError, match=r"s\.h5"):
        fastseg.build(links, path, progress=progress)
    assert path.read_text() == "mine"
    report = fastseg.build(links, path, force=True)
    assert report.reused == report.samples
    target = tmp_path / "r.csv"

    def write_slowly():
        with write_atomically(target, REJECTS) as (_, file):
            file.write(b"file,line,reason\n")
            target.write_text("mine")

    with pytest.raises(OutputError):
        write_slowly()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["r.csv", "s.h5"]


def test_a_failed_write_leaves_the_older_file(tmp_path):
    """An error in the block leaves the target and no temporary file."""
    target = tmp_path / "r.csv"
    save_rejects(tmp_path / "r", [Reject("a", None, "b")])
    (tmp_path / "r.rejects.csv").replace(target)
    before = target.read_bytes()

    def fail():
        with write_atomically(target, REJECTS) as (_, file):
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == before


@pytest.mark.parametrize("has_rejects", [False, True])
@pytest.mark.parametrize("kind", ["store", "links"])
def test_the_rejects_replace_no_other_file(links, tmp_path, kind, has_rejects):
    """A foreign file under that name stops the command first, and is never removed."""
    rejects = [Reject("x", None, "no")] * has_rejects
    table = LinkTable(base=links.base, links=links.links, rejects=rejects)
    path = tmp_path / NAMES[kind]
    listed = rejects_path(path)
    listed.write_text("mine")

    def write(**options):
        if kind == "links":
            return table.save(path, **options)
        return fastseg.build(table, path, **options)

    with pytest.raises(OutputError, match=r"rejects\.csv"):
        write()
    assert set(tmp_path.iterdir()) == {listed}
    assert listed.read_text() == "mine"
    if has_rejects and kind == "store":
        with pytest.warns(RejectedWarning):
            write(force=True)
    else:
        write(force=True)
    assert (listed.read_text() == "mine") == (not has_rejects)


@POSIX
@pytest.mark.parametrize("is_there", [False, True])
def test_the_rejects_are_written_through_no_link(links, tmp_path, is_there):
    """The user did not name that file, so a link there is refused, also if forced."""
    path = tmp_path / "s.h5"
    victim = tmp_path / "victim"
    if is_there:
        save_rejects(tmp_path / "other", [Reject("x", None, "no")])
        rejects_path(tmp_path / "other").rename(victim)
    rejects_path(path).symlink_to(victim)
    for write in (
        lambda **o: links.save(path, **o),
        partial(fastseg.build, links, path),
    ):
        for force in (False, True):
            with pytest.raises(OutputError, match="symbolic link"):
                write(force=force)
    assert victim.exists() == is_there
    assert not path.exists()


@ROOT
def test_another_users_link_is_not_followed(links, tmp_path):
    """A third user's link is refused, also behind ours; the folder owner's is not."""
    folder = tmp_path / "shared"
    folder.mkdir()
    os.chown(folder, 1000, -1)
    link = folder / "l.csv"
    link.symlink_to(tmp_path / "real.csv")
    os.lchown(link, 1001, -1)
    with pytest.raises(OutputError, match="of another user"):
        links.save(link)
    os.lchown(link, 1000, -1)
    assert links.save(link) == tmp_path / "real.csv"
    mine = folder / "mine.csv"
    mine.symlink_to("l.csv")
    assert links.save(mine) == tmp_path / "real.csv"
    os.lchown(link, 1001, -1)
    with pytest.raises(
        OutputError, match=r"l\.csv: is a symbolic link of another user"
    ):
        links.save(mine)


@POSIX
@pytest.mark.parametrize("suffix", [*WORK, ".partial.lock"])
@pytest.mark.parametrize("plant", ["symlink", "dangling", "hardlink", "fifo", "folder"])
@pytest.mark.parametrize("is_built", [False, True])
def test_a_build_writes_to_no_planted_file(links, tmp_path, suffix, plant, is_built):
    """Whatever has the name of a working file is named in an error, and unchanged."""
    path = tmp_path / "s.h5"
    if is_built:
        fastseg.build(links, path, origin="corner")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    planted = tmp_path / f"s.h5{suffix}"
    make = {
        "symlink": lambda: planted.symlink_to(victim),
        "dangling": lambda: planted.symlink_to(tmp_path / "nothing"),
        "hardlink": lambda: os.link(victim, planted),
        "fifo": lambda: os.mkfifo(planted),
        "folder": planted.mkdir,
    }
    make[plant]()
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(OutputError, match="remove it") as caught:
        fastseg.build(links, path)
    assert str(planted) in str(caught.value)
    assert victim.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == before


@ROOT
def test_a_build_resumes_from_nobody_elses_file(links, tmp_path):
    """A working file of a third user is refused; one of the folder's owner is used."""
    folder = tmp_path / "shared"
    folder.mkdir()
    os.chown(folder, 1000, -1)
    planted = folder / "s.h5.partial.journal"
    planted.touch()
    os.chown(planted, 1001, -1)
    with pytest.raises(OutputError, match="belongs to another user"):
        fastseg.build(links, folder / "s.h5")
    os.chown(planted, 1000, -1)
    assert fastseg.build(links, folder / "s.h5").samples


@POSIX
def test_a_working_file_is_opened_without_following(tmp_path):
    """A link that replaces a working file between check and opening is refused."""
    work = tmp_path / "work"
    os.close(outputs.create_work(work))
    os.close(open_work(work))
    assert stat.S_IMODE(work.stat().st_mode) == 0o600
    check_work(work)
    os.link(work, tmp_path / "second")
    for refused in (check_work, open_work, outputs.create_work):
        with pytest.raises(OutputError, match="another name"):
            refused(work)
    with pytest.raises(FileNotFoundError):
        open_work(tmp_path / "absent")


@POSIX
@KINDS
@pytest.mark.parametrize("is_there", [False, True])
def test_a_link_is_written_where_it_points(write, tmp_path, kind, is_there):
    """The link stays, the file behind it is written, and that path is returned."""
    expected = write[kind](tmp_path / f"x{NAMES[kind]}").read_bytes()
    real = tmp_path / "elsewhere" / f"real-{NAMES[kind]}"
    real.parent.mkdir()
    if is_there:
        write[kind](real)
    link = tmp_path / NAMES[kind]
    link.symlink_to(real)
    assert write[kind](link) == real
    assert link.is_symlink()
    if kind != "links":  # whose paths are relative to the folder of the link
        assert real.read_bytes() == expected
    else:
        assert LinkTable.load(link).rejects == ()
    assert list(real.parent.iterdir()) == [real]
    real.write_text("mine")
    with pytest.raises(OutputError):
        write[kind](link)
    assert real.read_text() == "mine"


@POSIX
@KINDS
def test_a_link_is_written_where_no_folder_is_yet(write, tmp_path, kind):
    """The folder that a link points into is made, as that of any output."""
    link = tmp_path / NAMES[kind]
    link.symlink_to(tmp_path / "new" / "deep" / NAMES[kind])
    assert write[kind](link) == link.readlink()
    assert link.is_symlink()


@POSIX
@KINDS
def test_links_in_a_circle_are_an_error(write, tmp_path, kind):
    """It names the link; nothing is written."""
    link = tmp_path / NAMES[kind]
    link.symlink_to(link)
    with pytest.raises(OSError, match=NAMES[kind]):
        write[kind](link)
    assert set(tmp_path.iterdir()) <= {link, tmp_path / "opened"}


@POSIX
@KINDS
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o664])
def test_an_output_keeps_the_mode_of_the_file_before(write, tmp_path, kind, mode):
    """Also if that was empty; a file under a new name has the mode of new files."""
    new = write[kind](tmp_path / NAMES[kind])
    (tmp_path / "new").touch()
    assert new.stat().st_mode == (tmp_path / "new").stat().st_mode
    for change in (lambda: None, lambda: new.write_bytes(b"")):
        new.chmod(0o600)
        change()
        new.chmod(mode)
        write[kind](new, **({"force": True} if kind == "store" else {}))
        assert stat.S_IMODE(new.stat().st_mode) == mode


@POSIX
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("is_forced_apart", [False, True])
def test_a_rebuilt_store_keeps_its_mode(study, tmp_path, compress, is_forced_apart):
    """Also with failed items and compression; no working file is open to others."""
    path = tmp_path / "s.h5"
    table = fastseg.link(study)
    if compress:
        pytest.importorskip("zstandard")
    fastseg.build(table, path, origin="corner")
    path.chmod(0o600)
    if is_forced_apart:  # an item fails, and the others are copied without gaps
        next(study.rglob("*.dcm")).write_bytes(b"no image")
    modes = set()

    def progress(label, total):
        for work in tmp_path.glob("s.h5.partial*"):
            if not work.name.endswith(".lock"):
                modes.add(stat.S_IMODE(work.stat().st_mode))
        return fastseg.progress.silent(label, total)

    before = path.read_bytes()
    if is_forced_apart:
        with pytest.warns(RejectedWarning):
            fastseg.build(table, path, compress=compress, progress=progress)
        assert stat.S_IMODE(rejects_path(path).stat().st_mode) == 0o600
    else:
        fastseg.build(table, path, compress=compress, progress=progress)
    assert path.read_bytes() != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert modes == {0o600}


@POSIX
def test_new_files_follow_the_umask(small_study, tmp_path):
    """Each output of the commands has the mode that the umask leaves."""
    script = f"""
import os, fastseg
os.umask(0o027)
table = fastseg.link({str(small_study)!r})
table.save("l.csv")
store = fastseg.open(fastseg.build(table, "s.h5").path)
fastseg.write_split("p.csv", store, dict(all=range(len(store))))
fastseg.show(store, "p.png", count=1, dpi=20)
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 4
    assert modes == {0o640}


def test_build_refuses_roots_outside_a_folder(study, tmp_path):
    """`root` limits where a table may point, and roots outside its folder are named."""
    table = tmp_path / "tables" / "l.csv"
    fastseg.link(study).save(table)
    path = tmp_path / "s.h5"
    report = fastseg.build(table, path, root=tmp_path)
    assert report.outer_roots == (study.resolve(),)
    assert fastseg.build(table, path, root=study).samples
    for folder in (table.parent, study / "dicoms"):
        with pytest.raises(PathError, match="outside"):
            fastseg.build(table, path, root=folder)
    with pytest.raises(fastseg.errors.OptionError, match="expected a folder"):
        fastseg.build(table, path, root=tmp_path / "absent")
    inside = fastseg.link(study).save(tmp_path / "l.csv")
    assert fastseg.build(inside, path).outer_roots == ()


@POSIX
def test_a_root_that_is_a_link_is_resolved(study, tmp_path):
    """A root inside the folder by name, and outside by a symbolic link, is refused."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "data").symlink_to(study)
    table = base / "l.csv"
    fastseg.link(study).save(tmp_path / "l.csv")
    text = (tmp_path / "l.csv").read_text()
    table.write_text(text.replace(study.name, "data"))
    report = fastseg.build(table, tmp_path / "s.h5")
    assert report.outer_roots == (study.resolve(),)
    with pytest.raises(PathError, match="outside"):
        fastseg.build(table, tmp_path / "s.h5", root=base)


def test_a_phantom_is_drawn_in_an_empty_folder_only(tmp_path):
    """A folder with a file in it, a file, or a link to nothing: refused, unchanged."""
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for target in (folder, folder / "notes.txt", link):
        with pytest.raises(BuildError, match="choose a new folder"):
            fastseg.make_phantom(target)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    shutil.rmtree(folder)
