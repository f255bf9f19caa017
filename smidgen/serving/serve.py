"""The verb `serve`: an OpenAI-compatible server for one model, until it is told to stop."""

import ipaddress
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import uvicorn
from starlette.applications import Starlette

from smidgen import progress
from smidgen.bounds import MOST_THREADS, within
from smidgen.engines.llama_cpp.engine import Facts, choose_context, read_facts, require_chat_template
from smidgen.engines.llama_cpp.server import BUILT_IN_TEMPLATE, LlamaServer
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.convert import gguf_of
from smidgen.formats.gguf.adapter import adapter_file
from smidgen.formats.hub.catalogue import ModelName, origin_of
from smidgen.model.chat import chat_templates, refuse_hostile_template
from smidgen.serving.admission import own_names
from smidgen.serving.agreement import disagreements
from smidgen.serving.front import build_front

_MOST_PARALLEL = 4096
_LAST_WORDS_S = 3  # that answers under way have when the server is told to stop


@dataclass(frozen=True)
class Served:
    """A server that has begun. address: `http://host:port`.  chats: whether the model has a chat template."""

    address: str
    name: str
    chats: bool


def serve(
    model: ModelName, *, host: str = "127.0.0.1", port: int = 8080, api_key: str | None = None, parallel: int = 1,
    ctx_size: int | None = None, threads: int | None = None, draft: ModelName | None = None,
    lora: str | os.PathLike[str] | None = None, template: str | None = None,
    allow_hosts: Sequence[str] = (), allow_origins: Sequence[str] = (),
    announce: Callable[[Served], None] | None = None,
) -> NoReturn:  # fmt: skip
    """Serve a model (a name, a path or a loaded `Model`) until Ctrl-C or SIGTERM, which end this process with code 0.

    host: any but a loopback address needs `api_key`.  port: 0 takes a free one.
    parallel: requests at a time, each with `ctx_size` tokens of context; default the model's own, at most 4096.
    draft: a smaller model of the same vocabulary that proposes tokens.  lora: an adapter, as `tune` writes it.
    template: the name of one of the model's chat templates, where it has several.
    allow_hosts: more names by which clients may call this server, as behind a proxy.
    allow_origins: web pages of other machines that may use it, such as `https://chat.example.org`.
    announce: called once, when the server answers; by default the address is printed.
    Raises SmidgenError for an address that may not or cannot be listened on, BadFile or Unsupported for the model.
    """
    within("port", port, 0, 65535)
    within("parallel", parallel, 1, _MOST_PARALLEL)
    within("threads", threads, 1, MOST_THREADS)
    api_key = api_key or None
    check_exposure(host, api_key)
    _refuse_unsendable(api_key)
    origin = origin_of(model)
    path, name = gguf_of(origin), origin.name
    facts = read_facts(path)
    refuse_for_serving(facts)
    with _listening_socket(host, port) as listener, LlamaServer(
        path, ctx_size=choose_context(facts, ctx_size), threads=threads, parallel=parallel, name=name,
        draft=None if draft is None else gguf_of(draft), lora=None if lora is None else adapter_file(Path(lora)),
        template=_template(facts, template),
    ) as server:  # fmt: skip
        for line in disagreements(server, facts, template):
            progress.say(f"Note: {line}")
        front = build_front(
            server, facts, hosts={*own_names(host), *allow_hosts}, origins=allow_origins, api_key=api_key,
            any_address=not is_loopback(host), template=template,
        )  # fmt: skip
        address = _address(listener, host)
        say = announce or _print_address
        _Uvicorn(front, lambda: say(Served(address, name, facts.has_chat_template))).run([listener])
    sys.exit(0)


def _print_address(served: Served) -> None:
    print(f"smidgen serves {served.name} on {served.address}/v1", flush=True)


class _Uvicorn(uvicorn.Server):
    """The web server: silent, and it ends with Ctrl-C or SIGTERM without raising them anew."""

    def __init__(self, front: Starlette, announce: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                front, log_config=None, log_level="critical", access_log=False, server_header=False, lifespan="on",
                timeout_graceful_shutdown=_LAST_WORDS_S, proxy_headers=False,
            )
        )  # fmt: skip
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        earlier = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)


def _listening_socket(host: str, port: int) -> socket.socket:
    """Bound already, so that a taken port is known before the model is loaded. Raises SmidgenError."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, number)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise SmidgenError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port or --host."
        ) from error


def _address(listener: socket.socket, host: str) -> str:
    """`http://host:port`, with the address to type where the server listens on all of them."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{listener.getsockname()[1]}"


def _template(facts: Facts, name: str | None) -> str | None:
    """What llama.cpp shall render with: None for the templates of the file, which are checked first.

    Raises BadFile for one that could end or stop llama.cpp, SmidgenError for a name that the model does not have.
    """
    if not facts.has_chat_template:
        return BUILT_IN_TEMPLATE
    for text in chat_templates(facts.metadata).values():
        refuse_hostile_template(text)
    chosen = require_chat_template(facts, name)
    # With the file's own default, llama.cpp also takes the file's template for tools, where there is one.
    return None if name is None and facts.metadata.get("tokenizer.chat_template") == chosen else chosen


def refuse_for_serving(facts: Facts) -> None:
    """Raises Unsupported for a model that llama.cpp's server would answer wrongly or might not survive."""
    if facts.appends_eos:
        raise Unsupported(
            "this file asks for an end-of-text token behind each prompt (tokenizer.ggml.add_eos_token), so that chats "
            "would get empty answers; `smidgen export MODEL --to gguf -o FILE` writes one without."
        )


def check_exposure(host: str, api_key: str | None) -> None:
    """Refuse to serve beyond this machine without a key. Raises SmidgenError."""
    if not api_key and not is_loopback(host):
        raise SmidgenError(
            f"--host {host} lets other machines in, which needs a key: add --api-key SECRET, or use --host 127.0.0.1."
        )


def _refuse_unsendable(api_key: str | None) -> None:
    """Raises SmidgenError for a key that no client can send in a header."""
    if api_key is not None and not re.fullmatch(r"[!-~]+", api_key):
        raise SmidgenError(
            "the API key has characters that cannot be sent; use letters, digits and signs without spaces."
        )


def is_loopback(host: str) -> bool:
    """Whether a host name or address can be reached from this machine only."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise SmidgenError(f"--host {host} is not an address or name of this machine: {error}.") from error
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
