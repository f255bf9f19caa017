"""`smidgen serve`: an OpenAI-compatible server, with safe defaults."""

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from smidgen.cli.options import CtxSize, Debug, Draft, Lora, Model, Quiet, Template, Threads

if TYPE_CHECKING:
    from smidgen.serving.serve import Served

Host = Annotated[str, typer.Option("--host", metavar="HOST", help="Address; any but a loopback one needs --api-key.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, metavar="PORT", help="Port; 0 takes a free one.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key", envvar="SMIDGEN_API_KEY", metavar="KEY", help="Key that clients must send.", show_default=False
    ),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option("--allow-host", metavar="NAME", help="Another name of this server, as behind a proxy; repeatable."),
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option("--allow-origin", metavar="URL", help="A site whose pages may use this server; repeatable."),
]
Parallel = Annotated[
    int, typer.Option("--parallel", min=1, metavar="N", help="Requests at a time, each with --ctx-size of context.")
]


def command(
    model: Model,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    api_key: ApiKey = None,
    parallel: Parallel = 1,
    ctx_size: CtxSize = None,
    draft: Draft = None,
    template: Template = None,
    allow_host: AllowHost = None,
    allow_origin: AllowOrigin = None,
    lora: Lora = None,
    threads: Threads = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """OpenAI-compatible server on this machine, until Ctrl-C.

    Prompts are never logged. Web pages of other sites are kept out, and /health alone needs no key. llama.cpp runs in
    a process of its own: should it end, its requests get an error, and the next request starts it again.

    \b
    Examples:
      smidgen serve smollm2-135m-instruct
      smidgen serve gemma-small --port 9000 --parallel 2
      smidgen serve gemma-2-2b.gguf --draft gemma-2-small
      SMIDGEN_API_KEY=secret smidgen serve gemma-small --host 0.0.0.0
    """
    from smidgen.serving.serve import serve

    serve(
        model, host=host, port=port, api_key=api_key, parallel=parallel, ctx_size=ctx_size, threads=threads,
        draft=draft, lora=lora, template=template, allow_hosts=allow_host or (), allow_origins=allow_origin or (),
        announce=partial(_announce, keyed=bool(api_key), quiet=quiet),
    )  # fmt: skip


def _announce(server: "Served", keyed: bool, quiet: bool) -> None:
    """The address, alone on the first line for programs, and how to use it."""
    try:
        _print_how_to_use(server, keyed, quiet)
    except BrokenPipeError:  # `| head -1`: the reader has what it wanted, and the server goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_how_to_use(server: "Served", keyed: bool, quiet: bool) -> None:
    print(f"smidgen serves {server.name} on {server.address}/v1", flush=True)
    if quiet:
        return
    endpoint, body = ("chat/completions", '{"messages": [{"role": "user", "content": "Hello"}]}')
    if not server.chats:
        print("It is a base model without a chat template: use /v1/completions, not /v1/chat/completions.")
        endpoint, body = ("completions", '{"prompt": "Once upon a time", "max_tokens": 32}')
    key = "-H 'Authorization: Bearer KEY' " if keyed else ""
    print(f"\n  curl {server.address}/v1/{endpoint} {key}-H 'Content-Type: application/json' \\\n    -d '{body}'\n")
    print("  from openai import OpenAI")
    print(f'  client = OpenAI(base_url="{server.address}/v1", api_key="{"KEY" if keyed else "none"}")\n')
    print("Ctrl-C stops it.", flush=True)
