"""The entry point of the command line."""

from typing import Annotated

import typer

import fastseg
from fastseg.cli import data, store  # noqa: F401  imported because they register commands
from fastseg.cli.terminal import app as app


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"fastseg {fastseg.__version__}")
        raise typer.Exit


@app.callback()
def fastseg_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Turn medical images and hand-drawn contours into a store for training.

    Example: `fastseg link data/phantom -o links.csv`, then
    `fastseg build links.csv -o heart.h5`, then `fastseg show heart.h5`
    """
