"""System calls that fail, one after the other, in all that reads or writes files.

A library that is loaded before the C library (failing_calls.c) counts the system calls
on files below a folder and lets chosen ones fail. Each try is a child process: it
builds, verifies, loads or links, and one call fails, or it and all after it, or a read
or write does half its work. It must give the same result as without failures, or list
a reject, or raise an error that names a file; then the same work without failures must
give the same bytes.
"""

import ctypes
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np

import fastseg
from fastseg.errors import FastsegError, NothingBuiltError
from tests import steps
from tests.conftest import PROJECT
from tests.soak import Fault

ONCE, FROM_THEN, SHORT = range(3)
MODES = {ONCE: "fails", FROM_THEN: "and all later calls fail", SHORT: "does half"}
ERRNOS = ("EIO", "ENOSPC", "EMFILE", "ENOMEM", "EACCES", "ESTALE", "EINTR")
SECONDS = 60


def run(folder, tries, seed):
    """Compile the library and start a process with it; yield its outcomes."""
    compiler = shutil.which("cc")
    if compiler is None:
        yield "needs a C compiler, not run"
        return
    library = folder / "failing_calls.so"
    source = Path(__file__).with_name("failing_calls.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True)
    command = [sys.executable, "-X", "faulthandler", "-m", __name__]
    command += [str(library), str(folder), str(tries), str(seed)]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    with subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True
    ) as running:
        for line in running.stdout:
            is_fault, text = json.loads(line)
            yield Fault(text) if is_fault else text
    if running.returncode:
        yield Fault(f"the process ended with {running.returncode}")


class Tasks:
    """What is tried: a method prepares files, returns a task and a check of its end.

    A task returns a function that returns whether it reported a loss, to be called when
    no call fails any longer. Each method is called before every try.
    """

    def __init__(self, folder):
        self.folder = folder
        study = folder / "study"
        fastseg.make_phantom(
            study, patients=2, sizes=(40, "48x36"), slices=2, phases=3, seed=1
        )
        self.table = fastseg.link(study)
        self.links = folder / "links.csv"
        self.table.save(self.links)
        self.stored = {}
        for compress in (False, True):
            path = folder / f"reference{compress}.h5"
            fastseg.build(self.links, path, compress=compress)
            self.stored[compress] = path
        self.batches = self._batches(self.stored[False])

    def build(self, threads=1, compress=False):
        """A new store."""
        output = self._clear()
        return self._building(output, threads=threads, compress=compress)

    def build_with_threads(self):
        """A new store, by two threads."""
        return self.build(threads=2)

    def build_compressed(self):
        """A new compressed store."""
        return self.build(compress=True)

    def build_again(self):
        """A store in place of one with other options."""
        output = self._clear()
        fastseg.build(self.links, output, edges="closed")
        return self._building(output)

    def resume(self):
        """A store whose build has stopped halfway."""
        output = self._clear()

        def stop(label, done, total):
            if label == "build" and done:
                raise InterruptedError

        try:
            fastseg.build(self.links, output, progress=steps.at(stop))
        except InterruptedError:
            return self._building(output)
        raise AssertionError("the build did not stop")

    def verify(self):
        """`verify` of a store and of its sources."""
        path = self.stored[False]

        def task():
            report = fastseg.verify(path, sources=self.folder / "study")
            return lambda: not report.is_valid

        return task, lambda: fastseg.verify(path).is_valid

    def load(self):
        """One epoch of a store."""
        path = self.stored[False]

        def task():
            batches = self._batches(path)
            if batches != self.batches:
                raise AssertionError("other batches")
            return lambda: False

        return task, lambda: True

    def link(self):
        """A links table of a study."""
        path = self.folder / "again.csv"
        path.unlink(missing_ok=True)

        def task():
            table = fastseg.link(self.folder / "study")
            table.save(path)
            return lambda: self._is_lost(path, self.links, table.rejects)

        def check():
            fastseg.link(self.folder / "study").save(path)
            left = {p.name for p in self.folder.glob("again.csv*")}
            return path.read_bytes() == self.links.read_bytes() and left == {path.name}

        return task, check

    def _clear(self):
        for path in self.folder.glob("o.h5*"):
            path.unlink()
        return self.folder / "o.h5"

    def _building(self, output, threads=1, compress=False):
        options = {"threads": threads, "compress": compress}
        expected = self.stored[compress].read_bytes()
        older = output.read_bytes() if output.exists() else None

        def task():
            report = fastseg.build(self.links, output, **options)
            return lambda: self._is_lost(output, self.stored[compress], report.rejects)

        def check():
            if output.exists():
                content = output.read_bytes()
                if content not in (older, expected):  # some images were rejected
                    fastseg.open(output)
                    assert fastseg.verify(output).is_valid
            elif older is not None:
                return False
            fastseg.build(self.links, output, **options)
            return output.read_bytes() == expected and [output] == list(
                self.folder.glob("o.h5*")
            )

        return task, check

    def _is_lost(self, path, expected, rejects):
        """Return whether a file is not as expected, which rejects must report."""
        is_same = path.read_bytes() == expected.read_bytes()
        if not is_same and not rejects:
            raise AssertionError("other bytes, no reject")
        return not is_same

    def _batches(self, path):
        loader = fastseg.Loader(
            fastseg.open(path), batch_size=3, size=(40, 36), missing="background"
        )
        batches = [
            (b.index.tolist(), b.image.tobytes(), b.mask.tobytes()) for b in loader
        ]
        return sorted(batches)


TASKS = (
    "build",
    "build_with_threads",
    "build_compressed",
    "build_again",
    "resume",
    "verify",
    "load",
    "link",
)


class Calls:
    """The library that lets calls fail."""

    def __init__(self, library):
        self._library = ctypes.CDLL(library)
        self._library.failing_calls_name.restype = ctypes.c_char_p
        self._library.failing_calls_count.restype = ctypes.c_long

    def arm(self, folder, at, error, mode):
        """Count the calls below a folder from now on; let the at-th fail, if any."""
        text = os.fsencode(folder)
        self._library.failing_calls_arm(text, ctypes.c_long(at), error, mode)

    def disarm(self):
        """Let no further call fail."""
        self.arm("", 0, 0, ONCE)

    def count(self):
        """Return how many calls there were."""
        return self._library.failing_calls_count()

    def name(self):
        """Return the name of the call that failed, "" if none has."""
        return self._library.failing_calls_name().decode()


def try_all(library, folder, tries, seed):
    """Print the outcome of each try as a line of JSON."""
    calls = Calls(library)
    tasks = Tasks(folder / "work")
    counts = {}
    for name in TASKS:
        task, _ = getattr(tasks, name)()
        calls.arm(tasks.folder, 0, 0, ONCE)
        task()
        counts[name] = calls.count()
        calls.disarm()
    everything = [
        (name, at, mode)
        for name in TASKS
        for at in range(counts[name])
        for mode in MODES
    ]
    draw = random.Random(seed)
    chosen = draw.sample(everything, min(tries, len(everything)))
    for name, at, mode in chosen:
        # Python repeats an interrupted call, for ever if it always is.
        error = draw.choice(ERRNOS[:-1] if mode == FROM_THEN else ERRNOS)
        task, check = getattr(tasks, name)()
        what = f"{name}, call {at + 1} {MODES[mode]}, {error}"
        kind, text = in_a_child(attempt, calls, tasks.folder, task, at + 1, error, mode)
        if kind != "fault" and not check():
            kind, text = "fault", "the work was not the same afterwards"
        if kind == "fault":
            print(json.dumps((True, f"{what}: {text}")), flush=True)
        else:
            print(json.dumps((False, text)), flush=True)


def attempt(calls, folder, task, at, error, mode):
    """Run a task while a call fails; return the kind of its outcome and a text."""
    calls.arm(folder, at, getattr(errno, error), mode)
    try:
        judge = task()
        name = calls.name()
        calls.disarm()
        has_loss = judge()
    except (FastsegError, OSError) as exc:
        name = calls.name()
        calls.disarm()
        text = str(exc)
        rejects = exc.rejects if isinstance(exc, NothingBuiltError) else ()
        if not name:
            return "fault", f"no call failed, but {exc!r}"
        if str(folder) not in text and not rejects:
            where = "".join(traceback.format_tb(exc.__traceback__)[-3:])
            return "fault", f"{name}: names no file: {exc!r}\n{where}"
        return "ok", "an error that names the file"
    except BaseException:
        name = calls.name()
        calls.disarm()
        return "fault", f"{name}: {traceback.format_exc()[-1500:]}"
    if has_loss:
        return "ok", "the loss was reported, the rest done"
    return "ok", "the same result" if name else "the same result, no call failed"


def in_a_child(function, *arguments):
    """Return what a function returns in a forked process, or how that ended."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        signal.alarm(SECONDS)
        with os.fdopen(write, "w") as output:
            output.write(json.dumps(function(*arguments)))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as source:
        text = source.read()
    _, status = os.waitpid(child, 0)
    if status:
        return "fault", f"the process ended with status {status}"
    return json.loads(text)


if __name__ == "__main__":
    np.seterr(all="raise")
    path, where, number, start = sys.argv[1:]
    (Path(where) / "work").mkdir()
    try_all(path, Path(where), int(number), int(start))
