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
from fastseg.store import layout, metadata, verify
from fastseg.store.reader import Store
from tests import steps

PROJECT = Path(__file__).parents[2]
MUTATIONS = 600


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
    pixels = {} if store.compression else {"images": store.images, "masks": store.masks}
    return {
        f"{table}/{name}": array
        for table, arrays in (pixels | store.tables).items()
        for name, array in arrays.items()
    }


def test_an_untouched_store_is_valid(store):
    """The report lists nothing, and every byte of the file was read once."""
    report = fastseg.verify(store)
    assert report.is_valid
    assert (report.damages, report.changed_sources) == ((), ())
    assert report.path == store.path
    assert report.fingerprint == store.fingerprint
    assert report.samples == len(store)
    assert report.bytes_read == store.path.stat().st_size
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
        for _ in range(3 if array.nbytes else 0):
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
        "items/volume",
        "contours/offsets",
        "contours/item",
        "contours/class",
        "contours/source",
        "volumes/first",
        "volumes/slices",
        "volumes/spacing_mm",
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
            for table in layout.TABLES
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
    assert not [t for t in threading.enumerate() if t.name.startswith("fastseg")]


@pytest.mark.parametrize("threads", [0, -1, 1.5, "two"])
def test_threads_are_a_positive_number(store, threads):
    """All other values raise OptionError."""
    with pytest.raises(OptionError, match="threads is"):
        fastseg.verify(store, threads=threads)


def test_original_files_are_compared(store, sample_study):
    """For unchanged original files, the report lists nothing."""
    report = fastseg.verify(store, sources=sample_study)
    assert report.is_valid
    size = store.path.stat().st_size
    assert report.bytes_read == size + store.sources["size"].sum()


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
    assert reasons[names[6]] == "cannot be read: is a folder, expected a file"
    assert "leads outside" in reasons[names[7]]
    assert str(report.changed_sources[0]) == f"{names[0]}: is missing"


def test_the_root_of_the_originals_is_a_folder(store, tmp_path):
    """A missing root raises OptionError; it does not list all files as missing."""
    with pytest.raises(OptionError, match="expected a folder"):
        fastseg.verify(store, sources=tmp_path / "none")


@pytest.fixture(scope="module", params=[False, True], ids=["mapped", "compressed"])
def tiny(request, tmp_path_factory):
    """A store of two samples, without and with compression; not to be written to."""
    folder = tmp_path_factory.mktemp("tiny")
    study = fastseg.make_phantom(
        folder / "study", patients=1, sizes=(32,), slices=1, phases=2
    )
    path = folder / "tiny.h5"
    fastseg.build(fastseg.link(study), path, compress=request.param)
    return path


def metadata_offsets(store):
    """Return the offsets of all bytes of a store that are no data."""
    is_metadata = np.ones(store.path.stat().st_size, bool)
    for name, array in arrays_of(store).items():
        offset = store.offsets[name]
        is_metadata[offset : offset + array.nbytes] = False
    for column in layout.CHUNK_COLUMNS if store.compression else ():
        for offset, size in store.items[column].tolist():
            is_metadata[offset : offset + size] = False
    return np.flatnonzero(is_metadata)


def test_the_format_gives_the_checksum_of_the_metadata(tiny):
    """All bytes that are no data, the checksum's own as NUL, have that XXH3-64."""
    store = fastseg.open(tiny)
    whole = np.frombuffer(tiny.read_bytes(), np.uint8)
    metadata = whole[metadata_offsets(store)].tobytes()
    with h5py.File(tiny) as file:
        own = file.attrs["metadata_checksum"]
    assert own.decode() == store.metadata_checksum
    assert metadata.count(own) == 1
    assert xxh3_64_hexdigest(metadata.replace(own, bytes(16))) == own.decode()


def test_every_mutation_of_metadata_is_noticed(tiny):
    """If bytes of HDF5's own data or of a gap change, the store does not open, or
    `verify` reports it; HDF5 never crashes."""
    code = (
        "from tests.store.test_verify import mutate; "
        f"mutate({str(tiny)!r}, {MUTATIONS})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    refused, damaged = map(int, run.stdout.split())
    assert refused + damaged == MUTATIONS
    assert min(refused, damaged) > MUTATIONS / 10


def mutate(path, count):
    """Change a store `count` times; print how often it was refused and damaged.

    A fourth of the changes is one bit of any byte, also of gaps; the others are in
    bytes that are not zero.
    """
    whole = Path(path).read_bytes()
    offsets = metadata_offsets(fastseg.open(path)).tolist()
    used = [offset for offset in offsets if whole[offset]]
    refused = damaged = 0
    for seed in range(count):
        draw = random.Random(seed)
        changed = bytearray(whole)
        some = draw.sample(used, draw.choice((1, 1, 2, 8)))
        for offset in some if seed % 4 else [draw.choice(offsets)]:
            changed[offset] ^= 1 << draw.randrange(8)
            if seed % 2:
                other = draw.choice((draw.randrange(256), 0, 255))
                changed[offset] = other if other != whole[offset] else other ^ 1
        target = Path(f"{path}.mutated")
        target.unlink(missing_ok=True)  # the one before it may still be mapped
        target.write_bytes(changed)
        try:
            damages = fastseg.verify(target, threads=1).damages
        except StoreError:
            refused += 1
            continue
        assert "metadata" in {damage.part for damage in damages}, f"seed {seed}"
        damaged += 1
    print(refused, damaged)


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("at_once", [16, 17, 31, 64, 2**20])
def test_the_checksum_finds_its_text_in_any_block(monkeypatch, start, at_once):
    """Wherever a text lies, and however much is read at once, it counts as NUL."""
    monkeypatch.setattr(metadata, "READ_AT_ONCE", at_once)
    text = b"0123456789abcdef"
    noise = random.Random(0).randbytes(100)
    for offset in range(start, 85):
        data = noise[:offset] + text + noise[offset + 16 :]
        ranges = [(start, start + 1), (start + 1, start + 1), (start + 1, 100)]
        is_whole = offset > start  # a text over two ranges is none
        digest, offsets = metadata.metadata_checksum(
            ranges, lambda first, last, data=data: memoryview(data)[first:last], text
        )
        assert offsets == [offset] * is_whole
        expected = data.replace(text, bytes(16)) if is_whole else data
        assert f"{digest:016x}" == xxh3_64_hexdigest(expected[start:])


def test_the_ranges_of_metadata_lie_outside_all_data():
    """They are what no extent covers, also if extents touch, overlap or are empty."""
    draw = random.Random(1)
    for _ in range(300):
        pairs = [
            (draw.randrange(40), draw.choice((0, 1, 5, 12)))
            for _ in range(draw.randrange(5))
        ]
        covered = {k for first, size in pairs for k in range(first, first + size)}
        ranges = metadata.metadata_ranges(
            [np.array(pairs[:2], np.int64).reshape(-1, 2),
             np.array(pairs[2:], np.int64).reshape(-1, 2)],
            60,
        )  # fmt: skip
        listed = [k for start, stop in ranges for k in range(start, stop)]
        assert listed == [k for k in range(60) if k not in covered]


def test_appended_bytes_are_damage(tiny, tmp_path):
    """HDF5 does not see bytes behind its end; `verify` does."""
    path = tmp_path / "longer.h5"
    path.write_bytes(tiny.read_bytes() + b"more")
    assert [damage.part for damage in fastseg.verify(path).damages] == ["metadata"]


def test_what_another_program_adds_is_damage(tiny, tmp_path):
    """An attribute, dataset or comment that h5py adds to a store is reported."""
    for change in (
        lambda file: file.attrs.__setitem__("note", 1),
        lambda file: file["items/row"].attrs.__setitem__("note", 1),
        lambda file: file.create_dataset("items/more", data=np.arange(3)),
        lambda file: file.move("items/mean", "items/average"),
    ):
        path = Path(shutil.copy(tiny, tmp_path / "changed.h5"))
        with h5py.File(path, "r+") as file:
            change(file)
        try:
            parts = {damage.part for damage in fastseg.verify(path).damages}
        except StoreError:
            parts = {"metadata"}
        assert "metadata" in parts
