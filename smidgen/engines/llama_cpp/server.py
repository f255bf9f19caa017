"""llama.cpp's own HTTP server in a process beside this one, supervised.

Both uses of llama.cpp stand on it: `smidgen serve` puts a front of ours before it, and `LlamaCppEngine` keeps one for
itself. It listens on a loopback port with a random key that only its parent knows. HTTP rather than the wheel's
callbacks because a closed connection cancels the work behind it, at any point.

Whatever happens to that process is one error for the requests it was working on, and nothing more: the next request
starts it again. A process that computes without an end is found by a question that only its main loop can answer, asked
now and then while a request waits.
"""

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from smidgen.bounds import MOST_THREADS, within
from smidgen.closing import Closing
from smidgen.engines.llama_cpp.child import Settings
from smidgen.engines.llama_cpp.draft import usable_draft
from smidgen.engines.llama_cpp.loading import Loading, choose_loading
from smidgen.engines.llama_cpp.process import EngineProcess, Memory, Processor
from smidgen.engines.machine import default_threads
from smidgen.errors import EngineEnded, SmidgenError, printable
from smidgen.formats.gguf.adapter import refuse_other_adapter
from smidgen.formats.gguf.contents import parts_of
from smidgen.formats.gguf.kept import refuse_kv_of
from smidgen.model.kept import AS_USUAL, KVType

BUILT_IN_TEMPLATE = "chatml"  # llama.cpp's own, for those who send it no conversations
DEFAULT_CONTEXT = 4096  # tokens, where the model allows more and nobody asked for more
_CHECK_EVERY_S = 10
_PATIENCE_S = 60  # for the answer of a loop that computes one batch at a time, and …
_BYTES_A_SECOND = 10e6  # … longer for a large model: at such a rate a batch of 512 tokens is read on a weak machine


class LlamaServer(Closing):
    """A running server for one model; stop it with `close` or a `with` statement.

    threads: CPU threads it computes with.  ctx_size: as it was given.
    Each of `parallel` requests at a time has a context of `ctx_size` tokens (llama.cpp rounds up to 256).
    name: what answers call the model; default the file's name.
    draft: a smaller model of the very same vocabulary, which proposes tokens (see draft.py).
    lora: an adapter for the model, a GGUF file (see formats/gguf/adapter.py).
    template: stands in for the model's chat template, which llama.cpp then never sees.
    loading: default as `choose_loading` says (see loading.py): each weight is resident once.
    embeddings: it makes vectors of texts (`/v1/embeddings`) and no answers.
    kv: how it keeps keys and values; q8_0 and q4_0 take less memory and turn flash attention on.
    The caller has checked the file with `GGUFFile.open`: llama.cpp itself trusts it.
    Raises SmidgenError if llama.cpp refuses the model or ends while it loads it, Unsupported where `kv` does not fit.
    """

    def __init__(
        self,
        path: Path,
        *,
        ctx_size: int,
        threads: int | None = None,
        parallel: int = 1,
        name: str | None = None,
        draft: Path | None = None,
        lora: Path | None = None,
        template: str | None = None,
        loading: Loading | None = None,
        warm_up: bool = False,
        verbose: bool = False,
        embeddings: bool = False,
        kv: KVType = AS_USUAL,
    ) -> None:
        files = parts_of(path)
        refuse_kv_of(path, kv)
        path = files[0]  # llama.cpp finds the other parts of a split model beside the first
        if draft is not None:
            draft = usable_draft(path, draft)
            files += parts_of(draft)
        if lora is not None:
            refuse_other_adapter(path, lora)
        within("threads", threads, 1, MOST_THREADS)
        key = secrets.token_urlsafe()
        self.threads = threads or default_threads()
        self.ctx_size = ctx_size
        self.headers = {"Authorization": f"Bearer {key}"}
        self._settings = Settings(
            path=str(path),
            files=[str(file) for file in files],
            name=name or path.name,
            ctx_size=ctx_size,
            threads=self.threads,
            parallel=parallel,
            api_key=key,
            loading=loading or choose_loading(files),
            draft=None if draft is None else str(draft),
            lora=None if lora is None else str(lora),
            template=template,
            warm_up=warm_up,
            verbose=verbose,
            embeddings=embeddings,
            kv=kv,
        )
        self._patience = _PATIENCE_S + self._settings.bytes / _BYTES_A_SECOND
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._connections: set[HTTPConnection] = set()
        self._requests = 0
        self._versions = [(file, _version(file)) for file in files]
        self._process = EngineProcess(self._settings)
        self._watch = threading.Thread(target=self._end_what_hangs, daemon=True)
        self._watch.start()

    @contextmanager
    def lend(self) -> Iterator[str]:
        """The address to send one request to, `http://127.0.0.1:port`; the engine is started again if it has ended.

        `headers` go with the request. While the address is lent, an engine that hangs is ended.
        Where the connection breaks, `why_it_broke` tells.
        """
        with self._lock:
            if self._closed.is_set():
                raise SmidgenError("the engine is closed.")
            if not self._process.runs:
                self._process.close()
                self._refuse_changed()
                self._process = EngineProcess(self._settings)
            process = self._process
            self._requests += 1
        try:
            yield process.address
        finally:
            with self._lock:
                self._requests -= 1

    def call(self, endpoint: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request, as JSON. Raises SmidgenError with llama.cpp's words if it refuses."""
        with self._exchange("POST", endpoint, request) as response:
            return json.loads(response.read())

    def events(self, endpoint: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer as they come. Closing the generator cancels the request.

        Raises EngineEnded where they break off before the one that is marked as the last.
        """
        complete = False
        with self._exchange("POST", endpoint, request) as response:
            for line in response:
                if line.startswith(b"data: "):
                    event = json.loads(line[len(b"data: ") :])
                    if not isinstance(event, dict):
                        raise ValueError("not an event")
                    if "error" in event:
                        raise _refusal(line[len(b"data: ") :])
                    complete = bool(event.get("stop"))
                    yield event
                elif line.startswith(b"error: "):
                    raise _refusal(line[len(b"error: ") :])
            if not complete:
                raise self.why_it_broke()

    def memory(self) -> Memory:
        """What the engine's process takes. Raises EngineEnded if it has ended."""
        memory = self._process.memory()
        if memory is None:
            raise self.why_it_broke()
        return memory

    def processor(self) -> Processor:
        """The processor time that the engine's process has had. Raises EngineEnded if it has ended."""
        processor = self._process.processor()
        if processor is None:
            raise self.why_it_broke()
        return processor

    def why_it_broke(self) -> EngineEnded:
        """What to tell a person whose request got no whole answer."""
        if self._process.ends():
            return EngineEnded(
                f"llama.cpp ended while it worked on this request ({self._process.how_it_ended()}); "
                "the next request starts it again."
            )
        return EngineEnded("llama.cpp broke off its answer to this request; try again.")

    def close(self) -> None:
        """End the engine and what it is doing. Safe to call twice."""
        self._closed.set()
        for connection in list(self._connections):
            connection.close()
        with self._lock:
            self._process.close()
        if self._watch is not threading.current_thread():
            self._watch.join()

    @contextmanager
    def _exchange(
        self, method: str, endpoint: str, request: dict[str, Any] | None = None, timeout: float | None = None
    ) -> Iterator[HTTPResponse]:
        """One request over a connection of its own, and its answer once that has begun well."""
        with self.lend() as address:
            connection = HTTPConnection(urlsplit(address).netloc, timeout=timeout)
            self._connections.add(connection)
            try:
                body = None if request is None else json.dumps(request)
                connection.request(method, endpoint, body, self.headers)
                response = connection.getresponse()
                if response.status != 200:
                    raise _refusal(response.read())
                yield response
            except (OSError, HTTPException, ValueError) as error:
                if self._closed.is_set():
                    raise SmidgenError("the engine was closed before the answer was complete.") from error
                raise self.why_it_broke() from error
            finally:
                connection.close()
                self._connections.discard(connection)

    def _refuse_changed(self) -> None:
        """Raises EngineEnded for a file that is not the one which was checked; it is not checked again here."""
        for file, version in self._versions:
            if _version(file) != version:
                raise EngineEnded(f"{printable(file.name)} has changed or is gone since it was loaded; open it anew.")

    def _end_what_hangs(self) -> None:
        """Ask the main loop for a sign of life now and then while a request waits; end a process that gives none."""
        while not self._closed.wait(_CHECK_EVERY_S):
            process = self._process
            if self._requests and process.runs and not self._loop_answers(process):
                process.give_up(f"it did not answer for {self._patience:.0f} s")

    def _loop_answers(self, process: EngineProcess) -> bool:
        """The list of adapters is a question that only the loop can answer, between two batches."""
        connection = HTTPConnection(urlsplit(process.address).netloc, timeout=self._patience)
        self._connections.add(connection)
        try:
            connection.request("GET", "/lora-adapters", headers=self.headers)
            connection.getresponse().read()
        except TimeoutError:
            return False
        except (OSError, HTTPException):
            return True  # it is ending, or being closed: others will see that
        finally:
            connection.close()
            self._connections.discard(connection)
        return True


def _version(file: Path) -> tuple[int, int] | None:
    """Changes with the file; None where it is not there."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _refusal(body: bytes) -> SmidgenError:
    """llama.cpp's own message, as one of our errors."""
    try:
        answer = json.loads(body)
        message = answer.get("error", answer)["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        message = body.decode(errors="replace")[:200]
    return SmidgenError(f"llama.cpp: {message}")
