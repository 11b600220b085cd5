"""Options of commands whose work is done by processes, or on a cluster of Dask."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from fastseg.cli.terminal import EXIT_ERROR, Output, fail
from fastseg.errors import OptionError

Processes = Annotated[
    int | None,
    typer.Option(help="Number of processes that do the work.", show_default="none"),
]
Dask = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Address of the scheduler of a Dask cluster whose workers do the work, as "
        "in tcp://host:8786. They need the same paths.",
    ),
]


@contextmanager
def executor_of_options(
    output: Output, processes: int | None, dask: str | None, advice: str
) -> Iterator[Any]:
    """Yield what does the work of a command; None if it does that itself.

    advice : what to do if workers have died
    """
    if processes is None and dask is None:
        yield None
        return
    from fastseg.tasks import dask_client, has_lost_workers, process_pool

    if processes is not None and dask is not None:
        raise OptionError("--processes and --dask exclude each other")
    try:
        if processes is not None:
            with process_pool(processes) as pool:
                yield pool
        else:
            with dask_client(dask or "") as client:
                yield client
    except Exception as exc:
        if not has_lost_workers(exc):
            raise
        text = f"workers have died, perhaps out of memory: {type(exc).__name__}: {exc}"
        fail(output, f"{text}; {advice}", EXIT_ERROR)
