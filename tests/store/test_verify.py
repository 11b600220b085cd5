"""`verify` names all that has changed in a store, or in its original files."""

import errno
import hashlib
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from xxhash import xxh3_64_hexdigest

import fastseg
from fastseg.errors import OptionError, StoreError
from fastseg.store import layout, verify
from fastseg.store.reader import Store
from tests import steps

PROJECT = Path(__file__).parents[2]
MUTATIONS = 2000


@pytest.fixture
def copy(store, tmp_path):
    """A copy of the store, for tests that damage it."""
    return Path(shutil.copy(store.path, tmp_path / "copy.h5"))


def flip_bit(path, name, byte):
    """Flip a bit of one byte of a dataset."""
    offset = fastseg.open(path).offsets[name] + byte
    with path.open("r+b") as file:
        file.seek(offset)
        (value,) = file.read(1)
        file.seek(offset)
        file.write(bytes([value ^ 16]))


def arrays_of(store):
    """Return all datasets of a store by name."""
    pixels = () if store.compression else ("images", "masks")
    tables = (*pixels, "items", "contours", "sources")
    return {
        f"{table}/{name}": array
        for table in tables
        for name, array in getattr(store, table).items()
    }


def test_an_untouched_store_is_valid(store):
    """The report lists nothing, and every byte of every dataset was read once."""
    report = fastseg.verify(store)
    assert report.is_valid
    assert (report.damages, report.changed_sources) == ((), ())
    assert report.path == store.path
    assert report.fingerprint == store.fingerprint
    assert report.samples == len(store)
    assert report.bytes_read == sum(array.nbytes for array in arrays_of(store).values())
    assert fastseg.verify(str(store.path)) == report


def test_damage_is_named_with_its_sample(store, copy):
    """A flipped bit of an image, mask or vertex is reported with sample and file."""
    sample = store[9]
    name, row = sample.meta["bucket"], sample.meta["row"]
    flip_bit(copy, f"images/{name}", row * sample.image.nbytes + 5)
    flip_bit(copy, f"masks/{name}", (row + 1) * sample.mask.nbytes - 1)
    ring = store.items["contours"][9, 0]
    flip_bit(copy, "contours/points", int(store.contours["offsets"][ring]) * 16)
    flip_bit(copy, "items/mean", 3)
    report = fastseg.verify(copy)
    assert not report.is_valid
    meta = {(d.sample, d.patient, d.source) for d in report.damages[1:]}
    assert meta == {(9, sample.patient, sample.meta["source"])}
    assert [str(damage) for damage in report.damages] == [
        "items/mean differs from what was written",
        *(
            f"sample 9 ({sample.meta['source']}): {part} differs from what was written"
            for part in ("contours", "image", "mask")
        ),
    ]


def test_every_dataset_is_covered(store, copy):
    """A flipped bit of any dataset is reported for that part, or prevents opening."""
    draw = random.Random(0)
    whole = copy.read_bytes()
    refused = set()
    for name, array in arrays_of(store).items():
        for _ in range(3):
            copy.write_bytes(whole)
            flip_bit(copy, name, draw.randrange(array.nbytes))
            try:
                parts = {damage.part for damage in fastseg.verify(copy).damages}
            except StoreError:
                refused.add(name)
                continue
            part = {"images": "image", "masks": "mask", "contours": "contours"}
            table = name.split("/")[0]
            assert parts & {name, part.get(table)}, name
    assert refused <= {
        "items/bucket",
        "items/row",
        "items/source",
        "items/contours",
        "contours/offsets",
        "contours/item",
        "contours/class",
        "contours/source",
    }


@pytest.mark.parametrize(
    ("name", "old", "new", "part"),
    [
        ("classes", b"icontour", b"jcontour", "fingerprint"),
        ("options", b"half-open", b"closed   ", "fingerprint"),
        ("software", b"numpy", b"dumpy", "software"),
        ("checksums", b'"items/mean":"', b'"items/mean":"', "items/mean"),
        ("fingerprint", b"", b"", "fingerprint"),
    ],
)
def test_attributes_are_covered(copy, name, old, new, part):
    """A change of an attribute is reported."""
    with h5py.File(copy, "r+") as file:
        value = file.attrs[name]
        if name == "classes":
            changed = np.array([text.replace(old, new) for text in value], value.dtype)
        elif old != new:
            changed = value.replace(old, new)
        else:  # change the digit that follows
            k = value.index(old) + len(old)
            digit = b"1" if value[k : k + 1] == b"0" else b"0"
            changed = value[:k] + digit + value[k + 1 :]
        file.attrs.modify(name, changed)
    report = fastseg.verify(copy)
    assert part in {damage.part for damage in report.damages}


def test_h5py_and_the_format_give_the_checksums(store):
    """Checksums and fingerprint can be computed with h5py alone, as `layout` says."""
    with h5py.File(store.path) as file:
        checksums = {
            f"{table}/{name}": xxh3_64_hexdigest(file[table][name][()].tobytes())
            for table in ("items", "contours", "sources")
            for name in file[table]
        }
        del checksums["contours/points"]
        checksums["software"] = xxh3_64_hexdigest(file.attrs["software"])
    assert checksums == store.checksums
    assert store.checksums.keys() == layout.checksum_names(store.classes)
    content = {
        "version": layout.VERSION,
        "classes": list(store.classes),
        "buckets": list(store.buckets),
        "options": store.options,
        "checksums": {
            name: text
            for name, text in checksums.items()
            if name not in layout.PROVENANCE
        },
    }
    text = layout.canonical_json(content)
    assert store.fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_the_fingerprint_is_that_of_the_content(study, tmp_path):
    """It changes with pixels, vertices and classes, not with the folder of files."""
    path = tmp_path / "heart.h5"

    def fingerprint(**options):
        fastseg.build(fastseg.link(study, **options), path)
        assert fastseg.verify(path).is_valid
        return fastseg.open(path).fingerprint

    first = fingerprint()
    study = study.rename(tmp_path / "moved")
    assert fingerprint() == first
    assert fingerprint(labels=["icontour"]) != first
    contour = next(study.rglob("*icontour*.txt"))
    text = contour.read_text()
    contour.write_text(text.replace(".", ".0", 1))
    assert fingerprint() != first
    contour.write_text(text)
    image = next(study.rglob("*.dcm"))
    content = bytearray(image.read_bytes())
    content[-2] ^= 1
    image.write_bytes(content)
    assert fingerprint() != first


def test_the_fingerprint_covers_all_but_provenance(store):
    """It changes with each checksum, except those in PROVENANCE."""
    head = store.classes, list(store.buckets), store.options
    for name in store.checksums:
        changed = {**store.checksums, name: "0" * 16}
        same = layout.fingerprint(*head, changed) == store.fingerprint
        assert same == (name in layout.PROVENANCE), name


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [7, 1000, 2**20])
def test_the_report_does_not_depend_on_how_it_is_read(copy, monkeypatch, threads, size):
    """The report is the same for any number of threads, buffer and block size."""
    flip_bit(copy, "images/96x96_uint16", 70_000)
    flip_bit(copy, "masks/120x88_uint16", 9)
    expected = fastseg.verify(copy)
    assert len(expected.damages) == 2
    monkeypatch.setattr(verify, "BUFFER_BYTES", size)
    for name in ("BLOCK_BYTES", "BLOCK_SAMPLES"):
        monkeypatch.setattr(verify, name, min(size, 50))
    assert fastseg.verify(copy, threads=threads) == expected


def test_a_bad_sector_is_damage_of_its_sample(store, copy, monkeypatch):
    """A sample that cannot be read is reported; the others are checked."""
    sector = store.offsets["images/96x96_uint16"] + 3 * 96 * 96 * 2 + 100
    read = verify.read

    def fail(file, start, stop, buffer):
        if start <= sector < stop:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(file, start, stop, buffer)

    monkeypatch.setattr(verify, "read", fail)
    (damage,) = fastseg.verify(copy).damages
    assert store[damage.sample].meta["row"] == 3
    assert (damage.part, damage.reason) == (
        "image",
        "cannot be read: Input/output error",
    )


def test_a_store_that_shrinks_is_an_error(copy, monkeypatch):
    """If a store is cut while it is verified, StoreError is raised; no signal is."""
    open_file = Store.open_file

    def cut(store):
        file = open_file(store)
        os.truncate(store.path, 9_000)
        return file

    monkeypatch.setattr(Store, "open_file", cut)
    with pytest.raises(StoreError, match=r"copy\.h5: was truncated"):
        fastseg.verify(copy)


def test_a_store_that_is_replaced_is_an_error(store, copy):
    """`open_file` opens the file that was mapped, or raises StoreError."""
    opened = fastseg.open(copy)
    copy.unlink()
    shutil.copy(store.path, copy)
    with pytest.raises(StoreError, match="was replaced"):
        opened.open_file()


def test_a_file_that_is_not_a_store_is_an_error(copy):
    """`verify` raises the StoreError with which opening fails."""
    with copy.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(StoreError, match="truncated"):
        fastseg.verify(copy)


def test_an_exception_of_progress_ends_verify(copy, monkeypatch):
    """No thread is left after an interrupt, and the other blocks are not checked."""
    monkeypatch.setattr(verify, "BLOCK_BYTES", 1)
    done = []

    def stop(label, count, total):
        assert label == "verify"
        done.append(count)
        if count == 3:
            assert total > 64
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastseg.verify(copy, threads=2, progress=steps.at(stop))
    assert done == [0, 1, 2, 3]
    assert not [t for t in threading.enumerate() if t.name.startswith("fastseg-verify")]


@pytest.mark.parametrize("threads", [0, -1, 1.5, "two"])
def test_threads_are_a_positive_number(store, threads):
    """All other values raise OptionError."""
    with pytest.raises(OptionError, match="threads is"):
        fastseg.verify(store, threads=threads)


def test_original_files_are_compared(store, sample_study):
    """For unchanged original files, the report lists nothing."""
    report = fastseg.verify(store, sources=sample_study)
    assert report.is_valid
    content = sum(array.nbytes for array in arrays_of(store).values())
    assert report.bytes_read == content + store.sources["size"].sum()


def test_changed_originals_are_listed(study, tmp_path, monkeypatch):
    """A file may be missing, longer, changed, a folder or a link to the outside."""
    monkeypatch.setattr(verify, "BLOCK_FILES", 3)
    path = tmp_path / "heart.h5"
    fastseg.build(fastseg.link(study), path)
    store = fastseg.open(path)
    names = [name.decode() for name in store.sources["path"].tolist()]
    (study / names[0]).unlink()
    with (study / names[2]).open("ab") as file:
        file.write(b"more")
    size = (study / names[2]).stat().st_size
    content = bytearray((study / names[5]).read_bytes())
    content[-1] ^= 1
    (study / names[5]).write_bytes(content)
    (study / names[6]).unlink()
    (study / names[6]).mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes((study / names[7]).read_bytes())
    (study / names[7]).unlink()
    (study / names[7]).symlink_to(secret)
    report = fastseg.verify(store, sources=study, threads=2)
    assert not report.damages
    assert not report.is_valid
    reasons = {change.path: change.reason for change in report.changed_sources}
    assert list(reasons) == [names[k] for k in (0, 2, 5, 6, 7)]
    assert reasons[names[0]] == "is missing"
    assert reasons[names[2]] == f"has {size} bytes, had {size - 4} when it was read"
    assert reasons[names[5]] == "has other content"
    assert reasons[names[6]] == "is not a regular file"
    assert "leads outside" in reasons[names[7]]
    assert str(report.changed_sources[0]) == f"{names[0]}: is missing"


def test_the_root_of_the_originals_is_a_folder(store, tmp_path):
    """A missing root raises OptionError; it does not list all files as missing."""
    with pytest.raises(OptionError, match="expected a folder"):
        fastseg.verify(store, sources=tmp_path / "none")


@pytest.mark.parametrize("compress", [False, True])
def test_every_mutation_of_hdf5_metadata_is_noticed(small_study, tmp_path, compress):
    """If random bytes of HDF5's own data change, the store does not open, or `verify`
    reports damage, or the content is the same; HDF5 never crashes."""
    path = tmp_path / "small.h5"
    fastseg.build(fastseg.link(small_study), path, compress=compress)
    code = (
        "from tests.store.test_verify import mutate; "
        f"mutate({str(path)!r}, {MUTATIONS})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    refused, damaged, same = map(int, run.stdout.split())
    assert refused + damaged + same == MUTATIONS
    assert refused > MUTATIONS / 2
    assert min(damaged, same) > 0


def mutate(path, count):
    """Change a store `count` times; print how often it was refused, damaged, same."""
    original = fastseg.open(path)
    content, whole = contents(original), Path(path).read_bytes()
    is_metadata = np.ones(len(whole), bool)
    for name, array in arrays_of(original).items():
        offset = original.offsets[name]
        is_metadata[offset : offset + array.nbytes] = False
    for column in layout.CHUNK_COLUMNS if original.compression else ():
        for offset, size in original.items[column].tolist():
            is_metadata[offset : offset + size] = False
    # Most of the metadata is zero padding, which HDF5 does not read.
    offsets = np.flatnonzero(is_metadata & (np.frombuffer(whole, "u1") != 0)).tolist()
    refused = damaged = same = 0
    for seed in range(count):
        draw = random.Random(seed)
        changed = bytearray(whole)
        for offset in draw.sample(offsets, draw.choice((1, 1, 2, 8))):
            flipped = changed[offset] ^ 1 << draw.randrange(8)
            changed[offset] = draw.choice((flipped, draw.randrange(256), 0, 255))
        target = Path(f"{path}.mutated")
        target.unlink(missing_ok=True)  # the one before it may still be mapped
        target.write_bytes(changed)
        try:
            opened = fastseg.open(target)
        except StoreError:
            refused += 1
            continue
        if not fastseg.verify(target, threads=1).is_valid:
            damaged += 1
        else:
            assert contents(opened) == content, f"seed {seed}"
            same += 1
    print(refused, damaged, same)


def contents(store):
    """Return all content of a store, in a form that can be compared."""
    head = (store.classes, store.options, store.software, store.fingerprint)
    arrays = {
        name: (array.dtype.str, array.shape, array.tobytes())
        for name, array in arrays_of(store).items()
    }
    pixels = [(sample.image.tobytes(), sample.mask.tobytes()) for sample in store]
    return head, store.checksums, list(store.buckets), arrays, pixels
