"""The command line: thin verbs over the library."""

from typing import Annotated

import typer

import fastseg
from fastseg.cli import data, store  # noqa: F401  they add themselves to app
from fastseg.cli.terminal import app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastseg {fastseg.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Medical images and hand-drawn contours into training batches.

    Example: `fastseg link data/phantom -o links.csv`, then
    `fastseg build links.csv -o heart.h5`, then `fastseg show heart.h5`
    """


def main() -> None:
    """Run the command line."""
    app()
