"""`smidgen ui`: a page to chat with models, compare and cut them, with safe defaults."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smidgen.cli.options import KV, MODEL_HELP, CtxSize, Debug, Port, Quiet, Threads, kv_type
from smidgen.shell import path_of

if TYPE_CHECKING:
    from smidgen.showing.ui import Shown

Models = Annotated[list[str], typer.Argument(metavar="MODEL [MODEL]", help=MODEL_HELP, show_default=False)]
Host = Annotated[str, typer.Option("--host", metavar="HOST", help="Address; any but a loopback one needs --api-key.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key", envvar="SMIDGEN_API_KEY", metavar="KEY", show_default=False,
        help="Key that the browser asks for: any name, and the key as password.",
    ),
]  # fmt: skip
Parallel = Annotated[
    int, typer.Option("--parallel", min=1, metavar="N", help="Answers at a time, each with --ctx-size of context.")
]
Votes = Annotated[
    Path | None,
    typer.Option(
        "--votes", metavar="FILE.sqlite", parser=path_of,
        help="File for the votes of Compare.  [default: votes.sqlite in smidgen's folder]",
    ),
]  # fmt: skip


def command(
    models: Models,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    api_key: ApiKey = None,
    parallel: Parallel = 1,
    ctx_size: CtxSize = None,
    votes: Votes = None,
    threads: Threads = None,
    kv: KV = "f16",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """A page in your browser, on this machine: chat, compare two models blind, see a report card, cut a model.

    Nothing leaves this machine and no conversation is stored; a vote keeps its prompt and answers. Needs the extra:
    pip install 'smidgen[ui]'. Ctrl-C stops it.

    \b
    Examples:
      smidgen ui smollm2-135m-instruct
      smidgen ui gemma-3-270m gemma-small --votes votes.sqlite
      smidgen ui smollm2-135m-instruct --kv q8_0
      SMIDGEN_API_KEY=secret smidgen ui gemma-small --host 0.0.0.0
    """
    from smidgen.showing.ui import ui

    ui(
        models, host=host, port=port, api_key=api_key, parallel=parallel, ctx_size=ctx_size, threads=threads,
        votes=votes, kv=kv_type(kv), announce=partial(_announce, keyed=bool(api_key), quiet=quiet),
    )  # fmt: skip


def _announce(page: "Shown", keyed: bool, quiet: bool) -> None:
    """The address, at the end of the first line for programs, and what to know."""
    try:
        print(f"smidgen shows {' and '.join(page.names)} on {page.address}", flush=True)
        if quiet:
            return
        if keyed:
            print("The browser asks for a name and a password: any name, and the API key.")
        print(f"Votes go to {page.votes}. Ctrl-C stops it.", flush=True)
    except BrokenPipeError:  # `| head -1`: the reader has what it wanted, and the page goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
