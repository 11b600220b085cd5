"""A pool of processes that decode frames.

A damaged code stream may end the process that decodes it, keep it busy for ever or fill
its memory: that file is refused, and another process goes on with the next one.

A process is started as a program of its own (`worker`), never by `fork`, and never by
`multiprocessing`, which would run the user's script again. It ends when the pipe to it
is closed, also if this program is killed.
"""

import atexit
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from typing import Any

from fastseg.bounds import MAX_DECODE_TIMEOUT
from fastseg.codecs.codestream import CodedFrame
from fastseg.codecs.messages import receive, send
from fastseg.codecs.worker import (
    NO_MEMORY,
    lacks_memory,
    last_line,
    read_chatter,
)
from fastseg.errors import DecoderStartError, DicomError, OptionError
from fastseg.threads import usable_cores

# Processes of a pool, at most. Each takes some 60 MB.
MOST_PROCESSES = 32
# Seconds in which a process must have imported its decoders; usually 0.4.
START_SECONDS = 300.0
# Seconds in which an idle process must end after its pipe has been closed.
END_SECONDS = 5.0
# Characters of a decoder's own message in an error.
MAX_REASON = 300

# Exit status of a process that a signal has ended.
SHOWN_SIGNALS = {
    -6: "SIGABRT",
    -7: "SIGBUS",
    -8: "SIGFPE",
    -9: "SIGKILL, as when the machine has no memory left",
    -11: "SIGSEGV",
}
NEEDS_MEMORY = (
    "decoding it takes more memory than an image of its size may; it is damaged"
)


def check_timeout(seconds: float) -> float:
    """Return `decode_timeout` as a float, or raise OptionError."""
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= MAX_DECODE_TIMEOUT:
        raise OptionError(
            f"decode_timeout is {seconds!r}, expected seconds, more than 0 and at most "
            f"{MAX_DECODE_TIMEOUT:.0f}"
        )
    return float(seconds)


class Decoding:
    """A frame that is being decoded, or waits for a process."""

    def __init__(self, frame: CodedFrame, name: str, timeout: float):
        self.frame = frame
        self.name = name
        self.timeout = timeout
        self.future: Future[bytearray] = Future()
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self.is_cancelled = False

    def result(self) -> bytearray:
        """Return the pixels, little-endian, as soon as they are there.

        Raises DicomError if the frame cannot be decoded, CancelledError if somebody
        else has stopped it, DecoderStartError.
        """
        return self.future.result()

    def cancel(self) -> None:
        """Stop decoding, if it goes on; end the process that does it."""
        with self._lock:
            self.is_cancelled = True
            if self._process:
                self._process.kill()
        if not self.future.cancel():
            wait([self.future], END_SECONDS)

    def attach(self, process: "_Process | None") -> None:
        """Note which process decodes the frame; None if none does any longer.

        Raises CancelledError for a process if the frame is not to be decoded.
        """
        with self._lock:
            self._process = process
            if process and self.is_cancelled:
                raise CancelledError


class Pool:
    """Processes that decode frames, as many as there are cores, started when needed.

    size : number of processes, at most

    Threads may share a pool. A child made by `fork` gets processes of its own.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size or min(usable_cores(), MOST_PROCESSES)
        self._reset()
        _pools.add(self)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._slots = threading.BoundedSemaphore(self.size)
        self._running: set[Decoding] = set()
        self._idle: list[_Process] = []
        # Also those that decode.
        self._processes: set[_Process] = set()

    def start(self, frame: CodedFrame, name: str, timeout: float) -> Decoding:
        """Start to decode a frame, or queue it.

        name    : name of the file in messages
        timeout : seconds after which its process is ended
        """
        decoding = Decoding(frame, name, timeout)
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.size, "fastseg-decode")
            self._running.add(decoding)
            self._executor.submit(self._run, decoding)
        return decoding

    def decode(self, frame: CodedFrame, name: str, timeout: float) -> bytearray:
        """Decode a frame and return its pixels, without a further thread.

        Takes the arguments of `start`, and raises what `Decoding.result` does.
        """
        decoding = Decoding(frame, name, timeout)
        with self._lock:
            self._running.add(decoding)
        self._run(decoding)
        return decoding.result()

    def stop(self) -> None:
        """Stop decoding and end all processes; `start` starts new ones."""
        with self._lock:
            running = list(self._running)
            executor, self._executor = self._executor, None
        for decoding in running:
            decoding.cancel()
        if executor:
            executor.shutdown()
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.close_pipes()
        for process in idle:
            process.end()
        with self._lock:
            self._processes.difference_update(idle)

    def forget(self) -> None:
        """Drop the processes of the parent, after a fork."""
        for process in self._processes:
            process.disown()
        self._reset()

    def _run(self, decoding: Decoding) -> None:
        """Decode a frame, unless it is cancelled before there is a process for it."""
        with self._slots:
            if decoding.future.set_running_or_notify_cancel():
                try:
                    decoding.future.set_result(self._decode(decoding))
                except BaseException as exc:
                    decoding.future.set_exception(exc)
        with self._lock:
            self._running.discard(decoding)

    def _decode(self, decoding: Decoding) -> bytearray:
        while True:
            process = self._take()
            was_used = process.was_used
            try:
                decoding.attach(process)
                return process.decode(decoding.frame, decoding.name, decoding.timeout)
            except (_DiedError, DecoderStartError) as exc:
                if decoding.is_cancelled:  # which has killed the process
                    raise CancelledError from None
                if isinstance(exc, DecoderStartError):
                    raise
                # An earlier frame may have damaged the memory of the process: only a
                # new one shows that it is this one.
                if exc.is_timeout or not was_used:
                    raise DicomError(f"{decoding.name}: {exc}") from None
            finally:
                decoding.attach(None)
                self._give_back(process)

    def _take(self) -> "_Process":
        with self._lock:
            if self._idle:
                return self._idle.pop()
        process = _Process()
        with self._lock:
            self._processes.add(process)
        return process

    def _give_back(self, process: "_Process") -> None:
        """Keep a process for the next frame, or reap it if it has ended."""
        if process.is_usable:
            with self._lock:
                self._idle.append(process)
            return
        process.kill()
        process.end()
        with self._lock:
            self._processes.discard(process)


class _DiedError(Exception):
    """A process has ended instead of answering."""

    def __init__(self, reason: str, is_timeout: bool = False):
        super().__init__(reason)
        self.is_timeout = is_timeout


class _Process:
    """One process. It decodes one frame at a time."""

    def __init__(self) -> None:
        if getattr(sys, "frozen", False) or not sys.executable:
            raise DecoderStartError(
                "compressed images are decoded by processes that run Python, and "
                "this program has no interpreter that could start one"
            )
        # It must import what this program imports, whatever changed `sys.path`.
        folders = [os.path.abspath(x) for x in sys.path if isinstance(x, str)]  # noqa: PTH100
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(folders),
            # Threads of BLAS, which is not used, would take gigabytes of addresses.
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        # Without a session or group of its own, it would get the Ctrl-C that is meant
        # for this program.
        options: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
            options = {"creationflags": flags}
        try:
            with ExitStack() as stack:
                file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
                self._printed = file
                self._popen = subprocess.Popen(
                    [sys.executable, "-P", "-m", "fastseg.codecs.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    bufsize=0,
                    env=environment,
                    **options,
                )
                stack.pop_all()
        except OSError as exc:
            raise DecoderStartError(f"cannot start a decoding process: {exc}") from exc
        self._requests: Any = self._popen.stdin
        self._replies: Any = self._popen.stdout
        self._has_started = False
        self._was_killed = False
        self.was_used = False
        self.is_usable = True

    def decode(self, frame: CodedFrame, name: str, timeout: float) -> bytearray:
        """Return the pixels of a frame.

        Raises DicomError if the decoder refuses it, _DiedError if the process is gone
        or has been ended, DecoderStartError.
        """
        self.is_usable = False  # until it has answered; there may be a Ctrl-C
        if not self._has_started:
            self._start()
        self.was_used = True
        head = {**frame._asdict(), "timeout": timeout}
        data = head.pop("data")
        size = frame.pixel_bytes
        limit = _TimeLimit(self, timeout)
        try:
            with limit:
                send(self._requests, head, data)
                reply, pixels = receive(self._replies, size)
        except (OSError, EOFError, ValueError):
            raise self._died(limit) from None
        if not reply["failure"] and len(pixels) != size:
            raise self._died(limit)
        self.is_usable = not reply["is_last"] and not self._was_killed
        if failure := reply["failure"]:
            if failure == NO_MEMORY:
                raise DicomError(f"{name}: {NEEDS_MEMORY}")
            raise DicomError(f"{name}: cannot be decoded: {_quote(failure)}")
        return pixels

    def kill(self) -> None:
        """End the process at once."""
        self._was_killed = True
        self._popen.kill()

    def close_pipes(self) -> None:
        """Let the process end, if it is idle."""
        for file in (self._requests, self._replies):
            with suppress(OSError):
                file.close()

    def end(self) -> None:
        """Wait until the process has ended, so that nothing remains of it."""
        self.close_pipes()
        try:
            self._popen.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._printed.close()

    def disown(self) -> None:
        """Close the pipes in a child made by `fork`; the process is its parent's."""
        self.close_pipes()
        self._printed.close()
        self._popen.returncode = 0  # or its __del__ would warn

    def _start(self) -> None:
        """Wait until the process can decode."""
        try:
            with _TimeLimit(self, START_SECONDS):
                receive(self._replies, 0)
        except (OSError, EOFError, ValueError):
            self.kill()
            self._popen.wait()
            line = last_line(read_chatter(self._printed.fileno()))
            raise DecoderStartError(
                f"a decoding process has not started ({sys.executable} -m "
                f"fastseg.codecs.worker): {_quote(line or 'no message')}"
            ) from None
        self._has_started = True

    def _died(self, limit: "_TimeLimit") -> _DiedError:
        """Return why the process is gone; raise CancelledError if it was cancelled."""
        was_killed = self._was_killed
        self.kill()
        code = self._popen.wait()
        if limit.has_expired:
            return _DiedError(
                f"decoding it takes more than {limit.seconds:g} s; it is damaged, or "
                "raise decode_timeout",
                is_timeout=True,
            )
        if was_killed:
            raise CancelledError
        printed = read_chatter(self._printed.fileno())
        if lacks_memory(printed):
            return _DiedError(NEEDS_MEMORY)
        by = SHOWN_SIGNALS.get(code, f"status {code}")
        line = last_line(printed)
        said = f" ({_quote(line)})" if line else ""
        return _DiedError(f"is damaged: decoding it ended with {by}{said}")


class _TimeLimit:
    """Kills a process unless a block of code ends in time."""

    def __init__(self, process: _Process, seconds: float):
        self.seconds = seconds
        self.has_expired = False
        self._process = process
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def _expire(self) -> None:
        self.has_expired = True
        self._process.kill()

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        # After this, it can no longer kill a process that goes on to the next frame.
        self._timer.join()


def _quote(text: str) -> str:
    """Return a decoder's message on one line, in printable ASCII, and not too long."""
    plain = "".join(x if " " <= x <= "~" else "?" for x in " ".join(text.split()))
    return plain if len(plain) <= MAX_REASON else f"{plain[:MAX_REASON]} ..."


# All pools, to be reset in children made by `fork`.
_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()


def _forget_processes() -> None:
    for pool in _pools:
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_processes)

# The pool of whoever brings none, such as `fastseg.dicom.read_image`.
DEFAULT = Pool()
atexit.register(DEFAULT.stop)
