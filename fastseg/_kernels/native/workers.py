"""Compiles kernels in processes of their own, side by side, and says so.

A process of its own can make code for another processor level, and numba neither slows
down nor fills the memory of the process that only runs kernels.
"""

import base64
import contextlib
import functools
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib import import_module
from pathlib import Path
from typing import Any

from fastseg._kernels.native import cache, signatures
from fastseg.errors import CompileError

# Says what is waited for, at level WARNING, and what is done, at level INFO.
log = logging.getLogger("fastseg.compile")
# What is wrong with the cache.
cache_log = logging.getLogger("fastseg.cache")

# Seconds until a user is told what they wait for.
PATIENCE = 0.5
MOST_PROCESSES = 8
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from fastseg._kernels.native.workers import serve; serve(*sys.argv[2:])"
)
# The full name of a kernel, and its signature as text.
Request = tuple[str, str]


def compile_objects(
    requests: Sequence[Request],
    level: str,
    folder: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Compile kernels for signatures, and keep the objects.

    level    : the processor level
    folder   : where to keep them; by default in the cache
    progress : called with the name of each kernel that is done; without it, one line is
        logged if it takes long

    Raises CompileError.
    """
    place = folder
    if place is None:
        try:
            place = cache.make_folder(level)
            cache.remove_outdated(place)
        except OSError as exc:
            _warn(str(exc))
    team = _Team(requests, level, place, progress)
    team.work()
    if team.unwritten and folder is not None:
        raise OSError(team.unwritten)
    if team.unwritten:
        _warn(team.unwritten)


@functools.cache
def _warn(why: str) -> None:
    """Say that nothing can be kept; each reason once in a process."""
    cache_log.warning("%s. This process compiles for itself alone", why)


class _Team:
    """Processes that share a list of kernels to compile."""

    def __init__(
        self,
        requests: Sequence[Request],
        level: str,
        folder: Path | None,
        progress: Callable[[str], None] | None,
    ) -> None:
        # What to say if an object could not be written.
        self.unwritten = ""
        self._waiting = deque(requests)
        self._level, self._folder = level, folder
        self._progress = progress
        self._processes: list[subprocess.Popen[str]] = []
        self._errors: list[str] = []
        self._is_stopped = False
        self._lock = threading.Lock()
        names = list(dict.fromkeys(path.rpartition(".")[2] for path, _ in requests))
        self._subject = ", ".join(names[:3]) + " ..." * (len(names) > 3)
        self._total = len(requests)
        self._done = 0

    def work(self) -> None:
        """Compile all, and wait for it."""
        count = min(self._total, len(os.sched_getaffinity(0)), MOST_PROCESSES)
        with ThreadPoolExecutor(count, "fastseg-compile") as pool:
            try:
                tasks = [pool.submit(self._run_process) for _ in range(count)]
                self._wait(tasks)
            finally:
                with self._lock:
                    self._is_stopped = True
                    for process in self._processes:
                        process.kill()
        for task in tasks:
            task.result()
        if self._errors:
            raise CompileError(self._errors[0])

    def _wait(self, tasks: Sequence[Future[None]]) -> None:
        if self._progress is None and wait(tasks, PATIENCE).not_done:
            place = self._folder
            log.warning(
                "fastseg is compiling %s for this machine, %d of %d done; %s",
                self._subject,
                self._done,
                self._total,
                f"it is kept in {place}" if place else "it cannot be kept",
            )
        wait(tasks)

    def _run_process(self) -> None:
        # What the process says, in memory: there may be no folder for such files.
        with os.fdopen(os.memfd_create("messages"), "w+") as messages:
            with self._lock:
                if self._is_stopped:
                    return
                try:
                    process = self._start(messages)
                except OSError as exc:
                    self._fail(
                        f"no process that compiles kernels can be started: {exc}"
                    )
                    return
                self._processes.append(process)
            with process:
                try:
                    self._feed(process)
                except (OSError, ValueError, EOFError):  # the process has ended
                    with contextlib.suppress(OSError):  # it flushes to a closed pipe
                        process.stdin.close()  # type: ignore[union-attr]
                    process.kill()
                    process.wait()
                    if not self._is_stopped:
                        messages.seek(0)
                        [*_, last] = messages.read().splitlines() or ["it says nothing"]
                        self._fail(
                            f"a process that compiles kernels of fastseg ended with "
                            f"status {process.returncode}: {last}"
                        )

    def _start(self, messages: Any) -> "subprocess.Popen[str]":
        if not sys.executable:
            raise OSError("sys.executable does not name a Python to start")
        ignored = ("NUMBA_", "PYTHON") if sys.flags.ignore_environment else ("NUMBA_",)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(ignored)
        }
        environment["PYTHONHASHSEED"] = "0"  # sets in numba have one order then
        return subprocess.Popen(
            [
                # Without the current folder, whose modules would come first.
                *(sys.executable, "-P", "-c", START, json.dumps(sys.path)),
                *(self._level, str(self._folder or "")),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            env=environment,
        )

    def _feed(self, process: "subprocess.Popen[str]") -> None:
        """Give a process one kernel after the other."""
        assert process.stdin is not None
        assert process.stdout is not None
        while not self._errors:
            try:
                request = self._waiting.popleft()
            except IndexError:
                break
            start = time.monotonic()
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise EOFError("no answer")
            answer = json.loads(line)
            if answer["error"]:
                self._fail(f"{request[0]} cannot be compiled: {answer['error']}")
                log.debug("%s", answer["traceback"])
            if answer["code"]:
                cache.hold(*request, base64.b64decode(answer["code"]))
            self.unwritten = self.unwritten or answer["unwritten"]
            self._done += 1
            log.info(
                "compiled %s in %.1f s, %d of %d",
                *(request[0].rpartition(".")[2], time.monotonic() - start),
                *(self._done, self._total),
            )
            if self._progress is not None:
                self._progress(request[0].rpartition(".")[2])
        # An empty line, because a process forked meanwhile may keep the pipe open.
        process.stdin.write("\n")
        process.stdin.close()

    def _fail(self, error: str) -> None:
        self._errors.append(error)


def serve(level: str, folder: str) -> None:
    """Compile what standard input asks for; in a process of `compile_objects`.

    Each line is a `Request` as JSON. The answer is a line too: an error, if there was
    one; and if the code could not be written to the folder, the code and the reason.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may be written there
    gc.disable()  # a tenth of the time; the process does not last
    # numba would import it, for a fifth of a second, to see whether it has BLAS.
    sys.modules.setdefault("scipy", None)  # type: ignore[arg-type]
    from fastseg._kernels.native import compiler

    compiler.set_level(level)
    for line in iter(sys.stdin.readline, ""):
        if not line.strip():
            break
        answer = {"error": "", "unwritten": "", "code": ""}
        try:
            path, text = json.loads(line)
            _answer(path, text, level, Path(folder) if folder else None, answer)
        except Exception as exc:
            answer["error"] = f"{type(exc).__name__}: {exc}".split("\n")[0]
            answer["traceback"] = traceback.format_exc()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(
    path: str, text: str, level: str, folder: Path | None, answer: dict[str, str]
) -> None:
    from fastseg._kernels.native import compiler

    module, _, name = path.rpartition(".")
    kernel = getattr(import_module(module), name)
    with contextlib.ExitStack() as stack:
        if folder is not None:
            target = folder / f"{cache.name_of(path, text)}.o"
            stack.enter_context(cache.locked(target))
            if cache.read_file(target, path, text, level) is not None:
                return  # another process has made it meanwhile
        code = compiler.compile_entry(kernel, signatures.parse(text))
        if folder is not None:
            try:
                cache.write(folder, path, text, level, code, compiler.VERSIONS)
                return
            except OSError as exc:
                answer["unwritten"] = cache.unwritable(folder, exc)
        answer["code"] = base64.b64encode(code).decode()
