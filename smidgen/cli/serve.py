"""`smidgen serve`: llama.cpp's OpenAI-compatible server, with safe defaults."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from smidgen.cli.options import CtxSize, Debug, Draft, Lora, Model, Quiet, Threads

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
    lora: Lora = None,
    threads: Threads = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """OpenAI-compatible server on this machine, until Ctrl-C.

    Prompts are never logged. The web interface and the endpoints that show the server's state are off.
    /health alone needs no key.

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
        draft=draft, lora=lora, announce=partial(_announce, keyed=bool(api_key), quiet=quiet),
    )  # fmt: skip


def _announce(server: "Served", keyed: bool, quiet: bool) -> None:
    """The address, alone on the first line for programs, and how to use it."""
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
