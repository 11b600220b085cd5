"""One-line descriptions: what matters, never an error, never slow."""

import shutil

import h5py
import numpy as np
import pytest

import fastseg
from fastseg import Link, LinkTable, Loader, augment
from fastseg.reprs import MOST_CHARACTERS, MOST_COUNTED, listed, many, short
from fastseg.tables import Reject


@pytest.fixture
def copied(store, tmp_path):
    """A copy of the shared store, to be spoiled."""
    return fastseg.open(shutil.copy(store.path, tmp_path / "heart.h5"))


def test_a_store_says_what_it_holds(store):
    """Samples, patients, shapes and classes, in one line."""
    assert repr(store) == (
        "<Store heart.h5: 32 samples of 4 patients, 120x88 uint16, 96x96 uint16, "
        "classes icontour, ocontour, p1contour, p2contour>"
    )


def test_a_sample_says_what_it_shows(store):
    """Its shape, patient, and the pixels of each class."""
    sample = store[0]
    pixels = int(sample.mask_of("icontour").sum())
    assert repr(sample).startswith(
        "<Sample 0 of heart.h5: 96x96 uint16, patient PHANTOM0001, "
        f"icontour {pixels} pixels"
    )


def test_a_loader_says_what_it_loads(store):
    """Samples, batches, what a sample becomes, transforms and threads."""
    options = {"batch_size": 8, "size": 64, "masks": "icontour", "threads": 2}
    assert repr(Loader(store, **options)) == (
        "<Loader of heart.h5: 32 samples in 4 batches of 8, image float32 1x64x64, "
        "mask uint8 64x64 (icontour), 2 threads>"
    )
    steps = [augment.Flip(), augment.Gamma()]
    text = repr(Loader(store, rank=1, world_size=2, augment=steps, **options))
    assert "in 2 batches of 8, rank 1 of 2, image" in text
    assert ", augment Flip, Gamma, 2 threads>" in text


def test_a_table_says_what_it_links():
    """Links, images, patients, classes and rejects."""
    links = [
        Link("a", "1.dcm", "1.txt", label="inner"),
        Link("a", "1.dcm", "2.txt", label="outer"),
        Link("b", "2.dcm", "3.txt", label="inner"),
    ]
    table = LinkTable(base="data", links=links, rejects=[Reject("x", None, "bad")])
    assert repr(table) == (
        "<LinkTable data: 3 links of 2 images, 2 patients, classes inner 2, outer 1, "
        "1 reject>"
    )
    assert repr(LinkTable(base=".", links=[])) == (
        "<LinkTable .: 0 links of 0 images, 0 patients, classes none>"
    )


@pytest.mark.parametrize("how", ["closed", "changed"])
def test_reprs_of_what_cannot_be_read_do_not_raise(copied, how):
    """Those of a closed store and of a changed file say so, and read no array."""
    sample = copied[0]
    loader = Loader(copied, size=32, masks="icontour")
    if how == "closed":
        copied.close()
    else:
        copied.path.write_bytes(b"")
    assert repr(copied).startswith("<Store heart.h5: 32 samples, 120x88")
    assert repr(copied).endswith(f", {how}>")
    assert repr(sample) == f"<Sample 0 of heart.h5, which is {how}>"
    assert repr(loader).endswith(f"store {how}>")
    for shown in (copied, sample):
        html = shown._repr_html_()
        assert how in html
        assert "<img" not in html


def test_an_id_that_is_not_utf8_is_shown_in_escapes(copied):
    """A damaged ID is no error of a description."""
    path = copied.path
    copied.close()
    with h5py.File(path, "r+") as file:
        file["items/patient"][5] = b"a\xff\x1b"
    assert r"patient a\xff\x1b, icontour" in repr(fastseg.open(path)[5])


def test_a_store_of_many_samples_is_not_counted(store, monkeypatch):
    """Beyond MOST_COUNTED samples, nothing of their number is read for a repr."""
    opened = fastseg.open(store.path)
    opened._count = MOST_COUNTED + 1
    opened._items = None
    assert repr(opened).startswith(f"<Store heart.h5: {MOST_COUNTED + 1} samples, 120")


def test_a_notebook_shows_a_table_and_pictures(store):
    """Of a store: a summary, four samples and the classes; of a sample: a picture."""
    html = store._repr_html_()
    assert html.count("data:image/png;base64,") == 4
    for text in ("<th", "icontour on 32", "8 of 120x88 uint16", "edges half-open"):
        assert text in html
    assert store[3]._repr_html_().count("data:image/png;base64,") == 1


def test_text_from_outside_is_escaped_and_cut(store, tmp_path):
    """Control characters, tags and long names do not reach a terminal or a page."""
    path = tmp_path / "<b>\x1b[31m.h5"
    path.symlink_to(store.path)
    opened = fastseg.open(path)
    assert "\x1b" not in repr(opened)
    assert "<b>" not in opened._repr_html_()
    assert len(short("x" * 1000)) == MOST_CHARACTERS
    assert listed([f"c{k}" for k in range(64)]).endswith("c5, and 58 more")
    table = LinkTable(base="\x1b[31m", links=[])
    assert "\x1b" not in repr(table)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (fastseg.Store, {"path": 5}),
        (Loader, {"store": 5}),
        (LinkTable, {"base": ".", "links": [1]}),
    ],
)
def test_what_failed_to_be_made_has_a_line(kind, given):
    """In a failed `__init__`, as debuggers show it, an object has Python's own."""
    with pytest.raises((TypeError, ValueError)) as caught:
        kind(**given)
    frames = [each.frame.f_locals for each in caught.traceback]
    objects = [each["self"] for each in frames if type(each.get("self")) is kind]
    assert objects
    assert all(repr(each) == object.__repr__(each) for each in objects)


def test_numbers_of_things():
    """One has no ending; batches and classes have another one than samples."""
    assert many(1, "sample") == "1 sample"
    assert many(0, "sample") == "0 samples"
    assert many(2, "batch") == "2 batches"
    assert many(np.int64(3), "class") == "3 classes"
