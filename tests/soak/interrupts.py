"""Ctrl-C at random moments of loops, builds and `verify`."""

import faulthandler
import random
import signal
import threading
import time

import fastseg
from tests import codec_damage
from tests.soak import Fault

# After so long without an end, the process prints its threads and exits.
HANG_S = 60
# Threads end within this time after an interrupt.
END_S = 2.0


def run(folder, tries, seed):
    """Interrupt tasks by a timer; yield which of them was interrupted or finished."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    tasks = Tasks(folder)
    draw = random.Random(seed)
    names = (
        "load",
        "load",
        "load",
        "augment",
        "leave_early",
        "build",
        "decode",
        "verify",
    )
    # Kernels are compiled before, and each task's time is known.
    seconds = {}
    for name in set(names):
        for _ in range(3):
            start = time.perf_counter()
            tasks.run(name)
            seconds[name] = time.perf_counter() - start
    for k in range(tries):
        name = draw.choice(names)
        limit = seconds[name] * draw.choice((0.2, 1.1))
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        outcome = "finished"
        try:
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-6, limit))
            tasks.run(name)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            outcome = "interrupted"
        text = tasks.check(name)
        faulthandler.cancel_dump_traceback_later()
        is_fault = text is not None
        yield Fault(f"try {k}, {name}: {text}") if is_fault else f"{name} {outcome}"


class Tasks:
    """What is interrupted, and what must be true afterwards."""

    def __init__(self, folder):
        study = folder / "study"
        fastseg.make_phantom(study, patients=2, slices=2, phases=3, sizes=(40, "48x36"))
        self.table = fastseg.link(study)
        self.output = folder / "o.h5"
        self.path = fastseg.build(self.table, folder / "reference.h5").path
        self.expected = self.path.read_bytes()
        self.compressed = self._write_compressed(folder / "coded")
        self.decoded = folder / "d.h5"
        fastseg.build(self.compressed, self.decoded)
        self.pixels = self.decoded.read_bytes()
        self.store = fastseg.open(self.path)
        options = {"batch_size": 3, "size": (40, 36), "missing": "background"}
        self.loader = fastseg.Loader(self.store, threads=3, **options)
        self.augmented = fastseg.Loader(
            self.store, threads=2, augment="standard", **options
        )
        self.batches = self._batches()

    def _write_compressed(self, folder):
        """Write images that other processes decode, and return the table of them."""
        folder.mkdir()
        rows = ["patient,dicom_path,contour_path,label"]
        for k, codec in enumerate([*codec_damage.LOSSLESS] * 2):
            stream = codec_damage.stream_of(codec, k)
            (folder / f"{k}.dcm").write_bytes(codec_damage.write_file(codec, stream))
            rows.append(f"p,{k}.dcm,,")
        (folder / "links.csv").write_text("\n".join(rows) + "\n")
        return folder / "links.csv"

    def run(self, name):
        """Run a task; a KeyboardInterrupt may end it anywhere."""
        if name == "build":
            self.output.unlink(missing_ok=True)
            fastseg.build(self.table, self.output, threads=2)
        elif name == "decode":
            self.decoded.unlink(missing_ok=True)
            fastseg.build(self.compressed, self.decoded)
        elif name == "verify":
            fastseg.verify(self.path, threads=2)
        elif name == "leave_early":
            for _ in self.loader:
                break
        else:
            loader = self.loader if name == "load" else self.augmented
            for _ in loader:
                pass

    def check(self, name):
        """Return what is wrong after a task, None if nothing is."""
        end = time.monotonic() + END_S
        while threading.active_count() > 1 and time.monotonic() < end:
            time.sleep(0.001)
        if threading.active_count() > 1:
            names = [thread.name for thread in threading.enumerate()]
            return f"threads are left: {names}"
        if name == "build":
            return self._check_build(self.table, self.output, self.expected)
        if name == "decode":
            return self._check_build(self.compressed, self.decoded, self.pixels)
        return None if self._batches() == self.batches else "other batches afterwards"

    def _check_build(self, table, output, expected):
        fastseg.build(table, output)
        if output.read_bytes() != expected:
            return "the next build gave other bytes"
        left = {path.name for path in output.parent.glob(f"{output.name}*")}
        return None if left == {output.name} else f"the next build left {left}"

    def _batches(self):
        self.loader.epoch = 0
        return [(b.index.tolist(), b.image.tobytes()) for b in self.loader]
