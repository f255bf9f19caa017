"""`smidgen measure --compare`: several cuts of one original side by side, by their cards."""

import json as json_format
from collections.abc import Sequence
from pathlib import Path

import typer

from smidgen.errors import SmidgenError, printable
from smidgen.shell import path_of

_USED = {"original", "cut", "more", "compare", "output", "json", "quiet", "debug"}  # parameters of `measure`


def compare_cuts(context: typer.Context, cuts: Sequence[str], output: Path | None, json: bool) -> None:
    """Print the comparison, or its data with `json`; with `output`, write the page. All is checked before."""
    _refuse_options(context)
    from smidgen.measuring.frontier.compare import as_data
    from smidgen.measuring.frontier.frontier import compare, page_path, write_page
    from smidgen.measuring.frontier.terminal import lines

    path = None if output is None else page_path(output)
    comparison = compare([path_of(cut) for cut in cuts])
    if path is not None:
        write_page(comparison, path)
    if json:
        print(json_format.dumps(as_data(comparison)))
        return
    print("\n".join(lines(comparison)))
    if path is not None:
        print(f"\nPage: {printable(path)}")


def _refuse_options(context: typer.Context) -> None:
    """What would measure has no meaning here: the cards are only read."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in _USED and source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise SmidgenError(f"{option} says how to measure, and --compare only reads cards. Leave one of them out.")
