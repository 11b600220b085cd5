"""Builds on processes and on Dask whose workers are killed at random moments."""

import multiprocessing
import os
import random
import signal
import threading
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress

import fastseg
from fastseg.ingest import plan
from fastseg.tasks import process_pool
from tests.soak import Fault

# Seconds from the start of a build to the end of a worker, at most: what a build takes.
MOST_DELAY = 2.0
WORKERS = 4
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
    with ExitStack() as stack:
        cluster = None
        with suppress(ImportError):
            from distributed import LocalCluster

            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=WORKERS,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",
                )
            )
            client = stack.enter_context(cluster.get_client())
        for k in range(tries):
            delay = draw.uniform(0, MOST_DELAY)
            if cluster is not None and k % 2:
                client.wait_for_workers(WORKERS)
                workers = [worker.pid for worker in cluster.workers.values()]
                with killed_after(delay, lambda pids=workers: draw.choice(pids)):
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
