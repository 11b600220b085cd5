"""Sources behind URLs: the same stores, bounded requests, errors without secrets."""

import filecmp
import http.server
import importlib
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import fastseg
from fastseg import dicom, remote
from fastseg.errors import (
    LinkError,
    MissingExtraError,
    NoAnswerError,
    NothingBuiltError,
    OptionError,
    PathError,
    RejectedWarning,
    RemoteError,
)
from fastseg.links import Link, LinkTable
from fastseg.urls import check_url, is_below, is_url, mounted, url_of
from tests.series import write_image

fsspec = pytest.importorskip("fsspec")
memory_module = pytest.importorskip("fsspec.implementations.memory")

pytestmark = pytest.mark.usefixtures("requests")
SECRET = "verysecret12345"
PHANTOM = Path(__file__).parents[1] / "data" / "phantom"


def upload(system, folder, url):
    """Copy a folder to memory://."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            system.pipe_file(f"{url}/{name}", path.read_bytes())


def same_files(one, other):
    return filecmp.cmp(one, other, shallow=False)


@pytest.mark.parametrize("kind", ["cine", "rtstruct"])
def test_a_store_of_urls_has_the_bytes_of_one_of_files(studies, kind, memory, tmp_path):
    """Files, URLs of them, and parts made of URLs give the same store."""
    upload(memory, studies[kind], "memory://bucket/study")
    fastseg.link(studies[kind]).save(tmp_path / "files.csv")
    fastseg.build(tmp_path / "files.csv", tmp_path / "files.h5")
    table = fastseg.link("memory://bucket/study")
    table.save(tmp_path / "urls.csv")
    assert "memory://bucket/study" in (tmp_path / "urls.csv").read_text()
    report = fastseg.build(tmp_path / "urls.csv", tmp_path / "urls.h5", threads=2)
    assert report.outer_roots == ("memory://bucket/study",)
    assert same_files(tmp_path / "files.h5", tmp_path / "urls.h5")
    plan = fastseg.plan_parts(tmp_path / "urls.csv", tmp_path / "parts.h5")
    for part in ("2/2", "1/2"):
        fastseg.build_part(plan, part)
    report = fastseg.finish_parts(plan)
    assert report.outer_roots == ("memory://bucket/study",)
    assert same_files(tmp_path / "files.h5", tmp_path / "parts.h5")
    again = fastseg.build(table, tmp_path / "urls.h5")
    assert again.reused == again.samples == report.samples


class Odd(memory_module.MemoryFileSystem):
    """memory:// whose objects are odd by their names, and that counts its requests."""

    protocol = "odd"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    cachable = False
    asked: ClassVar[list] = []
    lock = threading.Lock()
    busy = most_busy = 0
    delay = 0.0
    release = threading.Event()

    def info(self, path, **options):
        self.act(path)
        return super().info(path, **options)

    def cat_file(self, path, start=None, end=None, **options):
        cls = type(self)
        with cls.lock:
            cls.busy += 1
            cls.most_busy = max(cls.most_busy, cls.busy)
        time.sleep(cls.delay)
        try:
            self.act(path)
            data = super().cat_file(path, start, end, **options)
            cls.asked.append((path.rpartition("/")[2], start, len(data)))
            return data[: len(data) // 2] if "cut" in path else data
        finally:
            with cls.lock:
                cls.busy -= 1

    def act(self, path):
        text = f"https://user:{SECRET}@host/{path}?X-Amz-Signature={SECRET}"
        if "forbidden" in path:
            raise PermissionError(text)
        if "broken" in path:
            raise ValueError(text)
        if "silent" in path:
            self.release.wait(20)


@pytest.fixture
def odd(monkeypatch):
    """An empty file system behind odd://, quick attempts, and a short patience."""
    fsspec.register_implementation("odd", Odd, clobber=True)
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    monkeypatch.setenv("FASTSEG_REMOTE_TIMEOUT", "0.2")
    Odd.store.clear()
    Odd.pseudo_dirs[:] = [""]
    Odd.asked.clear()
    Odd.busy = Odd.most_busy = 0
    Odd.delay = 0.0
    Odd.release = threading.Event()
    yield Odd()
    Odd.release.set()


def odd_table(system, study, tmp_path, **names):
    """Upload a study to odd://b/s, and return a table that calls its images otherwise.

    names : the new name of an image, by what its old one ends with
    """
    upload(system, study, "odd://b/s")
    links = []
    for link in fastseg.link(study).links:
        path = f"odd://b/s/{link.dicom_path}"
        contour = f"odd://b/s/{link.contour_path}"
        for old, new in names.items():
            if link.dicom_path.endswith(f"/{old[1:]}.dcm"):
                data = (study / link.dicom_path).read_bytes()
                path = f"{path.rpartition('/')[0]}/{new}.dcm"
                if new != "missing":
                    system.pipe_file(path, data)
        links.append(
            link._replace(dicom_path=path, contour_path=contour, root="odd://b/s")
        )
    return LinkTable(base=tmp_path, links=links)


def test_objects_that_cannot_be_read_are_rejected_with_a_remedy(
    sample_study, odd, tmp_path
):
    """Missing, forbidden, cut and broken objects: the URL, why, and no secret."""
    names = {"_1": "missing", "_3": "forbidden", "_7": "cut", "_9": "broken"}
    table = odd_table(odd, sample_study, tmp_path, **names)
    with pytest.warns(RejectedWarning):
        report = fastseg.build(table, tmp_path / "x.h5")
    reasons = {}
    for reject in report.rejects:
        assert reject.file.startswith("odd://b/s/")
        if reject.file.endswith(".dcm"):
            name = reject.file.rpartition("/")[2].removesuffix(".dcm")
            reasons.setdefault(name, reject.reason)
    assert "no such object" in reasons["missing"]
    assert "give credentials" in reasons["forbidden"]
    assert "fewer bytes than it said" in reasons["cut"]
    assert "copy it again" in reasons["cut"]
    assert reasons["broken"] == "cannot be read: ValueError"
    assert report.samples == 32 - report.failed > 0
    written = (tmp_path / "x.h5.rejects.csv").read_text()
    assert SECRET not in written


def test_a_service_that_does_not_answer_ends_a_build_that_continues_later(
    sample_study, odd, tmp_path
):
    """After the last attempt a build ends, and its finished samples are kept."""
    links = list(odd_table(odd, sample_study, tmp_path).links)
    # An image of the shape that is built last.
    shapes = Counter((link.rows, link.columns) for link in links)
    shape = shapes.most_common()[0][0]
    last = next(x.dicom_path for x in links if (x.rows, x.columns) == shape)
    odd.pipe_file("odd://b/s/silent.dcm", odd.cat_file(last))
    silent = [
        x._replace(dicom_path="odd://b/s/silent.dcm") if x.dicom_path == last else x
        for x in links
    ]
    table = LinkTable(base=tmp_path, links=silent)
    start = time.perf_counter()
    with pytest.raises(
        NoAnswerError, match=r"odd://b/s/silent\.dcm: its service does n"
    ):
        fastseg.build(table, tmp_path / "x.h5")
    assert time.perf_counter() - start < 20
    assert not (tmp_path / "x.h5").exists()
    Odd.release.set()
    report = fastseg.build(table, tmp_path / "x.h5")
    assert report.samples == 32
    assert 0 < report.reused < 32


def test_an_object_that_comes_late_is_read(sample_study, odd, tmp_path, monkeypatch):
    """Half of the time that a request may take changes nothing."""
    monkeypatch.setenv("FASTSEG_REMOTE_TIMEOUT", "5")
    table = odd_table(odd, sample_study, tmp_path)
    Odd.delay = 0.02
    assert fastseg.build(table, tmp_path / "x.h5").samples == 32


def test_links_are_made_of_headers_alone(odd, tmp_path):
    """Of large images, `link` and `plan` read the beginnings."""
    for k in range(3):
        write_image(tmp_path / f"{k}.dcm", np.zeros((900, 900), np.uint16))
        odd.pipe_file(f"odd://b/s/{k}.dcm", (tmp_path / f"{k}.dcm").read_bytes())
    with pytest.raises(LinkError):
        fastseg.link("odd://b/other")
    Odd.asked.clear()
    table = fastseg.link("odd://b/s", slices="all")
    images = [size for name, _, size in Odd.asked if name.endswith(".dcm")]
    assert images
    assert max(images) <= 2**16
    # A table without what `link` writes: the build reads headers, too.
    bare = [Link(x.patient, x.dicom_path, root=x.root) for x in table.links]
    Odd.asked.clear()
    fastseg.plan_parts(LinkTable(base=tmp_path, links=bare), tmp_path / "x.h5")
    assert max(size for _, _, size in Odd.asked) <= 2**16


def test_compressed_images_are_fetched_once(sample_study, odd, tmp_path):
    """What a kernel cannot decode is handed on, and not fetched a second time."""
    pydicom = pytest.importorskip("pydicom")
    for k, path in enumerate(sorted((sample_study / "dicoms").rglob("*.dcm"))[:9]):
        dataset = pydicom.dcmread(path)
        dataset.compress(pydicom.uid.RLELossless)
        dataset.save_as(tmp_path / f"{k}.dcm")
        odd.pipe_file(f"odd://b/s/{k}.dcm", (tmp_path / f"{k}.dcm").read_bytes())
    table = fastseg.link("odd://b/s", slices="all")
    Odd.asked.clear()
    fastseg.build(table, tmp_path / "x.h5")
    names = [name for name, _, _ in Odd.asked]
    assert sorted(names) == [f"{k}.dcm" for k in range(9)]
    fastseg.link(tmp_path, slices="all").save(tmp_path / "files.csv")
    fastseg.build(tmp_path / "files.csv", tmp_path / "files.h5")
    assert same_files(tmp_path / "files.h5", tmp_path / "x.h5")


def test_requests_at_once_are_bounded(sample_study, odd, tmp_path, monkeypatch):
    """Requests run side by side, and never more than REQUESTS of them."""
    monkeypatch.setenv("FASTSEG_REMOTE_TIMEOUT", "20")
    monkeypatch.setattr(remote, "REQUESTS", 3)
    monkeypatch.setattr(remote, "_pool", remote._Pool())
    table = odd_table(odd, sample_study, tmp_path)
    Odd.delay = 0.005
    fastseg.build(table, tmp_path / "x.h5", threads=3)
    assert 2 <= Odd.most_busy <= 3


def test_bytes_fetched_ahead_are_bounded(odd, monkeypatch):
    """No more objects are fetched ahead than fit into AHEAD_BYTES."""
    monkeypatch.setattr(remote, "AHEAD_BYTES", 3000)
    for k in range(9):
        odd.pipe_file(f"odd://b/{k}", bytes([k]) * 900)
    urls = {k: f"odd://b/{k}" for k in range(9)}
    objects = remote.Ahead(urls)
    for k in range(9):
        found = objects.take(k, 10**9, 1000)
        assert found.data == bytes([k]) * 900
        assert len(Odd.asked) <= k + 3
    large = remote.Ahead({0: "odd://b/0"})
    assert large.take(0, 10**9, 800) is None


def test_what_is_kept_is_bounded_and_dropped(odd, monkeypatch):
    """A thread keeps KEPT_BYTES at most, and nothing after `keeping`."""
    monkeypatch.setattr(remote, "KEPT_BYTES", 2000)
    info = remote.Info(900, (900, 0, 0, 0), True)
    with remote.keeping():
        for k in range(4):
            remote._kept.put(f"odd://b/{k}", remote.Beginning(info, bytes(900)))
        held = [k for k in range(4) if remote._kept.get(f"odd://b/{k}")]
        assert held == [2, 3]
    assert remote._kept.get("odd://b/3") is None


def test_a_range_file_reads_as_a_file_does(odd, monkeypatch):
    """Reads and seeks give the same bytes as in memory, also of many ranges."""
    monkeypatch.setattr(remote, "RANGE_BYTES", 1000)
    monkeypatch.setattr(remote, "LEAST_BYTES", 100)
    random = np.random.default_rng(0)
    data = random.bytes(12345)
    odd.pipe_file("odd://b/x", data)
    with remote.RangeFile("odd://b/x") as file:
        for _ in range(200):
            start, size = random.integers(0, 13000, 2).tolist()
            assert file.seek(start) == start
            assert file.read(size) == data[start : start + size]
            assert file.tell() == min(start + size, max(start, 12345))
        file.seek(0)
        assert file.readall() == data
    assert remote.read_object("odd://b/x", 12345)[0] == data
    with pytest.raises(OSError, match="over the limit of 12344"):
        remote.read_object("odd://b/x", 12344)


def test_an_object_that_changes_while_it_is_read_is_refused(odd, monkeypatch):
    """Ranges of two versions are never joined."""
    monkeypatch.setattr(remote, "RANGE_BYTES", 1000)
    odd.pipe_file("odd://b/x", bytes(3000))
    first = remote.info_of
    monkeypatch.setattr(
        remote,
        "info_of",
        lambda url: (first(url), odd.pipe_file(url, b"1" * 3000))[0],
    )
    with pytest.raises(RemoteError, match="has changed while it was read"):
        remote.read_object("odd://b/x", 10**6)


REFUSED = {
    f"s3://user:{SECRET}@bucket/x": "a user or a password",
    f"s3://{SECRET}@bucket/x": "a user or a password",
    f"https://host/x.dcm?X-Amz-Signature={SECRET}": "a query",
    f"https://host/x.dcm#{SECRET}": "a query",
    "file:///etc": "may lead to files of this machine",
    "local://etc": "may lead to files of this machine",
    "simplecache::s3://bucket/x": "no URL|may lead",
    "zip://x::s3://bucket/x.zip": "may lead to files of this machine",
    "s3:///x": "without a host",
    "s3://bucket/../x": r"\.\. in its path",
    "https://host/a/%2e%2e/b": r"\.\. in its path",
    "s3://bucket//x": "an empty part",
}


@pytest.mark.parametrize("url", REFUSED)
def test_urls_with_secrets_and_of_local_files_are_refused(url, tmp_path):
    """Everywhere, and no message repeats what may be a secret."""
    with pytest.raises(PathError, match=REFUSED[url]) as caught:
        check_url("root", url)
    assert SECRET not in str(caught.value)
    if not is_url(url):
        return
    for call in (
        lambda: fastseg.link(url),
        lambda: dicom.read_header(url),
        lambda: fastseg.build(url, tmp_path / "x.h5"),
        lambda: LinkTable.load(url),
        lambda: LinkTable(base=".", links=[Link("P", url, root="s3://bucket")]),
        lambda: LinkTable(base=".", links=[Link("P", "s3://b/x", root=url)]),
    ):
        with pytest.raises(PathError) as caught:
            call()
        assert SECRET not in str(caught.value)


def test_a_row_with_a_secret_is_rejected_without_it(tmp_path):
    """Neither the rejects of a table nor what a build writes repeat it."""
    table = tmp_path / "links.csv"
    table.write_text(
        "patient,dicom_path,contour_path,label,root\n"
        f"P,https://u:{SECRET}@host/s/x.dcm,,,https://host/s\n"
        f"P,https://host/s/x.dcm?sig={SECRET},,,https://host/s\n"
        f"P,https://host/s/x.dcm,,,https://u:{SECRET}@host/s\n"
    )
    rejects = LinkTable.load(table).rejects
    assert [reject.line for reject in rejects] == [2, 3, 4]
    assert SECRET not in repr(rejects)
    with pytest.raises(NothingBuiltError) as caught:
        fastseg.build(table, tmp_path / "x.h5")
    assert SECRET not in str(caught.value)
    assert SECRET not in (tmp_path / "x.h5.rejects.csv").read_text()


def test_texts_of_services_are_in_no_traceback(odd):
    """What a service says may hold a signed URL: no part of the error has it."""
    import traceback

    odd.pipe_file("odd://b/forbidden", b"1")
    with pytest.raises(RemoteError) as caught:
        remote.info_of("odd://b/forbidden")
    exc = caught.value
    assert exc.__cause__ is None
    assert exc.__context__ is None
    assert SECRET not in "".join(traceback.format_exception(exc))


def test_urls_stay_below_their_roots(memory, studies, tmp_path):
    """A table cannot lead out of its roots, nor its roots out of `root`."""
    upload(memory, studies["cine"], "memory://bucket/study")
    table = fastseg.link("memory://bucket/study", labels="icontour")
    outside = [table.links[0]._replace(root="memory://bucket/stud")]
    with pytest.raises(NothingBuiltError, match="rejected"):
        fastseg.build(LinkTable(base=tmp_path, links=outside), tmp_path / "x.h5")
    assert "outside its root" in (tmp_path / "x.h5.rejects.csv").read_text()
    local = [table.links[0]._replace(root=".")]
    with pytest.raises(NothingBuiltError):
        fastseg.build(LinkTable(base=tmp_path, links=local), tmp_path / "x.h5")
    assert "the column root" in (tmp_path / "x.h5.rejects.csv").read_text()
    for root in ("memory://bucket/stud", "memory://other", tmp_path):
        with pytest.raises(PathError, match="outside"):
            fastseg.build(table, tmp_path / "x.h5", root=root)
    fastseg.link(studies["cine"]).save(tmp_path / "files.csv")
    with pytest.raises(PathError, match="outside"):
        fastseg.build(
            tmp_path / "files.csv", tmp_path / "x.h5", root="memory://bucket/study"
        )
    assert fastseg.build(table, tmp_path / "x.h5", root="memory://bucket").samples
    assert is_below("s3://b/a", "s3://b/a")
    assert not is_below("s3://b/ab", "s3://b/a")


def test_names_of_rois_are_listed_of_a_url(memory, studies):
    """The list is that of a copy, but for its root."""
    upload(memory, studies["rtstruct"], "memory://b/s")
    found = fastseg.list_rois("memory://b/s").as_dict()
    assert found == fastseg.list_rois(studies["rtstruct"]).as_dict() | {
        "root": "memory://b/s"
    }


def test_other_paths_are_no_urls(store, tmp_path, monkeypatch):
    """Stores and outputs are on disks: the error says so, and quotes no secret."""
    monkeypatch.chdir(tmp_path)
    url = f"s3://u:{SECRET}@b/x.h5"
    for call in (
        lambda: fastseg.open(url),
        lambda: fastseg.open(Path(url)),
        lambda: fastseg.build("links.csv", url),
        lambda: fastseg.verify(store.path, sources=url),
        lambda: LinkTable(base=tmp_path, links=[]).save(url),
    ):
        with pytest.raises(OptionError, match="is a URL, expected a path") as caught:
            call()
        assert SECRET not in str(caught.value)


def test_workers_read_objects(server, tmp_path):
    """Processes of an executor link and build what is behind URLs."""
    images = f"{server}/dicoms"
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        table = fastseg.link(images, slices="all", executor=pool)
        fastseg.build(table, tmp_path / "x.h5", executor=pool)
    assert table.links == fastseg.link(images, slices="all").links
    fastseg.build(table, tmp_path / "y.h5")
    assert same_files(tmp_path / "x.h5", tmp_path / "y.h5")


def test_a_table_behind_a_url_names_its_neighbours(memory, studies, tmp_path):
    """Relative paths in it are relative to its URL."""
    upload(memory, studies["cine"], "memory://bucket/data/study")
    study = tmp_path / "data" / "study"
    shutil.copytree(studies["cine"], study)
    for folder, name in (
        ("tables", "data/tables/links.csv"),
        ("study", "data/study/l"),
    ):
        path = tmp_path / "data" / folder / "links.csv"
        path.parent.mkdir(exist_ok=True)
        fastseg.link(study).save(path)
        memory.pipe_file(f"memory://bucket/{name}", path.read_bytes())
        table = LinkTable.load(f"memory://bucket/{name}")
        assert table.links == fastseg.link("memory://bucket/data/study").links
    fastseg.build("memory://bucket/data/tables/links.csv", tmp_path / "x.h5")
    memory.pipe_file("memory://bucket/odd.csv", b"a,b\n1,2\n")
    with pytest.raises(LinkError, match=r"memory://bucket/odd\.csv"):
        LinkTable.load("memory://bucket/odd.csv")
    with pytest.raises(RemoteError, match="no such object"):
        fastseg.build("memory://bucket/none.csv", tmp_path / "x.h5")


def test_an_object_that_cannot_be_in_a_table_is_named_by_link(memory, tmp_path):
    """One with ? in its name; the error has URLs and no temporary folder."""
    for name in ("a/x", "q?", "ok"):
        memory.pipe_file(f"memory://b/s/{name}", b"text")
    with pytest.raises(LinkError, match=r"memory://b/s: holds .*DICOM") as caught:
        fastseg.link("memory://b/s", slices="all")
    assert "fastseg-" not in str(caught.value)
    shutil.copy(next(PHANTOM.rglob("*.dcm")), tmp_path / "x.dcm")
    memory.pipe_file("memory://b/s/x.dcm", (tmp_path / "x.dcm").read_bytes())
    with pytest.warns(RejectedWarning, match="under memory://b/s"):
        table = fastseg.link("memory://b/s", slices="all")
    assert [reject.file for reject in table.rejects] == ["memory://b/s/q?"]
    assert "rename it" in table.rejects[0].reason


def test_missing_packages_are_named(monkeypatch):
    """The error says what to install, for fsspec and for a protocol."""
    registry = importlib.import_module("fsspec.registry").known_implementations
    monkeypatch.setitem(registry, "gs", {"class": "no_such_package.GS", "err": "?"})
    with pytest.raises(MissingExtraError, match="pip install gcsfs"):
        fastseg.link("gs://bucket/x")
    monkeypatch.setitem(registry, "own", {"class": "no_package.Own", "err": "?"})
    with pytest.raises(MissingExtraError, match="pip install no_package"):
        fastseg.link("own://bucket/x")
    with pytest.raises(OptionError, match="no protocol s4://"):
        fastseg.link("s4://bucket/x")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match="pip install fsspec"):
        fastseg.link("s3://bucket/x")


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", ""])
def test_the_timeout_is_checked(text, monkeypatch):
    """Only a number of seconds above 0 will do."""
    monkeypatch.setenv("FASTSEG_REMOTE_TIMEOUT", text)
    with pytest.raises(OptionError, match="FASTSEG_REMOTE_TIMEOUT"):
        remote.timeout()


def test_paths_in_a_mirror_stand_for_urls(tmp_path):
    """Only below its folder, and only while it is mounted."""
    with mounted(str(tmp_path), "s3://b/s"):
        assert url_of(tmp_path / "a" / "x.dcm") == "s3://b/s/a/x.dcm"
        assert url_of(f"{tmp_path}2/x.dcm") == ""
    assert url_of(tmp_path / "a") == ""
    assert not is_url("c://x")
    assert not is_url("folder/x")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, without ranges; some oddly."""

    def log_message(self, *_):
        pass

    def copyfile(self, source, target):
        if "cut" in self.path:
            target.write(source.read()[:-100])
        else:
            super().copyfile(source, target)

    def do_GET(self):
        if "forbidden" in self.path:
            self.send_error(403)
        elif "silent" in self.path:
            time.sleep(1.5)
        else:
            super().do_GET()


@pytest.fixture
def server(sample_study, tmp_path, monkeypatch):
    """A web server: the address of a copy of the sample study."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    shutil.copytree(sample_study, tmp_path / "web" / "study")

    def make(*args):
        return Handler(*args, directory=tmp_path / "web")

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), make)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}/study"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_study_on_a_web_server_is_linked_and_built(server, tmp_path):
    """By its index pages, though it knows no ranges; cut and forbidden are rejects."""
    fastseg.link(tmp_path / "web" / "study").save(tmp_path / "files.csv")
    fastseg.build(tmp_path / "files.csv", tmp_path / "files.h5")
    table = fastseg.link(server)
    fastseg.build(table, tmp_path / "urls.h5")
    assert same_files(tmp_path / "files.h5", tmp_path / "urls.h5")
    links = list(table.links)
    for k, name in enumerate(("cut", "forbidden")):
        old = links[8 * k].dicom_path
        new = f"{old.rpartition('/')[0]}/{name}.dcm"
        folder = tmp_path / "web" / "study"
        shutil.copy(folder / old[len(server) + 1 :], folder / new[len(server) + 1 :])
        links = [
            x._replace(dicom_path=new) if x.dicom_path == old else x for x in links
        ]
    with pytest.warns(RejectedWarning):
        report = fastseg.build(LinkTable(base=".", links=links), tmp_path / "x.h5")
    reasons = {r.file.rpartition("/")[2]: r.reason for r in report.rejects}
    assert "fewer bytes" in reasons["cut.dcm"]
    assert "access is denied" in reasons["forbidden.dcm"]


def test_a_web_server_that_is_silent_or_gone_ends_in_time(server, monkeypatch):
    """It does not answer, or nothing listens: an error that names the URL."""
    monkeypatch.setenv("FASTSEG_REMOTE_TIMEOUT", "0.3")
    with pytest.raises(NoAnswerError, match="does not answer in time"):
        remote.read_object(f"{server}/silent.dcm", 10**6)
    with pytest.raises(
        NoAnswerError, match=r"http://127.0.0.1:9/x: its service cannot"
    ):
        remote.read_object("http://127.0.0.1:9/x", 10**6)


@pytest.fixture
def bucket(sample_study, monkeypatch):
    """The URL of the sample study in S3, as moto imitates it."""
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    own = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    own.start()
    monkeypatch.setenv(
        "AWS_ENDPOINT_URL", "http://{}:{}".format(*own.get_host_and_port())
    )
    system = fsspec.filesystem("s3", use_listings_cache=False)
    system.mkdir("data")
    system.put(f"{sample_study}/", "data/study/", recursive=True)
    yield "s3://data/study"
    own.stop()


def test_a_bucket_is_linked_and_built_on_the_command_line(
    bucket, sample_study, tmp_path
):
    """Each command is a process of its own, and the store has the same bytes."""

    def run(*args):
        command = [sys.executable, "-m", "fastseg", *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert SECRET not in done.stdout + done.stderr
        assert not done.returncode, done.stderr
        return done.stdout

    run("link", bucket, "-o", "urls.csv")
    out = run("build", "urls.csv", "-o", "urls.h5", "--root", bucket)
    assert f"root: {bucket}" in out
    fastseg.link(sample_study).save(tmp_path / "files.csv")
    fastseg.build(tmp_path / "files.csv", tmp_path / "files.h5")
    assert same_files(tmp_path / "files.h5", tmp_path / "urls.h5")
    assert SECRET.encode() not in (tmp_path / "urls.h5").read_bytes()
    assert SECRET not in (tmp_path / "urls.csv").read_text()
