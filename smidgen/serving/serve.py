"""The verb `serve`: an OpenAI-compatible server for one model, until it is told to stop."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from smidgen.engines.llama_cpp.engine import choose_context, read_facts
from smidgen.engines.llama_cpp.server import LlamaServer, check_exposure, serve_until_stopped
from smidgen.formats.convert import gguf_of
from smidgen.formats.gguf.adapter import adapter_file
from smidgen.formats.hub.catalogue import ModelName


@dataclass(frozen=True)
class Served:
    """A server that has begun. address: `http://host:port`.  chats: whether the model has a chat template."""

    address: str
    name: str
    chats: bool


def serve(
    model: ModelName, *, host: str = "127.0.0.1", port: int = 8080, api_key: str | None = None, parallel: int = 1,
    ctx_size: int | None = None, threads: int | None = None, draft: ModelName | None = None,
    lora: str | os.PathLike[str] | None = None, announce: Callable[[Served], None] | None = None,
) -> NoReturn:  # fmt: skip
    """Serve a model (a name, a path or a loaded `Model`) until Ctrl-C or SIGTERM, which end this process with code 0.

    host: any but a loopback address needs `api_key`.  port: 0 takes a free one.
    parallel: requests at a time, each with `ctx_size` tokens of context; default the model's own, at most 4096.
    draft: a smaller model of the same vocabulary that proposes tokens.  lora: an adapter, as `tune` writes it.
    announce: called once, when the server answers; by default the address is printed.
    Raises SmidgenError for an address that may not or cannot be listened on, BadFile or Unsupported for the model.
    """
    check_exposure(host, api_key)
    path, name = gguf_of(model), os.fspath(model)
    facts = read_facts(path)
    start = partial(
        LlamaServer, path, ctx_size=choose_context(facts, ctx_size), host=host, port=port, api_key=api_key,
        threads=threads, parallel=parallel, name=name, draft=None if draft is None else gguf_of(draft),
        lora=None if lora is None else adapter_file(Path(lora)),
    )  # fmt: skip
    say = announce or _print_address
    serve_until_stopped(start, lambda server: say(Served(server.address, name, facts.has_chat_template)))


def _print_address(served: Served) -> None:
    print(f"smidgen serves {served.name} on {served.address}/v1", flush=True)
