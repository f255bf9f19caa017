"""The server that people and programs talk with: thin, and in front of llama.cpp's.

It lets in whom it should (admission.py), reads a body once and strictly, measures what it asks for (request_bounds.py),
and hands it to llama.cpp's server, which has the endpoints. What comes back goes out as it comes. Where the engine ends
in between, a stream ends in an error event and any other request gets status 503; the next request starts the engine
again.

Texts to complete are encoded here, by the tokenizer that the model was measured with, and go on as token ids.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, TypeVar

import anyio
import httpx2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from smidgen import progress
from smidgen.engines.llama_cpp.engine import Facts, require_chat_template
from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.errors import BadFile, EngineEnded, SmidgenError
from smidgen.formats.hf.json_text import parse_json
from smidgen.model.chat import refuse_hostile_chat
from smidgen.serving.admission import Admission, error_event, error_response
from smidgen.serving.conversations import messages_of, tools_of
from smidgen.serving.request_bounds import LONGEST_BODY, refuse_excess
from smidgen.serving.schemas import refuse_unenforceable

_ASKED = ("/v1/models", "/models")
_COMPLETED = ("/v1/completions", "/completions", "/completion")
_CHATTED = (
    "/v1/chat/completions", "/chat/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens",
    "/apply-template",
)  # fmt: skip
_WITH_MESSAGES = frozenset(_CHATTED) - {"/v1/responses"}
_OTHER = ("/infill", "/detokenize")
_MISSING = ("/v1/embeddings", "/embeddings", "/v1/rerank", "/rerank")
_NOT_KNOWN = ("echo", "suffix", "best_of", "response_format")  # of completions: llama.cpp would pass over them
_T = TypeVar("_T")
_PASSED_ON = ("content-type", "cache-control", "retry-after")


def build_front(
    server: LlamaServer,
    facts: Facts,
    hosts: Collection[str],
    origins: Collection[str] = (),
    api_key: str | None = None,
    any_address: bool = False,
    template: str | None = None,
) -> Starlette:
    """The application in front of one engine. See `Admission` for whom it lets in.

    template: the name of the chat template that the engine was started with, None for the default.
    """
    front = _Front(server, facts, template)
    routes = [Route("/health", front.health), Route("/v1/health", front.health)]
    routes += [Route(path, front.ask) for path in _ASKED]
    routes += [Route(path, front.complete, methods=["POST"]) for path in _COMPLETED]
    routes += [Route(path, front.chat, methods=["POST"]) for path in _CHATTED]
    routes += [Route(path, front.other, methods=["POST"]) for path in _OTHER]
    routes += [Route(path, front.missing, methods=["POST"]) for path in _MISSING]
    routes += [Route("/v1/models/{name:path}", front.one_model)]
    routes += [Route("/tokenize", front.tokenize, methods=["POST"])]
    admission = Middleware(Admission, hosts=hosts, origins=origins, api_key=api_key, any_address=any_address)  # pyright: ignore[reportCallIssue]
    handlers: dict[Any, Any] = {
        HTTPException: _http_error, SmidgenError: _refused, EngineEnded: _ended, ClientDisconnect: _gone,
        Exception: _our_fault,
    }  # fmt: skip
    return Starlette(routes=routes, middleware=[admission], exception_handlers=handlers, lifespan=front.lifespan)


class _Front:
    def __init__(self, server: LlamaServer, facts: Facts, template: str | None) -> None:
        self._server, self._facts, self._template = server, facts, template
        tokenizer = facts.tokenizer
        longest = 1 if tokenizer is None else max(len(tokenizer.piece(token)) for token in range(len(tokenizer)))
        self._longest_text = (server.ctx_size + 1) * max(longest, 1)  # characters: more cannot fit the context
        self._client: httpx2.AsyncClient

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        # Without the proxies that the environment names: the engine is on this machine.
        async with httpx2.AsyncClient(timeout=None, limits=limits, trust_env=False) as self._client:
            yield

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ask(self, request: Request) -> Response:
        return await self._forward(request, None)

    async def other(self, request: Request) -> Response:
        return await self._forward(request, await _read_body(request))

    async def missing(self, request: Request) -> Response:
        return error_response(501, f"{request.url.path} is not served here.")

    async def one_model(self, request: Request) -> Response:
        known = json.loads(bytes((await self._forward(request, None, "/v1/models")).body))["data"]
        found = next((one for one in known if one["id"] == request.path_params["name"]), None)
        if found is None:
            raise HTTPException(404, "there is no such model here; see /v1/models.")
        return JSONResponse(found)

    async def chat(self, request: Request) -> Response:
        template = require_chat_template(self._facts, self._template)
        body = await _read_body(request)
        if request.url.path in _WITH_MESSAGES and not (isinstance(body.get("messages"), list) and body["messages"]):
            raise SmidgenError("messages must be a list of at least one message.")
        if "chat_template" in body:
            raise SmidgenError("the model's own chat template is used; leave chat_template out.")
        refuse_unenforceable(body)
        await anyio.to_thread.run_sync(self._refuse_bad_chat, template, body)
        return await self._forward(request, body)

    def _refuse_bad_chat(self, template: str, body: dict[str, Any]) -> None:
        """Messages that are none, tools that the template would drop, and what makes the template run without end."""
        messages, tools = messages_of(body), tools_of(body)
        specials = {} if self._facts.tokenizer is None else self._facts.tokenizer.special_texts
        seen = refuse_hostile_chat(template, messages, specials, tools)
        if tools and not seen and body.get("tool_choice") != "none":
            raise SmidgenError("this model's chat template has no place for tools, so the model would not see them.")

    async def complete(self, request: Request) -> Response:
        body = await _read_body(request)
        for key in _NOT_KNOWN:
            if body.get(key) and not (key == "best_of" and body[key] == 1):
                raise SmidgenError(f"{key} is not known to {request.url.path}; leave it out.")
        refuse_unenforceable(body)
        prompt = await anyio.to_thread.run_sync(self._encoded, body.get("prompt"))
        if body.get("stream") and isinstance(prompt[0], list):
            raise SmidgenError("several prompts cannot be streamed at once; send them one by one.")
        return await self._forward(request, body | {"prompt": prompt})

    async def tokenize(self, request: Request) -> Response:
        body = await _read_body(request)
        text, tokenizer = body.get("content"), self._facts.tokenizer
        if tokenizer is None:
            return await self._forward(request, body)
        if not isinstance(text, str) or body.get("with_pieces"):
            raise SmidgenError("content must be a text; with_pieces is not known here, /detokenize gives texts.")
        add_bos = bool(body.get("add_special", False)) and tokenizer.adds_bos
        special = bool(body.get("parse_special", True))
        ids = await anyio.to_thread.run_sync(lambda: tokenizer.encode(text, add_bos=add_bos, parse_special=special))
        return JSONResponse({"tokens": ids})

    def _encoded(self, prompt: Any) -> Any:
        """A prompt as token ids, a list of texts as a list of them; ids stay."""
        texts = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(texts, list) or not texts:
            raise SmidgenError("prompt must be a text, a list of texts, or token ids.")
        kinds = {type(text) for text in texts}
        if kinds in ({int}, {list}):
            return self._checked_ids(texts)
        if kinds != {str}:
            raise SmidgenError("prompt must be a text, a list of texts, or token ids, and not a mixture of them.")
        tokenizer = self._facts.tokenizer
        if tokenizer is None:
            return prompt
        for text in texts:
            if len(text) > self._longest_text:
                raise SmidgenError(
                    f"the prompt has {len(text)} characters: more than a context of {self._server.ctx_size} tokens has."
                )
        ids = [tokenizer.encode(text, add_bos=tokenizer.adds_bos, parse_special=True) for text in texts]
        if not all(ids):
            raise SmidgenError("the prompt is empty; give at least one character.")
        return ids[0] if len(ids) == 1 else ids

    def _checked_ids(self, ids: list[Any]) -> list[Any]:
        """Ids that the model has. Raises SmidgenError for others."""
        size = None if self._facts.tokenizer is None else len(self._facts.tokenizer)
        for one in ids if isinstance(ids[0], list) else [ids]:
            if not one or not all(type(token) is int and 0 <= token < (size or 2**31) for token in one):
                raise SmidgenError(f"a prompt of token ids needs integers from 0 to {(size or 2**31) - 1}.")
        return ids

    async def _forward(self, request: Request, body: dict[str, Any] | None, path: str | None = None) -> Response:
        """Hand a request to the engine, and its answer back as it comes. A client that goes cancels the work."""
        lease = self._server.lend()
        address = await anyio.to_thread.run_sync(lease.__enter__)  # it may have to start again, which takes a while
        try:
            outgoing = self._client.build_request(
                request.method, address + (path or request.url.path), json=body, headers=self._server.headers
            )
            try:
                answer = await _unless_gone(request, self._client.send(outgoing, stream=True))
                headers = {key: answer.headers[key] for key in _PASSED_ON if key in answer.headers}
                if answer.headers.get("content-type", "").startswith("text/event-stream"):
                    events = self._events(answer, lease)
                    lease = None
                    return StreamingResponse(events, answer.status_code, headers)
                return Response(await _unless_gone(request, answer.aread()), answer.status_code, headers)
            except httpx2.HTTPError as error:
                raise await self._why_it_broke() from error
        finally:
            if lease is not None:
                lease.__exit__(None, None, None)

    async def _events(self, answer: httpx2.Response, lease: AbstractContextManager[str]) -> AsyncIterator[bytes]:
        """The pieces of a stream; where it breaks off, an error event in the end."""
        try:
            async for piece in answer.aiter_raw():
                yield piece
        except httpx2.HTTPError:
            yield error_event(str(await self._why_it_broke()))
        finally:
            with anyio.CancelScope(shield=True):
                await answer.aclose()
            lease.__exit__(None, None, None)

    async def _why_it_broke(self) -> EngineEnded:
        return await anyio.to_thread.run_sync(self._server.why_it_broke)


async def _read_body(request: Request) -> dict[str, Any]:
    """The JSON object in a request. Raises SmidgenError for anything else, and for one that is too large."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > LONGEST_BODY:
            raise HTTPException(413, f"the request has more than {LONGEST_BODY} bytes.")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "requests are read uncompressed; leave Content-Encoding out.")
    try:
        body = parse_json(bytes(raw), "the request")
    except BadFile as error:
        raise SmidgenError(f"{re.split('; |, which', str(error))[0]}.") from error
    if not isinstance(body, dict):
        raise SmidgenError("the request must be a JSON object.")
    refuse_excess(body)
    return body


async def _unless_gone(request: Request, answer: Awaitable[_T]) -> _T:
    """What the engine answers, or ClientDisconnect as soon as the client has gone: the work is cancelled."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, watch = asyncio.ensure_future(answer), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        for task in (work, watch):
            task.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)


async def _http_error(request: Request, error: HTTPException) -> Response:
    known = {404: f"there is no {request.url.path} here.", 405: f"{request.url.path} takes no {request.method}."}
    return error_response(error.status_code, known.get(error.status_code, error.detail))


async def _refused(request: Request, error: SmidgenError) -> Response:
    return error_response(400, str(error))


async def _ended(request: Request, error: EngineEnded) -> Response:
    return error_response(503, str(error))


async def _our_fault(request: Request, error: Exception) -> Response:
    if type(error).__module__.startswith("h11"):  # what came was not HTTP
        return error_response(400, "the request is not HTTP.")
    progress.say(f"A request to {request.url.path} failed with {type(error).__name__}: a fault of smidgen.")  # no text
    return error_response(500, "the server could not answer this request.")


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=499)  # nobody reads it
