"""Builds of compressed files: in several processes, whatever becomes of these."""

import os
import shutil
import sys
import threading
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal

import fastseg
from fastseg.codecs import pool as pools
from fastseg.errors import DecoderStartError, OptionError, RejectedWarning
from tests import codec_damage, hostile_decoder
from tests.codec_damage import CODECS, encode, pixels_of, stream_of, write_file


@pytest.fixture
def started(monkeypatch):
    """The decoding processes that are started, in a list."""
    processes = []

    class Process(pools._Process):
        def __init__(self):
            super().__init__()
            processes.append(self)

    monkeypatch.setattr(pools, "_Process", Process)
    return processes


def write_links(folder, names):
    rows = ["patient,dicom_path,contour_path,label", *(f"p,{x},," for x in names)]
    (folder / "links.csv").write_text("\n".join(rows) + "\n")
    return folder / "links.csv"


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Return a function that writes a file for each command, and the table of them."""
    modules = tmp_path / "modules"
    modules.mkdir()
    hostile_decoder.install(modules)
    monkeypatch.syspath_prepend(modules)
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}

    def write(*commands):
        names = [f"{k}.dcm" for k in range(len(commands))]
        for name, command in zip(names, commands, strict=True):
            stream = hostile_decoder.stream(command)
            data = write_file("rle", stream, (4, 4), **bits)
            (tmp_path / name).write_bytes(data)
        return write_links(tmp_path, names)

    return write


def rejects_of(report):
    return {reject.file: reject.reason for reject in report.rejects}


@pytest.mark.filterwarnings("ignore::fastseg.errors.RejectedWarning")
@pytest.mark.parametrize("codec", CODECS)
def test_damaged_streams_end_no_build(tmp_path, codec, capfd):
    """Of 30 damaged files of a codec, each is built or rejected by its name."""
    outcomes = codec_damage.build_damaged(tmp_path, codec, 3, 30)
    assert outcomes.total() == 30
    assert outcomes["built"] < 28
    assert not any("0x" in reason for reason in outcomes)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compress", [False, True])
def test_processes_do_not_change_the_bytes(tmp_path, compress, started):
    """Any number of threads and processes gives the same bytes, and ends them all."""
    kinds = list(codec_damage.LOSSLESS)
    names = []
    for k in range(48):
        codec = kinds[k % len(kinds)] if k % 5 else None
        stream = encode(codec, pixels_of(codec, k)) if codec else b""
        stream = stream or pixels_of("", k).tobytes()
        names.append(f"{k}.dcm")
        (tmp_path / names[-1]).write_bytes(write_file(codec, stream))
    links = write_links(tmp_path, names)
    contents = set()
    threads_before = set(threading.enumerate())
    for threads in (1, 2, 4):
        path = tmp_path / f"{threads}.h5"
        report = fastseg.build(links, path, threads=threads, compress=compress)
        assert report.samples == len(names)
        contents.add(path.read_bytes())
        assert all(process._popen.returncode == 0 for process in started)
        assert set(threading.enumerate()) <= threads_before
    assert len(contents) == 1
    for sample in fastseg.open(path):
        number = int(Path(sample.meta["source"]).stem)
        assert_array_equal(sample.image, pixels_of("", number))


def test_uncompressed_files_start_no_process(sample_study, tmp_path, started):
    """A build of files that need no decoder starts no process."""
    fastseg.build(fastseg.link(sample_study), tmp_path / "s.h5")
    assert not started


def test_no_more_processes_than_files(tmp_path, started):
    """One compressed file among others starts one process."""
    (tmp_path / "0.dcm").write_bytes(write_file("jpeg-ls", stream_of("jpeg-ls")))
    (tmp_path / "1.dcm").write_bytes(write_file(None, pixels_of("").tobytes()))
    fastseg.build(write_links(tmp_path, ["0.dcm", "1.dcm"]), tmp_path / "s.h5")
    assert len(started) == 1


@pytest.mark.parametrize("threads", [1, 3])
def test_what_ends_a_decoder_is_a_reject(hostile, tmp_path, threads, capfd):
    """Files that end, stop or fill their decoder are rejected; all others are built."""
    bad = {
        "abort": "is damaged: decoding it ended with SIGABRT (assertion ?[31m failed)",
        "segfault": "is damaged: decoding it ended with SIGSEGV",
        "hang": "decoding it takes more than 1 s; it is damaged, or raise "
        "decode_timeout",
        "bad_alloc": "decoding it takes more memory than an image of its size may; it "
        "is damaged",
    }
    commands = ["sound", *bad, "sound", "chatter", "poison", *(["sound"] * 9)]
    links = hostile(*commands)
    with pytest.warns(RejectedWarning, match="4 links or files were rejected"):
        report = fastseg.build(
            links, tmp_path / "s.h5", threads=threads, decode_timeout=1
        )
    expected = {f"{commands.index(x)}.dcm": reason for x, reason in bad.items()}
    assert rejects_of(report) == expected
    assert report.samples == len(commands) - 4
    listed = (tmp_path / "s.h5.rejects.csv").read_text()
    assert all(name in listed for name in expected)
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore::fastseg.errors.RejectedWarning")
def test_a_file_that_took_too_long_is_tried_again(hostile, tmp_path, monkeypatch):
    """A reject for time is none of the next build, if the file is decoded then."""
    monkeypatch.chdir(tmp_path)
    slow = tmp_path / "slow"
    slow.touch()
    links = hostile("sound", "hang slow", "sound")
    path = tmp_path / "s.h5"
    first = fastseg.build(links, path, decode_timeout=0.5)
    again = fastseg.build(links, path, decode_timeout=0.5)
    for report in (first, again):
        assert list(rejects_of(report)) == ["1.dcm"]
        assert (report.samples, report.failed) == (2, 1)
    assert again.reused == 2
    slow.unlink()
    last = fastseg.build(links, path)
    assert (last.samples, last.reused, last.rejects) == (3, 2, ())
    assert len(fastseg.open(path)) == 3


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupted_build_ends_its_decoders(hostile, tmp_path, started, threads):
    """A build that is interrupted waits for no decoder that hangs."""
    links = hostile("sound", "hang", "sound")

    timer = threading.Timer(2, lambda: os.kill(os.getpid(), 2))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        fastseg.build(links, tmp_path / "s.h5", threads=threads)
    assert not timer.is_alive()
    assert started
    assert all(process._popen.returncode is not None for process in started)


def test_a_build_without_processes_says_so(tmp_path, monkeypatch):
    """Where no process can be started, the build ends, instead of rejecting files."""
    (tmp_path / "0.dcm").write_bytes(write_file("jpeg-ls", stream_of("jpeg-ls")))
    links = write_links(tmp_path, ["0.dcm"])
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(DecoderStartError, match="has not started"):
        fastseg.build(links, tmp_path / "s.h5")
    assert not (tmp_path / "s.h5").exists()


def test_the_time_limit_is_checked_before_anything_is_written(tmp_path):
    """A bad `decode_timeout` is refused, and leaves no file."""
    with pytest.raises(OptionError, match="decode_timeout is 0"):
        fastseg.build(tmp_path / "links.csv", tmp_path / "s.h5", decode_timeout=0)
    assert list(tmp_path.iterdir()) == []


def test_the_time_limit_changes_no_store(tmp_path):
    """Builds with other time limits give the same bytes, and reuse each other's."""
    (tmp_path / "0.dcm").write_bytes(write_file("rle", stream_of("rle")))
    links = write_links(tmp_path, ["0.dcm"])
    fastseg.build(links, tmp_path / "s.h5", decode_timeout=5)
    fastseg.build(links, tmp_path / "t.h5", decode_timeout=500)
    assert (tmp_path / "s.h5").read_bytes() == (tmp_path / "t.h5").read_bytes()
    assert fastseg.build(links, tmp_path / "s.h5", decode_timeout=7).reused == 1
