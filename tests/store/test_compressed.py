"""Compressed stores: the same content in fewer bytes, also after interruptions."""

import json
import os
import subprocess
import sys
import tracemalloc
from itertools import product

import h5py
import hdf5plugin  # noqa: F401  lets h5py read the chunks
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal
from xxhash import xxh3_64_intdigest

import fastseg
from fastseg import Loader
from fastseg._kernels.files import system
from fastseg.errors import MissingExtraError, StoreError
from fastseg.ingest import plan
from fastseg.store import compression, layout
from fastseg.store.compression import Codec
from fastseg.store.writing import hdf5_index, partial, pixel_writers
from fastseg.store.writing.journal import Journal
from tests import steps
from tests.sparse import as_utf8

NO_PACKAGE = "pip install zstandard"


@pytest.fixture(scope="module")
def small(sample_study, tmp_path_factory):
    """A compressed store of the phantom in data/."""
    path = tmp_path_factory.mktemp("small") / "heart.h5"
    fastseg.build(fastseg.link(sample_study), path, compress=True)
    return fastseg.open(path)


@pytest.fixture
def copy(small, tmp_path):
    """A copy of the compressed store, for tests that damage it."""
    path = tmp_path / "copy.h5"
    path.write_bytes(small.path.read_bytes())
    return path


def assert_same(store, other):
    """Check that two stores have the same content, except for offsets and sizes."""
    for one, two in zip(store, other, strict=True):
        assert_array_equal(one.image, two.image, strict=True)
        assert_array_equal(one.mask, two.mask, strict=True)
        assert one.meta.keys() ^ two.meta.keys() <= layout.CHUNK_COLUMNS.keys()
        for name in one.meta.keys() & two.meta.keys():
            assert_array_equal(one.meta[name], two.meta[name])
        assert one.contours.keys() == two.contours.keys()
        for name, rings in one.contours.items():
            for ring, other_ring in zip(rings, two.contours[name], strict=True):
                assert_array_equal(ring, other_ring)
    assert store.fingerprint == other.fingerprint
    assert (store.classes, store.buckets) == (other.classes, other.buckets)


def test_content_is_the_same_as_without_compression(store, small):
    """Samples, metadata, contours and fingerprint equal those of the other store."""
    assert_same(store, small)
    assert (store.compression, small.compression) == ("", "zstd")
    assert small.path.stat().st_size < store.path.stat().st_size / 2
    assert store.compression_ratio == 1 < 2.5 < small.compression_ratio


def test_h5py_and_hdf5plugin_read_a_compressed_store(small):
    """Every sample and chunk can be read with these, as `layout` describes it."""
    with h5py.File(small.path) as file:
        assert file.attrs["compression"] == b"zstd"
        buckets = [name.decode() for name in file.attrs["buckets"]]
        items = file["items"]
        for k, sample in enumerate(small):
            bucket, row = buckets[items["bucket"][k]], items["row"][k]
            for group, array, column in (
                ("images", sample.image, "image_chunk"),
                ("masks", sample.mask, "mask_chunk"),
            ):
                dataset = file[group][bucket]
                assert_array_equal(dataset[row], array, strict=True)
                assert dataset.chunks == (1, *array.shape)
                offset, size = items[column][k]
                skipped, chunk = dataset.id.read_direct_chunk((row, 0, 0))
                assert (skipped, len(chunk)) == (0, size)
                assert small.path.read_bytes()[offset : offset + size] == chunk
        names = {f"{table}/{name}" for table in file for name in file[table]}
        for name in [*names, *file.attrs]:
            assert (
                name.split("/")[-1] in layout.__doc__ or name.split("/")[1] in buckets
            )


def run(code, *arguments, **environment):
    """Run Python code in another process and return the completed process."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_fastseg_needs_no_plugin(small, sample_study, tmp_path):
    """It builds, opens, reads and verifies without hdf5plugin."""
    code = """
import sys, h5py, fastseg
sys.modules["hdf5plugin"] = None
path = sys.argv[2]
fastseg.build(fastseg.link(sys.argv[1]), path, compress=True)
assert fastseg.verify(path).is_valid
print(sum(int(s.image.sum()) + int(s.mask.sum()) for s in fastseg.open(path)))
assert not h5py.h5z.filter_avail(32015)
"""
    done = run(code, sample_study, tmp_path / "s.h5", HDF5_PLUGIN_PATH="/nowhere")
    assert done.stderr == ""
    expected = sum(int(s.image.sum()) + int(s.mask.sum()) for s in small)
    assert int(done.stdout) == expected
    assert fastseg.open(tmp_path / "s.h5").fingerprint == small.fingerprint


def test_without_zstandard_the_extra_is_named(store, small, study, tmp_path):
    """Other stores do not need it; for compressed ones, the error names the extra."""
    code = """
import sys
sys.modules["zstandard"] = None
import fastseg
def report(action):
    try:
        print(len(action()))
    except fastseg.errors.MissingExtraError as exc:
        print(exc)
report(lambda: fastseg.open(sys.argv[1]))
report(lambda: fastseg.open(sys.argv[2]))
report(lambda: fastseg.build(fastseg.link(sys.argv[3]), sys.argv[4], compress=True))
"""
    done = run(code, store.path, small.path, study, tmp_path / "s.h5")
    assert done.stderr == ""
    mapped, opened, built = done.stdout.splitlines()
    line = "needs an optional package: pip install zstandard"
    assert mapped == "32"
    assert opened == f"{small.path}: reading a compressed store {line}"
    assert built == f"building a compressed store {line}"
    assert set(tmp_path.iterdir()) == {study}


def test_a_store_that_cannot_be_read_is_not_replaced(small, study, copy, monkeypatch):
    """Without zstandard, a build over a compressed store raises MissingExtraError."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtraError, match=NO_PACKAGE):
        fastseg.build(fastseg.link(study), copy)
    assert copy.read_bytes() == small.path.read_bytes()


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_change_no_byte(small, sample_study, tmp_path, threads):
    """The bytes of the file do not depend on the number of threads."""
    path = tmp_path / "s.h5"
    fastseg.build(fastseg.link(sample_study), path, compress=True, threads=threads)
    assert path.read_bytes() == small.path.read_bytes()


class Killed(BaseException):
    """Ends a build as a signal would."""


def kill_at(monkeypatch, owner, name, call):
    """Make one call of a function raise Killed; the first call has the number 1."""
    original = getattr(owner, name)
    calls = []

    def replacement(*arguments, **named):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, replacement)


POINTS = [
    (partial.PixelFile, "write", 1),
    (partial.PixelFile, "write", 9),
    (Journal, "append", 1),
    (Journal, "append", 20),
    (partial.PixelFile, "read", 1),
    (partial.PixelFile, "read", 33),
    (hdf5_index, "write_compressed", 1),
    (compression, "chunk_index", 2),
    (hdf5_index, "_write_columns", 1),
    (hdf5_index, "_write_attributes", 1),
    (pixel_writers.os, "fsync", 1),
    (partial, "_sync_folder", 1),
]


@pytest.mark.parametrize(
    ("owner", "name", "call"), POINTS, ids=[f"{n}-{c}" for _, n, c in POINTS]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_killed_build_can_be_resumed(
    small, sample_study, tmp_path, monkeypatch, owner, name, call, threads
):
    """After a kill at any step, the target is absent or complete, and the next build
    reuses the finished items and gives the same bytes."""
    path, table = tmp_path / "s.h5", fastseg.link(sample_study)
    monkeypatch.setattr(plan, "BLOCK_SIZE", 1)
    with monkeypatch.context() as patch:
        kill_at(patch, owner, name, call)
        with pytest.raises(Killed):
            fastseg.build(table, path, compress=True, threads=threads)
    assert not path.exists() or path.read_bytes() == small.path.read_bytes()
    report = fastseg.build(table, path, compress=True, threads=4 - threads)
    assert path.read_bytes() == small.path.read_bytes()
    finished = {"write": 0, "append": call - 1, "read": call - 1}.get(name, len(small))
    assert report.reused >= finished
    assert set(tmp_path.iterdir()) == {path}


def test_damaged_chunks_are_made_again(small, sample_study, tmp_path, monkeypatch):
    """A resumed build does not reuse chunks that are damaged or cut off."""
    monkeypatch.setattr(plan, "BLOCK_SIZE", 1)
    path, table = tmp_path / "s.h5", fastseg.link(sample_study)

    def stop(label, done, total):
        if (label, done) == ("build", 20):
            raise Killed

    with pytest.raises(Killed):
        fastseg.build(table, path, compress=True, threads=1, progress=steps.at(stop))
    unfinished = tmp_path / "s.h5.partial"
    content = bytearray(unfinished.read_bytes())
    content[len(content) // 3] ^= 4
    unfinished.write_bytes(content[: 2 * len(content) // 3])
    report = fastseg.build(table, path, compress=True)
    assert path.read_bytes() == small.path.read_bytes()
    assert 5 < report.reused < 15


@pytest.mark.parametrize("fraction", [0.3, 0.85, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("compress", [False, True])
def test_a_build_resumes_after_a_full_disk(
    store, small, sample_study, tmp_path, fraction, compress
):
    """A failed write, also one by HDF5, raises OSError; a new build succeeds."""
    path, whole = tmp_path / "s.h5", (small if compress else store).path.read_bytes()
    table = fastseg.link(sample_study)
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(fraction * len(whole)), hard))
    try:
        with pytest.raises(OSError, match="too large"):
            fastseg.build(table, path, compress=compress)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not path.exists()
    fastseg.build(table, path, compress=compress)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("compress", [False, True])
def test_an_older_store_of_the_other_kind_is_reused(
    store, small, sample_study, tmp_path, compress
):
    """Turning compression on or off makes no image again."""
    older, newer = (store, small) if compress else (small, store)
    path = tmp_path / "s.h5"
    path.write_bytes(older.path.read_bytes())
    report = fastseg.build(fastseg.link(sample_study), path, compress=compress)
    assert report.reused == report.samples == len(store)
    assert path.read_bytes() == newer.path.read_bytes()


def test_only_changed_or_damaged_items_are_made_again(study, tmp_path):
    """The others are copied from the older compressed store."""
    path = tmp_path / "s.h5"
    fastseg.build(fastseg.link(study), path, compress=True)
    before = path.stat()  # without the time of access, which reading may change
    again = fastseg.build(fastseg.link(study), path, compress=True)
    assert again.reused == again.samples
    after = path.stat()  # the store was not written again
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    flip_bit(path, 3, "image")
    contour = next(study.rglob("*icontour*.txt"))
    contour.write_text(contour.read_text().replace(".", ".0", 1))
    report = fastseg.build(fastseg.link(study), path, compress=True)
    assert report.reused == report.samples - (1 if system.AVAILABLE else 2)
    fastseg.build(fastseg.link(study), tmp_path / "fresh.h5", compress=True)
    assert path.read_bytes() == (tmp_path / "fresh.h5").read_bytes()


def test_another_zstd_version_writes_the_store_again(
    small, study, tmp_path, monkeypatch
):
    """Its chunks may have other bytes, so all are encoded again; pixels are reused."""
    path, table = tmp_path / "s.h5", fastseg.link(study)
    with monkeypatch.context() as patch:
        patch.setattr(compression, "version", lambda: "0.9")
        fastseg.build(table, path, compress=True)
    assert fastseg.open(path).software["zstd"] == "0.9"
    report = fastseg.build(table, path, compress=True)
    assert report.reused == report.samples
    assert fastseg.open(path).software["zstd"] == small.software["zstd"]


def put_chunk(path, sample, part, chunk):
    """Overwrite the beginning of a chunk."""
    offset, size = fastseg.open(path).items[f"{part}_chunk"][sample].tolist()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(chunk[:size])


def flip_bit(path, sample, part):
    """Flip a bit in the middle of a chunk."""
    offset, size = fastseg.open(path).items[f"{part}_chunk"][sample].tolist()
    content = bytearray(path.read_bytes())
    content[offset + size // 2] ^= 8
    path.write_bytes(content)


def test_damage_is_named_with_its_sample(copy):
    """A flipped bit in a chunk is an error or changes pixels; `verify` names both."""
    flip_bit(copy, 5, "image")
    flip_bit(copy, 9, "mask")
    report = fastseg.verify(copy)
    assert [(d.sample, d.part) for d in report.damages] == [(5, "image"), (9, "mask")]
    opened = fastseg.open(copy)
    for sample, part in ((5, "image"), (9, "mask")):
        expected = int(opened.items[f"{part}_xxh3"][sample])
        try:
            result = xxh3_64_intdigest(getattr(opened[sample], part).tobytes())
        except StoreError as exc:
            result = str(exc).removeprefix(f"{copy}: {part} of sample {sample} ")
            expected = str(exc)
        assert result != expected


SIZE = 96 * 96 * 2
NOISE = np.random.default_rng(0).bytes(SIZE)


def frame(data, level=1, **options):
    return zstandard.ZstdCompressor(level=level, **options).compress(data)


HUGE = b"\x28\xb5\x2f\xfd\xe0" + (2**40).to_bytes(8, "little")
BAD_CHUNKS = {
    "nothing": b"",
    "no frame": b"no frame at all",
    "cut": frame(NOISE)[:-9],
    "longer": frame(NOISE) + b"more",
    "two frames": frame(NOISE) + frame(b""),
    "too small": frame(bytes(SIZE - 1)),
    "too large": frame(bytes(SIZE + 1)),
    "no size": frame(bytes(SIZE), write_content_size=False),
    "a terabyte": HUGE + b"\x01\0\0",
    "skippable": b"\x50\x2a\x4d\x18" + SIZE.to_bytes(4, "little") + bytes(SIZE),
    # The header has the right size and a window of 2 GB; nothing follows.
    "window": b"\x28\xb5\x2f\xfd\x40\xa8" + (SIZE - 256).to_bytes(2, "little"),
}


@pytest.mark.parametrize("chunk", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
@pytest.mark.parametrize("shuffles", [False, True])
def test_a_bad_chunk_is_refused_and_takes_no_memory(chunk, shuffles):
    """A bad chunk raises StoreError, whatever size it claims, and allocates little."""
    codec = Codec((96, 96), np.dtype("<u2"), shuffles)
    assert_array_equal(
        codec.decode(frame(bytes(SIZE))), np.zeros((96, 96), "<u2"), strict=True
    )
    tracemalloc.start()
    try:
        with pytest.raises(StoreError):
            codec.decode(chunk)
        assert tracemalloc.get_traced_memory()[1] < 10 * SIZE
    finally:
        tracemalloc.stop()


def test_an_array_that_no_chunk_can_hold_is_not_allocated():
    """A chunk of 16 bytes that claims an image of 4 GB is refused."""
    codec = Codec((2**15, 2**16), np.dtype("<u2"), shuffles=True)
    chunk = b"\x28\xb5\x2f\xfd\xe0" + codec.size.to_bytes(8, "little") + b"\x01\0\0"
    with pytest.raises(StoreError, match="more memory than a valid chunk needs"):
        codec.decode(chunk)


@given(st.data())
def test_random_bytes_decode_or_are_refused(data):
    """A damaged chunk gives an array of the right shape and dtype, or StoreError."""
    codec = Codec((8, 6), np.dtype("<i2"), shuffles=True)
    chunk = bytearray(codec.encode(np.arange(48, dtype="<i2").reshape(8, 6)))
    for _ in range(data.draw(st.integers(1, 4))):
        chunk[data.draw(st.integers(0, len(chunk) - 1))] = data.draw(
            st.integers(0, 255)
        )
    try:
        array = codec.decode(bytes(chunk))
    except StoreError:
        return
    assert (array.shape, array.dtype) == ((8, 6), np.dtype("<i2"))


dtypes = st.sampled_from(["|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<f4"])


@given(dtypes.flatmap(lambda d: arrays(d, st.tuples(*[st.integers(1, 9)] * 2))))
def test_decoding_inverts_encoding(array):
    """Arrays of all dtypes are the same again, shuffled or not, and read-only."""
    for shuffles in (array.itemsize > 1, False):
        codec = Codec(array.shape, array.dtype, shuffles)
        chunk = codec.encode(array)
        assert chunk == codec.encode(array.copy())
        decoded = codec.decode(chunk)
        assert_array_equal(decoded, array, strict=True)
        assert not decoded.flags.writeable


def test_the_shuffle_makes_chunks_smaller(small):
    """With the shuffle, the images take less than 90 % of the bytes without."""
    sizes = [
        sum(len(Codec(i.shape, i.dtype, shuffles).encode(i)) for i in images)
        for images in [[sample.image for sample in small]]
        for shuffles in (True, False)
    ]
    assert sizes[0] < 0.9 * sizes[1]


def test_a_compressed_store_has_no_arrays_of_buckets(small):
    """The error says how to read a sample instead."""
    for name in ("images", "masks"):
        with pytest.raises(StoreError, match=r"is compressed.*store\[i\]"):
            getattr(small, name)
    assert repr(small[0]).startswith("<Sample 0 of heart.h5: 96x96 uint16, patient")
    assert small.select(shape=96).size == 24


def batches(store, options):
    """Return the bytes of two epochs."""
    loader = Loader(store, seed=3, batch_size=7, **options)
    return [
        [array.tobytes() for array in (batch.image, batch.mask, batch.index)]
        for _ in range(2)
        for batch in loader
    ]


@pytest.mark.parametrize("masks", ["bits", "labels", "onehot", "icontour"])
@pytest.mark.parametrize("normalize", ["zscore", "percentile", "window", None])
def test_batches_are_the_same(store, small, masks, normalize):
    """For all options and threads, batches equal those of the other store."""
    for size, threads, shuffle in product((64, (130, 100)), (1, 3), (True, False)):
        options = {"masks": masks, "normalize": normalize, "shuffle": shuffle}
        options |= {"size": size, "threads": threads, "pad_value": -1.5}
        assert batches(small, options) == batches(store, options)


@pytest.mark.parametrize(
    ("options", "masks"),
    [
        ({}, 8),
        ({"neighbours": 1}, 8),
        ({"augment": "light"}, 0),
        ({"augment": "light", "labels": "nearest"}, 8),
    ],
)
def test_masks_that_a_batch_lacks_are_not_decompressed(
    small, monkeypatch, options, masks
):
    """Neighbours show no mask, and exact labels are drawn from the contours."""
    decoded = []
    decode = small._pixels._decode

    def note(kind, item):
        decoded.append(kind)
        return decode(kind, item)

    monkeypatch.setattr(small._pixels, "_decode", note)
    options = {"size": 96, "missing": "background", **options}
    loader = Loader(small, indices=range(8), **options)
    next(iter(loader))
    assert decoded.count(1) == masks
    assert decoded.count(0) >= 8


def test_the_loader_names_a_damaged_sample(copy):
    """The error of a worker thread has a note that names sample and batch."""
    put_chunk(copy, 4, "image", b"damage")
    loader = Loader(fastseg.open(copy), batch_size=2, size=32, shuffle=False)
    with pytest.raises(
        StoreError, match="image of sample 4 cannot be decomp"
    ) as caught:
        list(loader)
    note = caught.value.__notes__[0]
    assert "while making sample 4 (patient" in note
    assert "for batch 2 of epoch 0" in note


def test_a_compressed_store_is_valid(small, sample_study):
    """`verify` reads each byte of the file once, and reports nothing."""
    report = fastseg.verify(small, sources=sample_study)
    assert report.is_valid
    size = small.path.stat().st_size
    assert report.bytes_read == size + small.sources["size"].sum()


def test_hdf5_s_chunk_index_is_verified(copy):
    """If HDF5 has another offset for a chunk than the column, `verify` reports it."""
    with h5py.File(copy, "r+") as file:
        images = file["images/96x96_uint16"]
        _, chunk = images.id.read_direct_chunk((7, 0, 0))
        images.id.write_direct_chunk((7, 0, 0), frame(NOISE) + chunk)
        masks = file["masks/120x88_uint16"]
        masks.id.write_direct_chunk((2, 0, 0), masks[2].tobytes(), filter_mask=1)
        items = {name: file["items"][name][()] for name in ("bucket", "row")}
    expected = [
        (
            int(np.flatnonzero((items["bucket"] == bucket) & (items["row"] == row))[0]),
            part,
        )
        for bucket, row, part in ((1, 7, "image"), (0, 2, "mask"))
    ]
    report = fastseg.verify(copy)
    reasons = {(damage.sample, damage.part): damage.reason for damage in report.damages}
    assert reasons.keys() >= set(expected)
    assert {reasons[key] for key in expected} == {
        "has another offset or size in HDF5's index"
    }


def set_attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, as_utf8(value))


def put_at(name, index, value):
    return lambda file: file[name].__setitem__(index, value)


def replace_dataset(name, **options):
    """Return a function that replaces a dataset by one with other properties."""

    def change(file):
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        file.create_dataset(name, shape, dtype, **options)

    return change


IMAGES, MASKS = "images/96x96_uint16", "masks/96x96_uint16"
CHANGES = [
    (
        set_attribute("compression", np.bytes_("lz9")),
        "compressed by 'lz9', this fastseg reads",
    ),
    (
        set_attribute("compression", np.bytes_(b"\xff")),
        "the attribute compression is not text",
    ),
    (
        lambda f: f.attrs.pop("compression"),
        "checksums does not have the names that the format lists",
    ),
    (lambda f: f.__delitem__("items/mask_chunk"), "no dataset items/mask_chunk"),
    (
        put_at("items/image_chunk", (3, 0), -1),
        "items/image_chunk is invalid",
    ),
    (
        put_at("items/image_chunk", (3, 0), 2**62),
        "items/image_chunk is invalid",
    ),
    (
        put_at("items/mask_chunk", (3, 1), 0),
        "items/mask_chunk is invalid",
    ),
    (
        put_at("items/mask_chunk", (3, 1), -5),
        "items/mask_chunk is invalid",
    ),
    (
        put_at("items/mask_chunk", (3, 1), 2**63 - 1),
        "items/mask_chunk is invalid",
    ),
    (replace_dataset(IMAGES), "has chunks None and filters []"),
    (replace_dataset(IMAGES, chunks=(1, 96, 96)), r"chunks (1, 96, 96) and filters []"),
    (
        replace_dataset(IMAGES, chunks=(2, 96, 96), shuffle=True, compression=32015),
        "has chunks (2",
    ),
    (
        replace_dataset(IMAGES, chunks=(1, 96, 96), compression=32015),
        "and filters [(32015",
    ),
    (
        replace_dataset(MASKS, chunks=(1, 96, 96), compression="gzip"),
        "and filters [(1, ",
    ),
]


@pytest.mark.parametrize(("change", "text"), CHANGES)
def test_a_compressed_store_that_breaks_the_format_is_refused(copy, change, text):
    """Opening a store with wrong filters, chunks or offsets raises StoreError."""
    with h5py.File(copy, "r+") as file:
        change(file)
    with pytest.raises(StoreError) as caught:
        fastseg.open(copy)
    assert text in str(caught.value)


def test_stores_of_another_level_are_read(copy, monkeypatch):
    """A store that was compressed at another level of zstd is valid."""
    monkeypatch.setattr(compression, "LEVEL", compression.LEVEL + 5)
    assert fastseg.verify(copy).is_valid


def test_a_cut_store_is_refused(copy):
    """Opening a compressed store that was cut, at any length, raises StoreError."""
    size = copy.stat().st_size
    for length in [*range(size - 1, size - 50, -1), *range(size - 50, -1, -4999), 0]:
        os.truncate(copy, length)
        with pytest.raises(
            StoreError, match=r"copy\.h5: is (no HDF5 file, or is trunc|an empty)"
        ):
            fastseg.open(copy)


def test_the_command_line_compresses(study, tmp_path, fastseg_command):
    """`build --compress` prints the size, `info` how much smaller the pixels are."""
    fastseg_command("link", study, "-o", "links.csv")
    done = fastseg_command("build", "links.csv", "-o", "s.h5", "--compress")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{(tmp_path / 's.h5').stat().st_size / 1e6:.1f} MB" in done.stdout
    ratio = fastseg.open(tmp_path / "s.h5").compression_ratio
    printed = fastseg_command("info", "s.h5").stdout
    assert f"zstd, {ratio:.2f} times smaller" in printed
    assert "40x40_uint16" in printed
    assert fastseg_command("verify", "s.h5").returncode == 0


def test_columns_of_chunks_have_checksums(small):
    """image_chunk and mask_chunk have checksums; the fingerprint leaves these out."""
    with h5py.File(small.path) as file:
        checksums = json.loads(file.attrs["checksums"])
    added = checksums.keys() - layout.checksum_names(small.classes)
    assert added == {"items/image_chunk", "items/mask_chunk"} <= layout.PROVENANCE
