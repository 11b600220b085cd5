"""The command that lists the names of ROIs."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

import fastseg
from fastseg.cli.terminal import (
    EXIT_REJECTS,
    REJECTS_SHOWN,
    AliasesFile,
    AllowRejects,
    AsJson,
    Force,
    MatchCase,
    Output,
    RoiPatterns,
    command,
    in_folder,
)
from fastseg.reprs import many


def _in_folder(path: Path | None) -> Path | None:
    return None if path is None else in_folder(path)


@command
def rois(
    output: Output,
    root: Annotated[
        str,
        typer.Argument(
            metavar="STUDIES", help="Folder with structure sets, or its URL."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="File of aliases to write, to start with: TOML, in which names that "
            "look alike stand together.",
            callback=_in_folder,
        ),
    ] = None,
    roi: RoiPatterns = None,
    aliases: AliasesFile = None,
    match_case: MatchCase = False,
    as_json: AsJson = False,
    force: Force = False,
    allow_rejects: AllowRejects = False,
) -> None:
    """List the names of ROIs in RT structure sets, and which classes they belong to.

    Names that look alike stand together, and frequent ones first.

    Example: `fastseg rois studies -o aliases.toml`

    When you have edited the file: `fastseg rois studies --aliases aliases.toml`

    Then: `fastseg link studies --aliases aliases.toml -o links.csv`
    """
    from fastseg.outputs import check_input, check_target
    from fastseg.sources import starter
    from fastseg.sources.aliases import aliases_of_options

    known = aliases_of_options(roi, aliases, match_case)
    if out is not None:  # before the files are read
        if aliases is not None:
            check_input(out, aliases, "the file of aliases", starter.KIND)
        check_target(starter.check_name(out), starter.KIND, force)
    table = fastseg.list_rois(root, rois=known, progress=output.progress)
    if as_json:
        output.json(table.as_dict())
    else:
        for line in (*str(table).splitlines(), *table.summary()):
            output.say(line)
        for label in table.classes:
            for name in label.missing:
                output.detail(f"  no {label.name}: {name}")
        for name in table.without_set:
            output.detail(f"  no structure set: {name}")
    if out is not None:
        path = table.save_aliases(out, force=force)
        if not as_json:
            files = f"{quote(str(root))} --aliases {quote(str(out))}"
            output.say(f"{out}: edit it, then `fastseg rois {files}`")
            output.written(out, path)
    _report(output, table, allow_rejects)


def _report(output: Output, table: "fastseg.RoiList", allow: bool) -> None:
    """Print which structure sets cannot be used and exit with status 3, unless allowed.

    They are not listed in a file: `link` does it.
    """
    rejects = table.rejects
    if not rejects:
        return
    output.report(f"{many(len(rejects), 'structure set')} cannot be used:", "yellow")
    for reject in rejects if output.verbose else rejects[:REJECTS_SHOWN]:
        output.report(f"  {reject.file}: {reject.reason}")
    if len(rejects) > REJECTS_SHOWN and not output.verbose:
        output.report(f"  and {len(rejects) - REJECTS_SHOWN} more (--verbose)")
    if not allow:
        output.report(
            "all others are listed; the exit status is 3 because of these (0 with "
            "--allow-rejects)"
        )
        raise typer.Exit(EXIT_REJECTS)
