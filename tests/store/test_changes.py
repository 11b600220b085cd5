"""Files that change behind an open store: an error at every door, never a crash."""

import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastseg
from fastseg import Loader
from fastseg.errors import StoreError

# Each way to read a store, as Python code, with objects made before the change.
DOORS = {
    "store[i]": "s[0]",
    "iteration": "next(iter(s))",
    "image": "x.image.sum()",
    "mask": "x.mask.sum()",
    "mask_of": "x.mask_of('icontour')",
    "sample.contours": "x.contours",
    "meta": "x.meta",
    "patient": "x.patient",
    "items": "s.items['mean'].sum()",
    "contours": "s.contours['points'].sum()",
    "sources": "s.sources['size'].sum()",
    "tables": "s.tables",
    "volumes": "s.volumes",
    "plane": "x.plane",
    "images": "[v.sum() for v in s.images.values()]",
    "masks": "[v.sum() for v in s.masks.values()]",
    "patients": "s.patients",
    "patients again": "p",
    "select": "s.select(classes='icontour')",
    "split": "s.split({'a': 0.5, 'b': 0.5})",
    "check_split": "fastseg.check_split(s, {'a': [0], 'b': [1]})",
    "write_split": "fastseg.write_split('splits.csv', s, {'a': [0]}, by='sample')",
    "read_split": "fastseg.read_split('before.csv', s)",
    "compression_ratio": "s.compression_ratio",
    "Loader": "fastseg.Loader(s, batch_size=1, size=32)",
    "loop": "next(iter(l))",
    "running loop": "list(r)",
    "replay": "l.replay(b.params)",
    "Dataset": "fastseg.torch.Dataset(s, size=32)",
    "dataset[i]": "d[0]",
    "dataset[i, j]": "d.__getitems__([0, 1])",
    "show": "fastseg.show(s, 'picture.png', count=1)",
    "bench": "fastseg.bench(s, size=32, seconds=0.01, rounds=1)",
}
NOT_COMPRESSED = {"images", "masks", "compression_ratio"}

SCRIPT = """
import os, shutil, sys, time
import fastseg, fastseg.torch
path, how, doors = sys.argv[1], sys.argv[2], eval(sys.argv[3])
os.chdir(os.path.dirname(path))
fastseg.write_split('before.csv', fastseg.open(path), {'a': [0]}, by='sample')
content = open(path, 'rb').read()
failed = []
for name, code in doors.items():
    with open(path, 'wb') as file:
        file.write(content)
    s = fastseg.open(path)
    x = s[0]
    if name == 'patients again':
        s.patients
        code = 's.patients'
    l = fastseg.Loader(
        s, batch_size=1, size=32, augment='light', return_params=True, threads=1,
        missing='background', prefetch=1,
    )
    b = next(iter(l))
    fill, filled = l.preprocessing.fill, []
    l.preprocessing.fill = lambda *arrays: (fill(*arrays), filled.append(1))[0]
    r = iter(l)
    next(r)
    while len(filled) < 2:  # a read that goes on cannot see the change
        time.sleep(0.001)
    d = fastseg.torch.Dataset(s, size=32, missing='background')
    time.sleep(0.02)
    if how == 'cut':
        os.truncate(path, 4096)
    else:  # other bytes, the same size
        with open(path, 'wb') as file:
            file.write(open(sys.argv[4], 'rb').read())
    try:
        eval(code)
        failed.append(name)
    except fastseg.errors.StoreError as exc:
        if ('truncated' if how == 'cut' else 'changed') not in str(exc):
            failed.append((name, str(exc)))
    del s, x, l, b, r, d
left = [name for name in os.listdir() if name.startswith(('splits', 'picture'))]
sys.exit(str(failed + left) if failed + left else 0)
"""


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Two stores of the same size, of other pixels and masks."""
    folder = tmp_path_factory.mktemp("twins")
    for seed in (0, 1):
        study = fastseg.make_phantom(
            folder / f"study{seed}", patients=2, sizes=[40], phases=2, seed=seed
        )
        fastseg.build(fastseg.link(study), folder / f"{seed}.h5")
    sizes = [(folder / f"{seed}.h5").stat().st_size for seed in (0, 1)]
    with (folder / f"{np.argmin(sizes)}.h5").open("ab") as file:
        file.write(bytes(abs(sizes[0] - sizes[1])))
    return folder / "0.h5", folder / "1.h5"


@pytest.mark.parametrize("compress", [False, True], ids=["mapped", "compressed"])
@pytest.mark.parametrize("how", ["cut", "replaced"])
def test_every_door_sees_a_change(twins, study, tmp_path, how, compress):
    """All that reads a store raises StoreError, in a process that stays alive."""
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    path = tmp_path / "s.h5"
    doors = dict(DOORS)
    if compress:
        fastseg.build(fastseg.link(study), path, compress=True)
        for name in NOT_COMPRESSED:
            del doors[name]
    else:
        shutil.copy(twins[0], path)
        del doors["compression_ratio"]  # it is 1 without a look at the file
    arguments = [path, how, repr(doors), twins[1]]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture
def path(twins, tmp_path):
    return shutil.copy(twins[0], tmp_path / "s.h5")


def test_a_change_during_a_loop_is_an_error(path, twins):
    """No batch of other bytes is yielded, also if it was made before the change."""
    loader = Loader(fastseg.open(path), batch_size=1, missing="background")
    running = iter(loader)
    next(running)
    time.sleep(0.02)
    with path.open("r+b") as file:  # not cut first, because threads may still read it
        file.write(twins[1].read_bytes())
    with pytest.raises(StoreError, match="changed"):
        next(running)


def test_a_new_time_of_modification_is_a_change(path):
    """The bytes are not compared: whoever writes a file touches it."""
    store = fastseg.open(path)
    os.utime(path)
    with pytest.raises(StoreError, match="was changed while it was in use"):
        store.check()
    assert not store.is_unchanged
    assert fastseg.open(path).is_unchanged


@pytest.mark.skipif(os.name == "nt", reason="the status change time of POSIX")
@pytest.mark.parametrize(
    "touch",
    [
        lambda path: path.chmod(0o600),
        lambda path: os.link(path, path.with_suffix(".copy")),
        lambda path: path.rename(path.with_suffix(".moved")),
        lambda path: path.unlink(),
    ],
    ids=["chmod", "link", "rename", "unlink"],
)
def test_a_change_of_status_alone_is_none(path, touch, monkeypatch):
    """The attributes are compared once, and the store is used on."""
    store = fastseg.open(path)
    total = store[0].image.sum()
    time.sleep(0.02)
    touch(path)
    reads = []
    read = store._file._read_attributes
    monkeypatch.setattr(
        store._file, "_read_attributes", lambda: (reads.append(1), read())[1]
    )
    assert store[0].image.sum() == total
    assert len(store.patients) == 2
    assert len(reads) == 1


@pytest.mark.skipif(os.name == "nt", reason="the status change time of POSIX")
def test_other_bytes_with_the_old_time_are_seen(path, twins):
    """A copy that sets the time of modification back has another fingerprint."""
    store = fastseg.open(path)
    before = path.stat()
    time.sleep(0.02)
    path.write_bytes(twins[1].read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(StoreError, match="was changed"):
        store.patients  # noqa: B018


def test_a_replaced_name_matters_when_it_is_opened_again(path, twins, tmp_path):
    """After a rename over its name, a store reads the old file; a copy refuses."""
    store = fastseg.open(path)
    total = store[0].image.sum()
    shutil.copy(twins[1], tmp_path / "new.h5")
    time.sleep(0.02)
    (tmp_path / "new.h5").replace(path)
    assert store[0].image.sum() == total
    assert (
        len(list(Loader(store, batch_size=4, missing="background"))) == len(store) // 4
    )
    with pytest.raises(StoreError, match="another store"):
        pickle.loads(pickle.dumps(store))


def test_a_store_keeps_no_descriptor(path):
    """A store that is collected closes its file."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("needs /proc")

    def descriptors():
        # Those of other files may be closed meanwhile.
        real = os.path.realpath(path)
        return sum(os.path.realpath(one) == real for one in folder.iterdir())

    before = descriptors()
    stores = [fastseg.open(path) for _ in range(5)]
    assert descriptors() >= before + 5
    del stores
    assert descriptors() == before
