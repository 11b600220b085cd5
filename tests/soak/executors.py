"""Builds on processes and on Dask whose workers are killed at random moments."""

import multiprocessing
import os
import random
import signal
import threading
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, suppress
from importlib.util import find_spec

import fastseg
from fastseg.ingest import plan
from fastseg.tasks import process_pool
from tests.soak import Fault

# Seconds from the start of a build to the end of a worker, at most: what a build takes.
MOST_DELAY = 2.0
WORKERS = 4
# Until a worker has started again, at most.
START_SECONDS = 60
# So that a few hundred images have many blocks, and tasks.
plan.BLOCK_SIZE = 5


def run(folder, tries, seed):
    """Kill workers, continue if the executor gives up; yield what happened."""
    study = folder / "study"
    fastseg.make_phantom(study, patients=4, slices=8, phases=8, seed=1)
    table = fastseg.link(study, keep_unlabelled=True)
    output = folder / "o.h5"
    expected = fastseg.build(table, folder / "reference.h5").path.read_bytes()
    draw = random.Random(seed)
    has_dask = find_spec("distributed") is not None
    cluster = Cluster()
    with closing(cluster):
        for k in range(tries):
            delay = draw.uniform(0, MOST_DELAY)
            if has_dask and k % 2:
                client = cluster.get_client()
                with killed_after(delay, lambda: draw.choice(cluster.pids())):
                    fastseg.build(table, output, executor=client)
                outcome = "dask went on"
            else:
                outcome = build_on_processes(table, output, draw, delay)
            if output.read_bytes() != expected:
                yield Fault(f"try {k}: other bytes")
            elif list(folder.glob("o.h5*")) != [output]:
                yield Fault(f"try {k}: files are left")
            else:
                yield outcome
            output.unlink()


class Cluster:
    """A cluster of Dask that is replaced if it does not replace its workers.

    It gives up one that was killed while it started.
    """

    def __init__(self):
        self._stack = ExitStack()
        self._client = None

    def get_client(self):
        """Return the client of a cluster that has all of its workers."""
        from distributed import LocalCluster

        if self._client is not None:
            try:
                self._client.wait_for_workers(WORKERS, timeout=START_SECONDS)
            except TimeoutError:
                self.close()
        if self._client is None:
            self._cluster = self._stack.enter_context(
                LocalCluster(
                    n_workers=WORKERS,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",
                )
            )
            self._client = self._stack.enter_context(self._cluster.get_client())
            self._client.wait_for_workers(WORKERS)
        return self._client

    def pids(self):
        """Return the processes of workers."""
        workers = self._cluster.workers.values()
        return [worker.pid for worker in workers if worker.pid] or [0]

    def close(self):
        """End the cluster."""
        self._stack.close()
        self._client = None


def build_on_processes(table, output, draw, delay):
    """Build, and again if a process was killed; return what happened."""
    before = set(multiprocessing.active_children())

    def victim():
        children = set(multiprocessing.active_children()) - before
        return draw.choice([child.pid for child in children] or [0])

    outcome = "processes were faster"
    with killed_after(delay, victim):
        try:
            with process_pool(WORKERS) as executor:
                fastseg.build(table, output, executor=executor)
        except BrokenProcessPool:
            outcome = "processes continued"
    if not output.exists():
        with process_pool(WORKERS) as executor:
            fastseg.build(table, output, executor=executor)
    return outcome


class killed_after(threading.Timer):
    """Kills a process that a function chooses, after some seconds, as a context."""

    def __init__(self, delay, victim):
        super().__init__(delay, self.kill)
        self.victim = victim

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self.cancel()
        self.join()

    def kill(self):
        pid = self.victim()
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
