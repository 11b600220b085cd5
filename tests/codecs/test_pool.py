"""Processes that decode may die, hang, fill their memory and print; no others do."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest

from fastseg import dicom
from fastseg.codecs import pool as pools
from fastseg.codecs.codestream import CodedFrame
from fastseg.codecs.pool import Pool, _Process
from fastseg.errors import DecoderStartError, DicomError, OptionError
from tests import codec_damage, hostile_decoder
from tests.codec_damage import write_file
from tests.hostile_decoder import SOUND

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="signals are those of POSIX"
)


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """A pool whose processes decode with `hostile_decoder`."""
    folder = tmp_path / "modules"
    folder.mkdir()
    hostile_decoder.install(folder)
    monkeypatch.syspath_prepend(folder)
    with Pool() as pool:
        yield pool


def frame(command):
    syntax = "1.2.840.10008.1.2.5"
    data = hostile_decoder.stream(command)
    return CodedFrame(data, syntax, 4, 4, 8, 8, False, "MONOCHROME2")


def start(pool, command, timeout=60.0):
    return pool.start(frame(command), "a.dcm", timeout)


def decode(pool, command, timeout=60.0):
    return bytes(start(pool, command, timeout).result())


def pid_of(pool):
    return int.from_bytes(decode(pool, "pid")[:4], "little")


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie still has its number.
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until_dead(pid, seconds=20):
    end = time.monotonic() + seconds
    while is_alive(pid):
        assert time.monotonic() < end, "the process goes on"
        time.sleep(0.02)


FAILURES = {
    "abort": r"is damaged: decoding it ended with SIGABRT \(assertion .\[31m",
    "segfault": "is damaged: decoding it ended with SIGSEGV",
    "exit": "is damaged: decoding it ended with status 3",
    "hang": "decoding it takes more than 0.5 s; it is damaged, or raise decode_timeout",
    "bad_alloc": "decoding it takes more memory than an image of its size may",
    "raise": r"cannot be decoded: hostile: no \?\[31m such; markerx{200}",
    "corrupt": "cannot be decoded: Corrupt JPEG data: premature end of data segment",
    "short": "cannot be decoded: could not broadcast",
}


@pytest.mark.parametrize("command", FAILURES)
def test_a_failure_is_an_error_with_its_file(pool, capfd, command):
    """What a decoder does is a DicomError at worst, and the next frame is read."""
    timeout = 0.5 if command == "hang" else 60.0
    assert decode(pool, "sound") == SOUND
    with pytest.raises(DicomError) as caught:
        decode(pool, command, timeout)
    assert caught.match(rf"^a\.dcm: {FAILURES[command]}")
    assert len(str(caught.value)) < 500
    assert decode(pool, "sound") == SOUND
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
def test_memory_is_limited(pool):
    """A decoder that takes gigabytes for a small image is refused, for that reason."""
    with pytest.raises(DicomError, match=r"a\.dcm: decoding it takes more memory"):
        decode(pool, "allocate")
    assert decode(pool, "sound") == SOUND


def test_chatter_changes_nothing(pool, capfd):
    """Megabytes printed by a decoder reach neither the pixels nor the terminal."""
    for _ in range(3):
        assert decode(pool, "chatter") == SOUND
    assert capfd.readouterr() == ("", "")


def test_the_victim_of_an_earlier_frame_is_decoded(pool):
    """A frame whose process an earlier one has spoilt is decoded by a new process."""
    pid = pid_of(pool)
    assert decode(pool, "poison") == SOUND
    assert decode(pool, "sound") == SOUND
    assert not is_alive(pid)


def test_a_process_is_kept_and_imports_little(pool):
    """One process decodes frame after frame, without numba and h5py."""
    assert len({pid_of(pool) for _ in range(5)}) == 1
    assert decode(pool, "modules")[0] == 0


def test_frames_are_decoded_at_once(pool):
    """As many processes as the pool may have work beside each other."""
    with Pool(3) as wide:
        for command in ("slow 0.5", "slow 5"):
            begin = time.monotonic()
            decodings = [start(wide, command) for _ in range(3)]
            for decoding in decodings:
                assert bytes(decoding.result()) == SOUND
        assert time.monotonic() - begin < 14
        assert len(wide._processes) == 3


def test_an_interrupted_frame_spoils_no_other(pool):
    """A process that Ctrl-C has kept from answering is not used again."""
    first = pid_of(pool)
    timer = threading.Timer(0.5, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pool.decode(frame("slow 2"), "a.dcm", 60)
    assert not is_alive(first)
    assert bytes(pool.decode(frame("sound"), "a.dcm", 60)) == SOUND
    timer.join()
    threads_before = threading.enumerate()
    pool.decode(frame("sound"), "a.dcm", 60)
    assert threading.enumerate() == threads_before


def test_stop_leaves_no_process(pool):
    """`stop` ends all processes; the pool starts new ones if it is used again."""
    threads_before = threading.enumerate()
    pid = pid_of(pool)
    pool.stop()
    assert not is_alive(pid)
    assert not pool._processes
    assert threading.enumerate() == threads_before
    assert pid_of(pool) != pid


def test_stop_ends_what_goes_on(pool):
    """`stop` does not wait for a frame that hangs, nor for those behind it."""
    narrow = Pool(1)
    pid = pid_of(narrow)
    decodings = [start(narrow, "hang"), start(narrow, "sound")]
    time.sleep(0.3)
    begin = time.monotonic()
    narrow.stop()
    assert time.monotonic() - begin < 5
    assert not is_alive(pid)
    for decoding in decodings:
        with pytest.raises(CancelledError):
            decoding.result()


def test_stop_while_a_process_starts(monkeypatch):
    """The frame is cancelled; that its process has not started is no fault."""
    has_begun = threading.Event()
    start_process = _Process._start

    def start_late(process):
        has_begun.set()
        process._popen.wait(10)  # until `stop` ends it
        start_process(process)

    monkeypatch.setattr(_Process, "_start", start_late)
    narrow = Pool(1)
    decoding = start(narrow, "sound")
    assert has_begun.wait(10)
    narrow.stop()
    with pytest.raises(CancelledError):
        decoding.result()


def test_many_threads_share_a_pool(pool):
    """Threads that use one pool get each its own pixels."""
    commands = ["sound", "pid", "raise", "sound", "exit", "chatter"] * 3
    outcomes = {}

    def work(k):
        try:
            outcomes[k] = decode(pool, commands[k])[4:]
        except DicomError as exc:
            outcomes[k] = str(exc)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(commands))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, command in enumerate(commands):
        if command in FAILURES:
            assert "a.dcm: " in outcomes[k]
        else:
            assert outcomes[k] == SOUND[4:]
    assert len(pool._processes) <= pool.size


SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from tests.codecs import test_pool as t
from fastseg.codecs.pool import DEFAULT as pool
print("the script runs", flush=True)
"""


def run_script(tmp_path, code, check=True, **options):
    folder = tmp_path / "modules"
    folder.mkdir(exist_ok=True)
    hostile_decoder.install(folder)
    script = tmp_path / "script.py"  # without a guard
    script.write_text(SCRIPT + code)
    process = subprocess.Popen(
        [sys.executable, script, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        **options,
    )
    if not check:
        return process
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    first, *lines = out.splitlines()
    assert first == "the script runs"
    return lines


def test_the_script_of_the_user_runs_once(tmp_path):
    """A script without a guard runs once, and leaves no process behind."""
    (pid,) = run_script(tmp_path, "print(t.pid_of(pool))")
    assert not is_alive(int(pid))


def test_a_forked_child_has_its_own_process(tmp_path):
    """A child made by fork starts a process of its own; the parent keeps its."""
    code = """
first = t.pid_of(pool)
child = os.fork()
if child == 0:
    print(t.pid_of(pool), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert t.pid_of(pool) == first
print(first)
"""
    its_own, first = map(int, run_script(tmp_path, code))
    assert its_own != first
    wait_until_dead(its_own)
    assert not is_alive(first)


@pytest.mark.parametrize("command", ["sound", "hang"])
def test_processes_end_with_a_killed_program(tmp_path, command):
    """If the program is killed, its processes end, also those that hang."""
    code = f"""
print(t.pid_of(pool), flush=True)
t.start(pool, {command!r}, 0.2)
time.sleep(0.1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = run_script(tmp_path, code, check=False)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-signal.SIGKILL, "")
    wait_until_dead(int(out.split()[-1]))


def test_ctrl_c_ends_a_program_whose_decoder_hangs(tmp_path):
    """Ctrl-C raises KeyboardInterrupt at once, and no process is left."""
    data = write_file(
        "rle",
        hostile_decoder.stream("hang"),
        (4, 4),
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
    )
    (tmp_path / "a.dcm").write_bytes(data)
    code = f"""
print(t.pid_of(pool), flush=True)
from fastseg import dicom
try:
    dicom.read_image({str(tmp_path / "a.dcm")!r})
except KeyboardInterrupt:
    print("interrupted")
"""
    process = run_script(tmp_path, code, check=False, start_new_session=True)
    lines = [process.stdout.readline() for _ in range(2)]
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "interrupted\n", "")
    wait_until_dead(int(lines[1]))


@pytest.mark.parametrize("executable", ["/bin/false", "/nowhere/python", "", None])
def test_a_program_that_cannot_start_one_says_so(monkeypatch, executable):
    """Where no process can be started, the error says that, and names no file."""
    monkeypatch.setattr(sys, "executable", executable)
    with Pool() as pool, pytest.raises(DecoderStartError, match="process"):
        decode(pool, "sound")


def test_a_frozen_program_is_not_started_again(monkeypatch):
    """A frozen program would run itself: it is refused instead."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with Pool() as pool, pytest.raises(DecoderStartError, match="no interpreter"):
        decode(pool, "sound")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e9, "1", True])
def test_time_limits_are_checked(seconds):
    """`decode_timeout` is a number of seconds, at most a week."""
    with pytest.raises(OptionError, match=r"decode_timeout is .*, expected seconds"):
        pools.check_timeout(seconds)
    with pytest.raises(OptionError, match="decode_timeout"):
        dicom.decode(b"", "a.dcm", decode_timeout=seconds)


@pytest.mark.parametrize("codec", codec_damage.LOSSLESS)
def test_read_image_uses_real_decoders(codec):
    """Each lossless codec gives the pixels that were encoded, in a process."""
    data = write_file(codec, codec_damage.stream_of(codec))
    image = dicom.decode(data, "a.dcm")
    np.testing.assert_array_equal(image.pixels, codec_damage.pixels_of(codec))
    assert image.pixels.flags.writeable
    assert "gdcm" not in sys.modules or pools.DEFAULT._processes


@pytest.mark.parametrize("codec", codec_damage.CODECS)
def test_real_decoders_may_do_anything(codec):
    """Of streams that nobody has checked, each gives pixels or an error, in time."""
    syntax = str(codec_damage.CODECS[codec][0])
    bits = codec_damage.BITS.get(codec, 16)
    rng = random.Random(codec)

    def coded(stream):
        shape = codec_damage.SHAPE
        return CodedFrame(stream, syntax, *shape, bits, bits, False, "MONOCHROME2")

    sound = codec_damage.stream_of(codec)
    with Pool() as pool:
        expected = pool.start(coded(sound), "a.dcm", 60).result()
        outcomes = [
            pool.start(coded(codec_damage.spoil(rng, sound)), "a.dcm", 10)
            for _ in range(12)
        ]
        failed = 0
        for decoding in outcomes:
            try:
                assert len(decoding.result()) == len(expected)
            except DicomError as exc:
                assert exc.args[0].startswith("a.dcm: ")  # noqa: PT017
                failed += 1
        assert failed > 1
        assert pool.start(coded(sound), "a.dcm", 60).result() == expected
