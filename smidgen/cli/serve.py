"""`smidgen serve`: an OpenAI-compatible server, with safe defaults."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smidgen.cli.options import KV, MODEL_HELP, CtxSize, Debug, Draft, Lora, Port, Quiet, Template, Threads, kv_type
from smidgen.shell import path_of
from smidgen.sizes import parse_size

if TYPE_CHECKING:
    from smidgen.serving.serve import Served

_DOOR, _LIMITS, _SEVERAL = "Who may come in", "Limits", "Several models"
_GUARD, _ENGINES = "Guard", "Engines"
Models = Annotated[list[str], typer.Argument(metavar="MODEL…", help=MODEL_HELP, show_default=False)]
Host = Annotated[str, typer.Option("--host", metavar="HOST", help="Address; any but a loopback one needs a key.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key", envvar="SMIDGEN_API_KEY", metavar="KEY", help="Key that clients must send.", show_default=False,
        rich_help_panel=_DOOR,
    ),
]  # fmt: skip
Keys = Annotated[
    Path | None,
    typer.Option(
        "--keys", metavar="FILE", parser=path_of, help="Keys of several clients with budgets of tokens (TOML).",
        rich_help_panel=_DOOR,
    ),
]  # fmt: skip
NoAuth = Annotated[bool, typer.Option("--no-auth", help="Let everybody in on any --host.", rich_help_panel=_DOOR)]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host", metavar="NAME", help="Another name of this server, as behind a proxy; repeatable.",
        rich_help_panel=_DOOR,
    ),
]  # fmt: skip
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-origin", metavar="URL", help="A site whose pages may use this server; repeatable.",
        rich_help_panel=_DOOR,
    ),
]  # fmt: skip
Parallel = Annotated[
    int, typer.Option("--parallel", min=1, metavar="N", help="Requests at a time, each with --ctx-size of context.")
]
Queue = Annotated[
    int,
    typer.Option(
        "--queue", min=0, metavar="N", help="More requests that may wait; the next gets status 503.",
        rich_help_panel=_LIMITS,
    ),
]  # fmt: skip
TimeLimit = Annotated[
    float,
    typer.Option(
        "--time-limit", min=1, metavar="SECONDS", help="The most that one answer may take, waiting included.",
        rich_help_panel=_LIMITS,
    ),
]  # fmt: skip
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens", min=1, metavar="N", help="The most that one answer may have.  [default: the context]",
        rich_help_panel=_LIMITS,
    ),
]  # fmt: skip
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory", metavar="SIZE", rich_help_panel=_SEVERAL,
        help="What models may take together; the one not used for longest goes.  [default: 80% of this machine's]",
    ),
]  # fmt: skip
KeepAlive = Annotated[
    float | None,
    typer.Option(
        "--keep-alive", min=1, metavar="SECONDS", rich_help_panel=_SEVERAL,
        help="Unload a model that nobody used for so long.  [default: never]",
    ),
]  # fmt: skip
Log = Annotated[str | None, typer.Option("--log", metavar="FILE", help="Add a line for each request; - for stderr.")]
LogText = Annotated[bool, typer.Option("--log-text", help="With prompts and answers; otherwise they are in no log.")]


Guard = Annotated[
    str | None,
    typer.Option(
        "--guard", metavar="MODEL", help="A classifier (ShieldGemma, Llama Guard) that judges prompts and answers.",
        rich_help_panel=_GUARD,
    ),
]  # fmt: skip
GuardProtocol = Annotated[
    str | None,
    typer.Option(
        "--guard-protocol", metavar="NAME", help="shieldgemma or llama-guard, where its file does not say.",
        rich_help_panel=_GUARD,
    ),
]  # fmt: skip
Policies = Annotated[
    Path | None,
    typer.Option(
        "--policies", metavar="FILE", parser=path_of, help="What it judges by, and what follows (TOML).",
        rich_help_panel=_GUARD,
    ),
]  # fmt: skip
RedactPrompts = Annotated[
    bool,
    typer.Option(
        "--redact-prompts",
        help="Hide e-mail addresses, phone, card and account numbers from the model.",
        rich_help_panel=_GUARD,
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine", metavar="NAME", help="llama.cpp, or vllm for a folder in Hugging Face layout.",
        rich_help_panel=_ENGINES,
    ),
]  # fmt: skip
Replicas = Annotated[
    int | None,
    typer.Option(
        "--replicas", min=1, max=1024, metavar="N", help="So many engines on a Ray cluster; needs --ray.",
        rich_help_panel=_ENGINES,
    ),
]  # fmt: skip
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="ADDRESS", help="The cluster: auto, HOST:PORT; local for a new one here.",
        rich_help_panel=_ENGINES,
    ),
]  # fmt: skip


def command(
    models: Models,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    parallel: Parallel = 1,
    ctx_size: CtxSize = None,
    draft: Draft = None,
    template: Template = None,
    lora: Lora = None,
    api_key: ApiKey = None,
    keys: Keys = None,
    no_auth: NoAuth = False,
    allow_host: AllowHost = None,
    allow_origin: AllowOrigin = None,
    queue: Queue = 64,
    time_limit: TimeLimit = 600,
    max_tokens: MaxTokens = None,
    memory: Memory = None,
    keep_alive: KeepAlive = None,
    log: Log = None,
    log_text: LogText = False,
    guard: Guard = None,
    guard_protocol: GuardProtocol = None,
    policies: Policies = None,
    redact_prompts: RedactPrompts = False,
    engine: Engine = "llama.cpp",
    replicas: Replicas = None,
    ray: RayAddress = None,
    threads: Threads = None,
    kv: KV = "f16",
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
      smidgen serve gemma-small smollm2-135m-instruct --memory 2GB
      smidgen serve gemma-2-2b.gguf --draft gemma-2-small
      SMIDGEN_API_KEY=secret smidgen serve gemma-small --host 0.0.0.0
      smidgen serve gemma-small --host 0.0.0.0 --keys keys.toml --log requests.jsonl
      smidgen serve gemma-small --guard shieldgemma-2b.gguf --policies policies.toml
      smidgen serve gemma-small --replicas 2 --ray auto
    """
    from smidgen.serving.serve import serve

    serve(
        models, host=host, port=port, api_key=api_key, keys=keys, no_auth=no_auth, parallel=parallel,
        ctx_size=ctx_size, threads=threads, draft=draft, lora=lora, template=template,
        memory=None if memory is None else parse_size(memory), keep_alive=keep_alive, queue=queue,
        time_limit=time_limit, max_tokens=max_tokens, log=log, log_text=log_text, guard=guard,
        guard_protocol=guard_protocol, policies=policies, redact_prompts=redact_prompts, engine=engine,
        replicas=replicas, ray=ray, kv=kv_type(kv), allow_hosts=allow_host or (),
        allow_origins=allow_origin or (), announce=partial(_announce, keyed=bool(api_key or keys), quiet=quiet),
    )  # fmt: skip


def _announce(server: "Served", keyed: bool, quiet: bool) -> None:
    """The address, alone on the first line for programs, and how to use it."""
    try:
        _print_how_to_use(server, keyed, quiet)
    except BrokenPipeError:  # `| head -1`: the reader has what it wanted, and the server goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_how_to_use(server: "Served", keyed: bool, quiet: bool) -> None:
    print(f"smidgen serves {', '.join(server.names)} on {server.address}/v1", flush=True)
    if quiet:
        return
    endpoint, body = ("chat/completions", '{"messages": [{"role": "user", "content": "Hello"}]}')
    if len(server.names) > 1:
        print(f'Requests name one of them as "model"; without a name {server.names[0]} answers.')
    if not server.chats:
        print("It is a base model without a chat template: use /v1/completions, not /v1/chat/completions.")
        endpoint, body = ("completions", '{"prompt": "Once upon a time", "max_tokens": 32}')
    key = "-H 'Authorization: Bearer KEY' " if keyed else ""
    print(f"\n  curl {server.address}/v1/{endpoint} {key}-H 'Content-Type: application/json' \\\n    -d '{body}'\n")
    print("  from openai import OpenAI")
    print(f'  client = OpenAI(base_url="{server.address}/v1", api_key="{"KEY" if keyed else "none"}")\n')
    print(f"All endpoints: {server.address}/docs. Ctrl-C stops it.", flush=True)
