"""Items many at a time: as one by one, and nothing is taken for what it is not."""

import os
import random
import warnings
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from xxhash import xxh3_64_intdigest

import fastseg
from fastseg._kernels.files import content, system, transfer
from fastseg.dicom import scan
from fastseg.errors import RejectedWarning
from fastseg.files import stamp_of
from fastseg.ingest import fast_path
from tests import dicom_damage as damage

needs_kernels = pytest.mark.skipif(not system.AVAILABLE, reason="needs Linux")


def names_of(paths):
    """Return paths as kernels take them."""
    names = [os.fsencode(path) + b"\0" for path in paths]
    return b"".join(names), np.cumsum([0, *map(len, names)])


def read(paths, sizes, room=2**16):
    """Return what `read_files` finds, and how far it came."""
    names, founds = names_of(paths)
    places, digests = np.full(len(paths), 7), np.zeros(len(paths), np.uint64)
    stamps, buffer = np.zeros((len(paths), 4), np.int64), np.zeros(room, np.uint8)
    leads, data = np.full(len(paths), 3), np.frombuffer(names, np.uint8)
    stop = content.read_files(
        *(data, founds, 0, np.array(sizes), leads, buffer, places, stamps, digests)
    )
    return stop, places[:stop].tolist(), stamps, digests, buffer


@needs_kernels
@pytest.mark.kernel
def test_files_are_read_hashed_and_stamped(tmp_path):
    """Contents, stamps and checksums are those of the files, what leads aligned."""
    contents, paths = [b"abc", b"", bytes(range(200)), b"y" * 5000], []
    for k, data in enumerate(contents):
        paths.append(tmp_path / f"{k} ü")
        paths[-1].write_bytes(data)
    stop, places, stamps, digests, buffer = read(paths, [3, 0, 200, content.UNKNOWN])
    assert stop == 4
    for path, data, place, stamp, digest in zip(
        paths, contents, places, stamps, digests, strict=True
    ):
        assert buffer[place : place + len(data)].tobytes() == data
        assert (buffer.ctypes.data + place + 3) % content.LINE == 0
        assert tuple(stamp) == stamp_of(path)
        assert digest == xxh3_64_intdigest(data)
    assert read(paths, [3, 0, 200, 5000], room=2000)[0] == 3


@needs_kernels
@pytest.mark.kernel
def test_what_is_not_expected_is_not_read(tmp_path):
    """Folders, pipes, links, nothing, other sizes and too much are left to others."""
    file = tmp_path / "file"
    file.write_bytes(b"123")
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    paths = [tmp_path, tmp_path / "pipe", tmp_path / "link", tmp_path / "none"]
    paths += [file, file, file]
    _, places, *_ = read(paths, [content.UNKNOWN] * 4 + [2, 4, 3])
    assert places[:-1] == [content.UNREAD] * 6
    assert places[-1] >= 0
    file.write_bytes(bytes(100))
    assert read([file], [content.UNKNOWN], room=80)[1] == [content.UNREAD]


@needs_kernels
@pytest.mark.kernel
def test_without_room_none_of_unknown_size_is_read(tmp_path):
    """However little of the buffer is left, each file is as it is or marked unread."""
    room, paths = 1024, [tmp_path / name for name in "abc"]
    for path, data in zip(paths, (b"", b"few letters", b""), strict=True):
        path.write_bytes(data)
    left = set()
    for size in range(room - 200, room + 1):
        paths[0].write_bytes(bytes(size))
        stop, places, *_ = read(paths, [content.UNKNOWN] * 3, room)
        assert stop == 3
        for place, path in zip(places, paths, strict=True):
            assert place == content.UNREAD or place + path.stat().st_size <= room
        left.add(places.count(content.UNREAD))
    assert left >= {0, 1, 2}


def transfer_images(paths, heads, handle, targets, room, first=0):
    """Return what `transfer_images` finds of files of 8 bytes and 20 uint16 pixels."""
    names, founds = names_of(paths)
    count, ranks, data = len(paths), np.array([0, 10]), np.frombuffer(names, np.uint8)
    files = founds, first, np.full(count, 48), np.full(count, 8), heads
    limits, like = np.tile([0, 2000], (count, 1)), np.empty(0, np.uint16)
    buffer, places = np.zeros(room, np.uint8), np.full(count, 7)
    stamps, sums = np.zeros((count, 4), np.int64), np.zeros((count, 5), np.int64)
    digests, hashes = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    percentiles, sound = np.zeros((count, 2)), np.zeros(count, np.bool_)
    stop = transfer.transfer_images(
        *(data, *files, limits, like, 20, 2**17, ranks, handle, targets, buffer),
        *(places, stamps, digests, sums, percentiles, hashes, sound),
    )
    return stop, places, digests, sums, percentiles, hashes, sound, buffer


@needs_kernels
@pytest.mark.kernel
@pytest.mark.parametrize("room", [150, 10_000])
def test_images_are_measured_and_written(tmp_path, room):
    """Each is as numpy says, and stands where it belongs, whatever fits into memory."""
    rng, paths = np.random.default_rng(5), []
    images = rng.integers(0, 1000, (12, 20)).astype(np.uint16)
    images[7, 3] = 2001  # more than may be
    for k, image in enumerate(images):
        paths.append(tmp_path / f"{k}")
        paths[-1].write_bytes(b"12345678" + image.tobytes())
    heads = np.full(12, xxh3_64_intdigest(b"12345678"), np.uint64)
    heads[4] += np.uint64(1)  # has changed
    targets = np.array([400, 440, 480, 0, 0, 520, 560, 600, 640, 40, 80, 120])
    output = tmp_path / "output"
    output.write_bytes(bytes(700))
    handle = os.open(output, os.O_RDWR)
    try:
        found = transfer_images(paths, heads, handle, targets, room)
    finally:
        os.close(handle)
    stop, _, digests, sums, percentiles, hashes, sound, _ = found
    assert stop == 12
    assert np.flatnonzero(~sound).tolist() == [4, 7]
    expected = bytearray(700)
    for k in np.flatnonzero(sound).tolist():
        image = images[k]
        expected[targets[k] : targets[k] + 40] = image.tobytes()
        assert digests[k] == xxh3_64_intdigest(paths[k].read_bytes())
        assert hashes[k] == xxh3_64_intdigest(image.tobytes())
        squares = int((image.astype(int) ** 2).sum())
        assert sums[k].tolist() == [image.min(), image.max(), image.sum(), 0, squares]
        assert percentiles[k].tolist() == np.sort(image)[[0, 10]].tolist()
    assert output.read_bytes() == expected


@needs_kernels
@pytest.mark.kernel
def test_what_is_not_written_stays_in_memory(tmp_path):
    """Without a file to write to, or where it takes nothing, others find it there."""
    paths = []
    for k in range(6):
        paths.append(tmp_path / f"{k}")
        paths[-1].write_bytes(b"12345678" + bytes([k, 0] * 20))
    heads = np.full(6, xxh3_64_intdigest(b"12345678"), np.uint64)
    targets = np.arange(6) * 40 + 1000
    room = 63 + 2 * 64 + 48  # for three, wherever in a line of the caches it begins
    stop, places, *_, sound, buffer = transfer_images(paths, heads, -1, targets, room)
    assert stop == 3
    assert sound.tolist() == [True] * 3 + [False] * 3
    for k in range(3):
        assert buffer[places[k] + 8 : places[k] + 48].tolist() == [k, 0] * 20
    assert transfer_images(paths, heads, -1, targets, room, first=3)[0] == 6
    handle = os.open(paths[0], os.O_RDONLY)
    try:
        for first in (0, 2):
            found = transfer_images(paths, heads, handle, targets, room, first=first)
            stop, places, *_, buffer = found
            assert stop == first
            assert buffer[places[stop] + 8] == stop
    finally:
        os.close(handle)


@needs_kernels
@pytest.mark.kernel
def test_a_look_at_many_files_is_one_at_each(tmp_path):
    """Whatever is answered of spoilt files is what `look` says of their beginning."""
    rng, paths, datas = random.Random(5), [], []
    for k in range(200):
        datas.append(damage.make_file(rng))
        if k % 3 == 0 and k:  # much alike
            datas[-1] = damage.spoil_bytes(rng, datas[0], len(datas[0]))
        paths.append(tmp_path / f"{k}.dcm")
        paths[-1].write_bytes(datas[-1])
    assert compare_looks(paths, datas) > 20


@pytest.mark.parametrize("keyword", ["InstanceNumber", "WindowCenter", "WindowWidth"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_look_at_odd_numbers_is_one_at_each(study, tmp_path, keyword, function):
    """What is infinite, too large or no number means the same to both."""
    (image, *_) = sorted(study.glob("dicoms/*/*.dcm"))
    edited(image, VOILUTFunction=function, WindowCenter="40", WindowWidth="400")
    dataset, paths, datas = pydicom.dcmread(image), [], []
    texts = "7,-7.5,0,0.5,1,1e5,1e400,-1e400,1e-400,1e15,9999999999999999,nan,inf,x,"
    for k, text in enumerate(texts.split(",")):
        value = text.encode() + b" " * (len(text) % 2)
        tag = pydicom.tag.Tag(keyword)
        vr = pydicom.datadict.dictionary_VR(tag)
        dataset[tag] = pydicom.dataelem.RawDataElement(
            tag, vr, len(value), value, 0, False, True
        )
        paths.append(tmp_path / f"{k}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
        datas.append(paths[-1].read_bytes())
    assert compare_looks(paths, datas) > 3


def compare_looks(paths, datas):
    """Hold a look at files against one at each; return how many are answered."""
    scans, answered = scan.scan_headers(*names_of(paths)), 0
    for k, number in enumerate(scans.header_index.tolist()):
        found = scan.scan_header(datas[k][: scan.PIECES[0]])
        if number == scan.UNKNOWN:
            assert found is None
            continue
        answered += 1
        instance, *window = scans.per_file[k].tolist()
        assert found.shared == scans.headers[number]
        assert found.instance == (None if np.isnan(instance) else instance)
        assert found.window == (None if np.isnan(window[0]) else tuple(window))
        assert [found.pixel_offset, found.pixel_length] == scans.pixel_spans[k].tolist()
        assert found.holds(
            datas[k][: found.pixel_offset + found.pixel_length],
            int(scans.header_hashes[k]),
        )
    return answered


def edited(path, **elements):
    """Change elements of a file."""
    dataset = pydicom.dcmread(path)
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


def spoil(study):
    """Make most of a study's files odd in one way or another."""
    images = sorted(study.glob("dicoms/*/*.dcm"))
    edited(images[0], PhotometricInterpretation="MONOCHROME1", RescaleSlope="1.5")
    edited(images[1], WindowCenter=["40", "400"], WindowWidth=["80", "2000"])
    edited(images[2], VOILUTFunction="LINEAR_EXACT", WindowWidth="0.5")
    edited(images[3], BitsStored=3, HighBit=2)  # bits that are not stored are set
    edited(images[4], WindowCenter="1e2", WindowWidth="")
    images[5].rename(images[5].with_suffix(".away"))
    images[5].symlink_to(images[5].with_suffix(".away").name)
    os.truncate(images[6], images[6].stat().st_size - 2)
    images[7].write_bytes(images[7].read_bytes() + bytes(2))
    contours = sorted(study.glob("contourfiles/*/*/*.txt"))
    contours[0].write_text("1e1 5\n\n20 5\n5 20\n")
    contours[1].write_text("")
    contours[2].write_text("5 5\n5 5\n5 9\n")
    contours[3].write_text("-100 -100\n-90 -100\n-100 -90\n")
    contours[4].unlink()
    contours[5].write_bytes(b"5.5 6.25\r\n20 7\r\n9 30.125\r\n")
    contours[6].write_text("".join(f"{k % 40} {k * k % 37}\n" for k in range(12_000)))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("room", [2**20, 2**10])  # for texts that are read at once
@pytest.mark.parametrize(
    "options", [{}, {"edges": "closed", "origin": "corner"}, {"fill": "nonzero"}]
)
def test_many_at_a_time_are_as_one_by_one(
    study, tmp_path, monkeypatch, compress, room, options
):
    """Bytes and report are the same, of plain files as of odd ones."""
    monkeypatch.setitem(fast_path.BUFFER_BYTES, "text", room)
    table = fastseg.link(study, keep_unlabelled=True)
    links = [replace(link, format="other") for link in table.links[-1:]]
    table = replace(table, links=(*table.links[:-1], *links))
    spoil(study)
    reports = []
    for available in (system.AVAILABLE, False):
        monkeypatch.setattr(system, "AVAILABLE", available)
        path = tmp_path / f"{len(reports)}.h5"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RejectedWarning)
            reports.append(fastseg.build(table, path, compress=compress, **options))
    assert replace(reports[0], path=reports[1].path) == reports[1]
    assert reports[0].path.read_bytes() == reports[1].path.read_bytes()
    assert len(reports[0].rejects) > 4
