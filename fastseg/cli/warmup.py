"""The command that compiles kernels before anybody waits for them.

It imports what needs numpy when it runs, so that help and completion are quick.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

from fastseg.choices import Cpu
from fastseg.cli.terminal import (
    EXIT_ERROR,
    AsJson,
    Output,
    choice_or,
    command,
    fail,
)
from fastseg.errors import OptionError, one_of
from fastseg.reprs import many

if TYPE_CHECKING:
    from fastseg._kernels.native.workers import Request

NO_OBJECTS = (
    "nothing can be compiled beforehand here: fastseg keeps compiled code only on "
    "Linux, with CPython and an x86-64 processor. Elsewhere, numba compiles a kernel "
    "when it is first used"
)
INTERPRETED = (
    "nothing is compiled, because NUMBA_DISABLE_JIT is set: kernels run as Python"
)


@command
def warmup(
    output: Output,
    cpu: Annotated[
        list[str] | None,
        choice_or(
            None,
            Cpu,
            "Processor level to compile for, as of other machines that use the same "
            "cache; repeat the option for several.",
            show_default="that of this machine",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compile all kernels for which there is no compiled code yet.

    Otherwise each is compiled when it is first used. Run it where an image of a
    container is built, and on one node of each kind in a cluster. Compiled code is kept
    in a cache, and used by all processes from then on.

    Example: `fastseg warmup --cpu x86-64-v3 --cpu x86-64-v4`
    """
    for level in cpu or []:
        if level not in get_args(Cpu):
            raise OptionError(one_of("--cpu", level, get_args(Cpu)))

    from fastseg._kernels import jit
    from fastseg._kernels.native import cache, catalogue, entries, machine, workers

    if jit.INTERPRETED:
        fail(output, INTERPRETED, EXIT_ERROR)
    if not machine.uses_objects():
        fail(output, NO_OBJECTS, EXIT_ERROR)
    requests = catalogue.all_requests()
    results = []
    for level in dict.fromkeys(cpu or entries.levels()[:1]):
        there = _find_objects(requests, level)
        missing = [request for request in requests if request not in there]
        if missing:
            folder = cache.make_folder(level)
            cache.remove_outdated(folder)
            if not as_json:
                output.say(f"compiling {many(len(missing), 'kernel')} for {level}")
            start = time.perf_counter()
            with output.progress("compile", len(missing)) as advance:
                workers.compile_objects(missing, level, folder, lambda _: advance())
            output.detail(f"compiled in {time.perf_counter() - start:.1f} s")
            there = _find_objects(requests, level)
        sizes = _sizes_by_folder(list(there.values()))
        if not as_json:
            for folder, files in sizes.items():
                output.say(
                    ("" if missing else "nothing to compile: ")
                    + f"{many(len(files), 'kernel')} for {level}, "
                    f"{sum(files) / 1e6:.1f} MB, in {folder}"
                )
        results.append(
            {
                "cpu": level,
                "kernels": len(there),
                "compiled": len(missing),
                "bytes": sum(map(sum, sizes.values())),
                "folders": list(map(str, sizes)),
            }
        )
    if as_json:
        output.json({"levels": results})


def _find_objects(requests: Sequence["Request"], level: str) -> dict["Request", Path]:
    """Return the files with the code of kernels, of those that have one."""
    from fastseg._kernels.native import cache

    found: dict[Request, Path] = {}
    for folder in cache.folders(level):
        for path, signature in requests:
            file = folder / f"{cache.name_of(path, signature)}.o"
            if (path, signature) not in found and cache.read_file(
                file, path, signature, level
            ):
                found[path, signature] = file
    return found


def _sizes_by_folder(files: Sequence[Path]) -> dict[Path, list[int]]:
    """Return the sizes in bytes of the files in each folder."""
    sizes: dict[Path, list[int]] = {}
    for file in files:
        sizes.setdefault(file.parent, []).append(file.stat().st_size)
    return sizes
