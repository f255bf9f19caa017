"""The verb `serve`: an OpenAI-compatible server for one model, until it is told to stop."""

import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from smidgen.engines.llama_cpp.engine import choose_context, read_facts
from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.errors import SmidgenError
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
    _serve_until_stopped(start, lambda server: say(Served(server.address, name, facts.has_chat_template)))


def _print_address(served: Served) -> None:
    print(f"smidgen serves {served.name} on {served.address}/v1", flush=True)


def _serve_until_stopped(start: Callable[[], LlamaServer], announce: Callable[[LlamaServer], None]) -> NoReturn:
    """Start a server, announce it, and keep it running until Ctrl-C or SIGTERM, which end this process with code 0.

    The process ends without taking the server apart: llama.cpp would first wait for the requests under way, for as
    long as they take.
    """
    stop = threading.Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, ask_to_stop)
    signal.signal(signal.SIGTERM, ask_to_stop)
    server = start()
    announce(server)
    stop.wait()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def check_exposure(host: str, api_key: str | None) -> None:
    """Refuse to serve beyond this machine without a key. Raises SmidgenError."""
    if not api_key and not is_loopback(host):
        raise SmidgenError(
            f"--host {host} lets other machines in, which needs a key: add --api-key SECRET, or use --host 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Whether a host name or address can be reached from this machine only."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise SmidgenError(f"--host {host} is not an address or name of this machine: {error}.") from error
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
