"""A hook of hatchling that puts object code into a wheel; `make wheel` switches it on.

Without HATCH_BUILD_HOOK_ENABLE_CUSTOM=true in the environment, hatchling does not read
this module: the wheel is pure, as from `pip install .`. With it, all entries are
compiled for the levels of `machine.IN_WHEELS`, each by processes of its own, into a
temporary folder, and not from any cache: the same sources give the same bytes.

To try a wheel that takes seconds to make, FASTSEG_WHEEL_ONLY is a part of what to
compile, written as `module.kernel(signature)`: "fill_one(" takes all of one kernel.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# All that object code takes from outside are functions of Python and of the C library
# that are older than glibc 2.17, found by name when it is loaded, whatever their
# version. So the wheel suits each glibc that wheels of numpy 2 may be for. It is for
# any Python: what differs between versions of Python is tried when it starts.
TAG = "py3-none-manylinux_2_17_x86_64"
ONLY = "FASTSEG_WHEEL_ONLY"


class ObjectsHook(BuildHookInterface[Any]):  # type: ignore[misc]
    """Compiles before a wheel is packed, and says how large it is afterwards."""

    def dependencies(self) -> list[str]:
        """Return what compiling needs: all that fastseg needs."""
        return list(self.metadata.core.dependencies)

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and add the objects to what is packed."""
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="fastseg-wheel-")
        compile_all(Path(self.root), Path(self._folder.name))
        build_data["pure_python"] = False
        build_data["tag"] = TAG
        build_data["force_include"][self._folder.name] = "fastseg/_kernels/objects"

    def finalize(
        self, version: str, build_data: dict[str, Any], artifact_path: str
    ) -> None:
        """Say how large the wheel is."""
        if version != "editable":
            self._folder.cleanup()
            size = Path(artifact_path).stat().st_size
            print(f"{artifact_path}: {size / 1e6:.2f} MB", file=sys.stderr)


def compile_all(root: Path, folder: Path) -> None:
    """Compile the entries of the project in `root` for all levels, into a folder."""
    sys.path.insert(0, str(root))
    from fastseg._kernels.native import catalogue, machine, workers

    if not machine.is_supported():
        raise RuntimeError(
            "a wheel with object code is made on Linux, by CPython with a global lock, "
            "on an x86-64 processor"
        )
    part = os.environ.get(ONLY, "")
    requests = [
        (path, signature)
        for path, signature in catalogue.all_requests()
        if part in f"{path}({signature})"
    ]
    if not requests:
        raise RuntimeError(f"there is nothing to compile: {ONLY} is {part!r}")
    for level in machine.IN_WHEELS:
        place = folder / level
        place.mkdir()
        show = _Progress(level, len(requests))
        workers.compile_objects(requests, level, place, show)
        for lock in place.glob("*.lock"):
            lock.unlink()
        show.finish(sum(file.stat().st_size for file in place.iterdir()))


class _Progress:
    """Says on stderr how many kernels are compiled: on a terminal, in one line."""

    def __init__(self, level: str, total: int) -> None:
        self.level, self.total, self.done = level, total, 0
        self.kernels = f"{total} kernel{'s' * (total != 1)} for {level}"
        self.start = time.monotonic()
        self.is_terminal = sys.stderr.isatty()
        self._print(f"compiling {self.kernels} ...")

    def __call__(self, name: str) -> None:
        self.done += 1
        if self.is_terminal:
            self._print(f"{self.level}: {self.done} of {self.total}, {name}")

    def finish(self, size: int) -> None:
        """Say how large the objects are, and how long it took."""
        seconds = time.monotonic() - self.start
        self._print(f"{self.kernels}: {size / 1e6:.2f} MB in {seconds:.0f} s")
        if self.is_terminal:
            print(file=sys.stderr)

    def _print(self, text: str) -> None:
        if self.is_terminal:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
