"""llama.cpp's own HTTP server, run inside this process through the `xllamacpp` wheels.

Both uses of llama.cpp stand on it: `smidgen serve` shows it to other programs, and `LlamaCppEngine` keeps one for
itself on a loopback port with a random key. Settings that matter for safety are made here, once: no web interface, no
state endpoints, no prompts in logs, browsers of other sites not invited, and never a silent shift of the context.

Endpoints: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from smidgen.closing import Closing
from smidgen.engines.llama_cpp.draft import refuse_other_draft
from smidgen.engines.llama_cpp.loading import Loading, choose_loading, give_back
from smidgen.engines.machine import default_threads
from smidgen.errors import SmidgenError
from smidgen.formats.gguf.adapter import refuse_other_adapter
from smidgen.openmp import waiting_awake

DEFAULT_CONTEXT = 4096  # tokens, where the model allows more and nobody asked for more
_MOST_THREADS = 512
_SILENT, _VERBOSE = 0, 3  # llama.cpp's log levels; from 4 on it would print prompts


class LlamaServer(Closing):
    """A running server for one model; stop it with `close` or a `with` statement.

    address: `http://host:port`.  threads: CPU threads it computes with.
    Each of `parallel` requests at a time has a context of `ctx_size` tokens (llama.cpp rounds up to 256).
    draft: a smaller model of the very same vocabulary, which proposes tokens (see draft.py).
    lora: an adapter for the model, a GGUF file (see formats/gguf/adapter.py).
    loading: default as `choose_loading` says (see loading.py): each weight is resident once.
    The caller has checked the file with `GGUFFile.open`: llama.cpp itself trusts it. Raises SmidgenError if the port is
    taken or llama.cpp refuses the model.
    """

    def __init__(
        self,
        path: Path,
        *,
        ctx_size: int,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        threads: int | None = None,
        parallel: int = 1,
        name: str | None = None,
        draft: Path | None = None,
        lora: Path | None = None,
        loading: Loading | None = None,
        warm_up: bool = False,
        verbose: bool = False,
    ) -> None:
        if draft is not None:
            refuse_other_draft(path, draft)
        if lora is not None:
            refuse_other_adapter(path, lora)
        xllamacpp = _xllamacpp()
        if threads is not None and not 1 <= threads <= _MOST_THREADS:
            raise SmidgenError(f"{threads} threads cannot be used; give 1 to {_MOST_THREADS}.")
        self.threads = threads or default_threads()
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.model_alias = {name or path.name}  # otherwise answers carry the full path of the file
        params.n_ctx, params.n_parallel = ctx_size * parallel, parallel
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self.threads
        params.hostnames, params.port = [host], port
        params.api_keys = [api_key] if api_key else []
        params.verbosity = _VERBOSE if verbose else _SILENT
        params.n_batch = params.n_ubatch  # a cancelled request stops at the next batch, so keep them small
        params.warmup = warm_up
        if draft is not None:
            _add_draft(params, xllamacpp, draft, self.threads)
        if lora is not None:
            adapter = xllamacpp.CommonAdapterLoraInfo()
            adapter.path, adapter.scale = str(lora), 1.0
            params.lora_adapters = [adapter]
        files = [path] if draft is None else [path, draft]
        loading = loading or choose_loading(files)
        loading.set_up(params, xllamacpp)
        _make_safe(params)
        if port:
            _refuse_taken_port(host, port)
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise SmidgenError(
                f"{engine_version()} could not start with {path}: an architecture it does "
                f"not know, or not enough memory for a context of {ctx_size} tokens; --debug shows its log."
            ) from error
        finally:
            _restore_signal_handlers()
        self.address: str = self._server.listening_address
        self._connections: set[HTTPConnection] = set()
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._wait_until_running()
        if loading.given_back:
            give_back(files)

    def call(self, endpoint: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request, as JSON. Raises SmidgenError with llama.cpp's words if it refuses."""
        with self._exchange("POST", endpoint, request) as response:
            return json.loads(response.read())

    def events(self, endpoint: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer as they come. Closing the generator cancels the request."""
        with self._exchange("POST", endpoint, request) as response:
            for line in response:
                if line.startswith(b"data: "):
                    yield json.loads(line[len(b"data: ") :])
                elif line.startswith(b"error: "):
                    raise _refusal(line[len(b"error: ") :])

    def close(self) -> None:
        """Stop our own requests and free the model, once other clients have been answered. Safe to call twice."""
        for connection in list(self._connections):
            connection.close()
        self._server = None  # its destructor waits for the server's threads

    def _wait_until_running(self) -> None:
        """Return once the server's loop has answered a request.

        llama.cpp reports itself ready just before its loop starts; stopped in between, it would miss that and never
        end. The list of adapters is a question that only the loop can answer.
        """
        with self._exchange("GET", "/lora-adapters") as response:
            response.read()

    @contextmanager
    def _exchange(self, method: str, endpoint: str, request: dict[str, Any] | None = None) -> Iterator[HTTPResponse]:
        """One request over a connection of its own, and its answer once that has begun well."""
        connection = HTTPConnection(urlsplit(self.address).netloc)
        self._connections.add(connection)
        try:
            body = None if request is None else json.dumps(request)
            connection.request(method, endpoint, body, self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(response.read())
            yield response
        except (OSError, HTTPException) as error:
            raise SmidgenError(f"llama.cpp stopped answering ({type(error).__name__}).") from error
        finally:
            connection.close()
            self._connections.discard(connection)


def _refusal(body: bytes) -> SmidgenError:
    """llama.cpp's own message, as one of our errors."""
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = body.decode(errors="replace")[:200]
    return SmidgenError(f"llama.cpp: {message}")


def engine_version() -> str:
    """Name and version of the engine, for reports."""
    return f"llama.cpp (xllamacpp {_xllamacpp().__version__})"


def _xllamacpp() -> Any:
    """The wheel's module, loaded when first needed; it is compiled and describes no types."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # should it ever abort, it would start a debugger on us
    with waiting_awake():
        return import_module("xllamacpp")


def _add_draft(params: Any, xllamacpp: Any, draft: Path, threads: int) -> None:
    speculative = params.speculative
    speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    speculative.draft.mparams.path = str(draft)
    speculative.draft.cpuparams.n_threads = speculative.draft.cpuparams_batch.n_threads = threads


def _make_safe(params: Any) -> None:
    params.ui = False
    params.endpoint_slots = params.endpoint_metrics = params.endpoint_props = False
    params.cors_origins = "localhost"  # llama.cpp's default lets the pages of any site read the answers
    params.ctx_shift = False
    params.cache_ram_mib = 0  # llama.cpp's default keeps up to 8 GiB of earlier prompts in memory


def _refuse_taken_port(host: str, port: int) -> None:
    """llama.cpp only says that it failed; find out why beforehand."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SmidgenError(
                f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port or --host."
            ) from error


def _restore_signal_handlers() -> None:
    """llama.cpp takes SIGINT and SIGTERM for itself when it starts; give them back to Python."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)
