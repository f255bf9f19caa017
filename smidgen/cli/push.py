"""`smidgen push`: a folder that smidgen wrote, on the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from smidgen.cli import options
from smidgen.shell import path_of


def command(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", parser=path_of, help="Folder of `cut`, `tune` or `distill`.", show_default=False),
    ],
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="org/name, or org/name@branch.", show_default=False)
    ],
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    pull_request: Annotated[bool, typer.Option("--pr", help="Open a pull request there.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also replace files there that smidgen did not send.")
    ] = False,
    message: Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="Of the commit.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list the files, and ask nobody.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Send a model to the Hugging Face hub, with its card.

    Files that smidgen wrote and licence files are sent, in one commit; what else is in the folder is named and stays.
    The token is that of HF_TOKEN or of `hf auth login`. A repository that is not there is made.

    \b
    Examples:
      smidgen push gemma-small me/gemma-small --dry-run
      smidgen push gemma-small me/gemma-small --private
    """
    from smidgen.publishing.push import push

    done = push(
        folder,
        repository,
        private=private,
        pull_request=pull_request,
        replace=replace,
        message=message,
        dry_run=dry_run,
    )
    options.show(done, json)
