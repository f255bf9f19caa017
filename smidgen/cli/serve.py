"""`smidgen serve`: llama.cpp's OpenAI-compatible server, with safe defaults."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from smidgen.cli.options import CtxSize, Debug, Draft, Lora, Model, Quiet, Threads

if TYPE_CHECKING:
    from smidgen.engines.llama_cpp.server import LlamaServer

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
    from smidgen.engines.llama_cpp.engine import choose_context, read_facts
    from smidgen.engines.llama_cpp.server import LlamaServer, check_exposure, serve
    from smidgen.formats.convert import gguf_of
    from smidgen.formats.gguf.adapter import adapter_file

    check_exposure(host, api_key)
    path = gguf_of(model)
    facts = read_facts(path)
    start = partial(
        LlamaServer,
        path,
        ctx_size=choose_context(facts, ctx_size),
        host=host,
        port=port,
        api_key=api_key,
        threads=threads,
        parallel=parallel,
        name=model,
        draft=None if draft is None else gguf_of(draft),
        lora=None if lora is None else adapter_file(lora),
    )
    serve(start, partial(_announce, name=model, keyed=bool(api_key), chats=facts.has_chat_template, quiet=quiet))


def _announce(server: "LlamaServer", name: str, keyed: bool, chats: bool, quiet: bool) -> None:
    """The address, alone on the first line for programs, and how to use it."""
    print(f"smidgen serves {name} on {server.address}/v1", flush=True)
    if quiet:
        return
    endpoint, body = ("chat/completions", '{"messages": [{"role": "user", "content": "Hello"}]}')
    if not chats:
        print("It is a base model without a chat template: use /v1/completions, not /v1/chat/completions.")
        endpoint, body = ("completions", '{"prompt": "Once upon a time", "max_tokens": 32}')
    key = "-H 'Authorization: Bearer KEY' " if keyed else ""
    print(f"\n  curl {server.address}/v1/{endpoint} {key}-H 'Content-Type: application/json' \\\n    -d '{body}'\n")
    print("  from openai import OpenAI")
    print(f'  client = OpenAI(base_url="{server.address}/v1", api_key="{"KEY" if keyed else "none"}")\n')
    print("Ctrl-C stops it.", flush=True)
