"""Runs the command line as a user does, in a process of its own, without its start.

Importing what the commands use takes a second, and tests run hundreds of commands: a
server process imports it once, and is forked for each command.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401

import fastseg.__main__
import fastseg.benchmark
import fastseg.cli.main
import fastseg.ingest.builder
import fastseg.pictures.picture
import fastseg.store.verify
from fastseg._kernels.native import workers

# Whether a test is the first to need a kernel is chance: what is compiled is not said
# unless a test asks for it.
workers.PATIENCE = 600.0
# Systems that cannot fork start each process anew, which takes longer.
METHODS = multiprocessing.get_all_start_methods()
CONTEXT = multiprocessing.get_context(
    "forkserver" if "forkserver" in METHODS else "spawn"
)
CONTEXT.set_forkserver_preload(["tests.commands"])
TIMEOUT_S = 120


def run_command(arguments, cwd):
    """Run `fastseg` with arguments in a folder; return what `subprocess.run` does."""
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name, "stdout"), Path(name, "stderr")]
        process = CONTEXT.Process(
            target=_run, args=(arguments, cwd, dict(os.environ), *files)
        )
        process.start()
        process.join(TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, TIMEOUT_S)
        stdout, stderr = (path.read_text(encoding="utf-8") for path in files)
    return subprocess.CompletedProcess(arguments, process.exitcode, stdout, stderr)


def _run(arguments, cwd, environment, stdout, stderr):
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, stdout), (2, stderr)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, number)
        os.close(handle)
    sys.argv = ["fastseg", *arguments]
    fastseg.__main__.main()
