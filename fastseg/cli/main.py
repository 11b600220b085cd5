"""The program `fastseg` itself: its version, and what stands before a command."""

from typing import Annotated

import typer

import fastseg
from fastseg.cli import (  # noqa: F401  they register commands
    building,
    check,
    data,
    rois,
    store,
    warmup,
)
from fastseg.cli.terminal import (
    EXIT_USAGE,
    Debug,
    Quiet,
    Switches,
    Verbose,
)
from fastseg.cli.terminal import app as app


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"fastseg {fastseg.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def fastseg_options(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Turn medical images and hand-drawn contours into a store for training.

    Example: `fastseg link data/phantom -o links.csv`, then
    `fastseg build links.csv -o heart.h5`, then `fastseg show heart.h5`
    """
    ctx.obj = Switches(verbose, quiet, debug)
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(EXIT_USAGE)
