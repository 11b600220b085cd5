"""A closed store: the file is given back, and nothing reads unmapped memory."""

import gc
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import fastseg
from fastseg import Loader
from fastseg.errors import StoreError
from fastseg.loading.preprocessing import Preprocessing

OPTIONS = {"batch_size": 2, "size": 32, "missing": "background", "threads": 2}
# What reads a store, or a sample or a loader made before it was closed.
READS = {
    "store[i]": lambda s, x, loader: s[0],
    "iter": lambda s, x, loader: next(iter(s)),
    "items": lambda s, x, loader: s.items,
    "contours": lambda s, x, loader: s.contours,
    "sources": lambda s, x, loader: s.sources,
    "tables": lambda s, x, loader: s.tables,
    "volumes": lambda s, x, loader: s.volumes,
    "images": lambda s, x, loader: s.images,
    "patients": lambda s, x, loader: s.patients,
    "select": lambda s, x, loader: s.select(),
    "split": lambda s, x, loader: s.split({"a": 0.5, "b": 0.5}),
    "check": lambda s, x, loader: s.check(),
    "release": lambda s, x, loader: s.release(),
    "read_ahead": lambda s, x, loader: s.read_ahead(np.arange(2)),
    "stacks": lambda s, x, loader: list(s.stacks(np.arange(2))),
    "open_file": lambda s, x, loader: s.open_file(),
    "with": lambda s, x, loader: s.__enter__(),
    "pickle": lambda s, x, loader: pickle.dumps(s),
    "image": lambda s, x, loader: x.image,
    "mask_of": lambda s, x, loader: x.mask_of("icontour"),
    "sample.contours": lambda s, x, loader: x.contours,
    "meta": lambda s, x, loader: x.meta,
    "patient": lambda s, x, loader: x.patient,
    "plane": lambda s, x, loader: x.plane,
    "loop": lambda s, x, loader: next(iter(loader)),
    "new loader": lambda s, x, loader: Loader(s, **OPTIONS),
    "pickled loader": lambda s, x, loader: pickle.dumps(loader),
}


@pytest.fixture
def opened(store):
    """A second Store of the shared file, which tests may close."""
    return fastseg.open(store.path)


def is_mapped(path):
    return str(path) in Path("/proc/self/maps").read_text()


def descriptors(path):
    links = list(Path("/proc/self/fd").iterdir())
    # That of the listing itself is gone.
    return sum(link.exists() and link.readlink() == path for link in links)


@pytest.mark.parametrize("name", READS)
def test_reading_a_closed_store_raises(opened, name):
    """Each way to read it raises StoreError that says how to open it again."""
    sample, loader = opened[0], Loader(opened, **OPTIONS)
    opened.close()
    with pytest.raises(StoreError, match=r"was closed; open it again with fastseg.op"):
        READS[name](opened, sample, loader)


def test_what_is_no_array_stays(opened):
    """Length, classes and fingerprint can be read; closing twice does nothing."""
    before = (len(opened), opened.classes, opened.fingerprint, opened.buckets)
    assert not opened.is_closed
    for _ in range(2):
        opened.close()
    assert (len(opened), opened.classes, opened.fingerprint, opened.buckets) == before
    assert opened.is_closed
    assert opened.state == "closed"


def test_a_with_block_closes(store):
    """The store is closed however the block is left."""
    with fastseg.open(store.path) as first:
        assert len(first[0].image)
    assert first.is_closed
    with pytest.raises(KeyError), fastseg.open(store.path) as second:
        raise KeyError
    assert second.is_closed


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_map_and_the_descriptor_are_released(small_study, tmp_path):
    """They go with the last array, not before; a loader and its batches hold none."""
    path = fastseg.build(fastseg.link(small_study), tmp_path / "s.h5").path
    gc.collect()
    assert (is_mapped(path), descriptors(path)) == (False, 0)
    opened = fastseg.open(path)
    loader = Loader(opened, **OPTIONS)
    batch = next(iter(loader))
    image = opened[0].image
    expected = image.copy()
    opened.close()
    assert is_mapped(path)
    np.testing.assert_array_equal(image, expected)
    del image
    gc.collect()
    assert (is_mapped(path), descriptors(path)) == (False, 0)
    assert batch.image.shape[0] == loader.batch_size


def test_a_loop_whose_store_is_closed_by_another_thread_ends(opened, monkeypatch):
    """While kernels read, the memory stays mapped; then the loop raises StoreError."""
    loader = Loader(opened, **(OPTIONS | {"on_error": "skip"}))
    fill = Preprocessing.fill
    is_filling, is_closed = threading.Event(), threading.Event()

    def fill_slowly(self, *args):
        stacks = self.store.stacks

        def slow_stacks(*given):
            for stack in stacks(*given):
                is_filling.set()
                is_closed.wait(10)
                yield stack

        monkeypatch.setattr(self.store, "stacks", slow_stacks)
        return fill(self, *args)

    monkeypatch.setattr(Preprocessing, "fill", fill_slowly)

    def close():
        is_filling.wait(10)
        opened.close()
        gc.collect()
        is_closed.set()

    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(StoreError, match="was closed"):
        list(loader)
    closer.join()
    assert not loader.skipped


def test_many_loops_and_closings_at_once_do_not_crash(store):
    """At whatever moment the store is closed, the loop ends or raises StoreError."""

    def load(opened):
        for _ in range(10**6):
            for batch in Loader(opened, **OPTIONS):
                assert np.isfinite(batch.image).all()

    for delay in range(30):
        opened = fastseg.open(store.path)
        timer = threading.Timer(delay / 5000, opened.close)
        timer.start()
        with pytest.raises(StoreError, match="was closed"):
            load(opened)
        timer.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_closes_its_own_map(store):
    """The parent goes on to read what a child has closed."""
    script = (
        "import os, sys, fastseg\n"
        "store = fastseg.open(sys.argv[1])\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    store.close()\n"
        "    os._exit(0 if store.is_closed else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "print(store[0].image.sum())\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(store.path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"{store[0].image.sum()}\n"


def test_a_compressed_store_closes(small_study, tmp_path):
    """Its chunks are not read any more."""
    table = fastseg.link(small_study)
    path = fastseg.build(table, tmp_path / "s.h5", compress=True).path
    with fastseg.open(path) as opened:
        sample = opened[0]
        assert sample.image.any()
    with pytest.raises(StoreError, match="was closed"):
        _ = sample.image
