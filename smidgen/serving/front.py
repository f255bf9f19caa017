"""The server that people and programs talk with: thin, and in front of an engine that has the endpoints.

It lets in whom it should (admission.py), reads a body once and strictly (bodies.py), checks all that it asks for
(requests/), finds the model (pool.py) and a place in its line (line.py), and hands on what is left to llama.cpp. What
comes back is put right where llama.cpp does not tell the truth (answers/). Where the engine ends in between, a stream
ends in an error event and any other request gets status 503; the next request starts the engine again.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from smidgen import progress
from smidgen.engines.llama_cpp.engine import require_chat_template
from smidgen.errors import EngineEnded, SmidgenError
from smidgen.serving.accounts import Account, Accounts
from smidgen.serving.admission import Admission
from smidgen.serving.answers.calls import RequiredCalls
from smidgen.serving.answers.chat import chat, chat_events
from smidgen.serving.answers.completions import complete, complete_events
from smidgen.serving.answers.model import AnsweringModel
from smidgen.serving.answers.passed import passed, passed_events
from smidgen.serving.answers.scorer import PromptScorer
from smidgen.serving.bodies import read_body
from smidgen.serving.cards import data_of_card, page_of_card
from smidgen.serving.embeddings import embed
from smidgen.serving.gate import Gate
from smidgen.serving.guard.answers import with_extension
from smidgen.serving.hosting import Hosted
from smidgen.serving.journal import Journal
from smidgen.serving.keys import Budgets, Key
from smidgen.serving.metrics import CONTENT_TYPE, Metrics
from smidgen.serving.openapi import docs_page, openapi
from smidgen.serving.pool import Loaded, Pool
from smidgen.serving.readable import check_chat
from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.asked import Asked
from smidgen.serving.requests.reading import read_request
from smidgen.serving.requests.sampling import refuse_unknown_biases
from smidgen.serving.work import Events, Stream, Work

_CHATTED = ("/v1/chat/completions", "/chat/completions")
_COMPLETED = ("/v1/completions", "/completions")
_EMBEDDED = ("/v1/embeddings", "/embeddings")
_PASSED_CHATS = ("/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/apply-template")
_PASSED = ("/infill", "/detokenize")
_NAMED_EVENTS = frozenset({"/v1/responses", "/v1/messages"})
_LIMIT_NAMES = {"/v1/responses": "max_output_tokens", "/infill": "n_predict"}
_WITHOUT_TEXT = frozenset({"/v1/embeddings", "/tokenize", "/detokenize", "/v1/messages/count_tokens"})
_LONGEST_HEADER = 2000  # characters
_STATUS_OF_FAULT = 500
_NOBODY_LISTENS = 499


@dataclass(frozen=True)
class Door:
    """Who may come in, and how much they may ask.

    hosts, origins, any_address: see `Admission`.  keys: none lets in everybody.  budgets: what keys have used.
    seconds: the most that one answer may take, waiting included.  most_tokens: the most that one answer may have.
    """

    hosts: Collection[str]
    origins: Collection[str] = ()
    any_address: bool = False
    keys: Sequence[Key] = ()
    budgets: Budgets = field(default_factory=Budgets)
    seconds: float = 600.0
    most_tokens: int | None = None


def build_front(
    pool: Pool, door: Door, journal: Journal | None = None, gate: Gate | None = None, threads: int | None = None
) -> Starlette:
    """The application in front of the engines.  threads: of what scores prompts."""
    journal = journal or Journal()
    metrics = Metrics()
    front = _Front(pool, door, gate or Gate(), journal, metrics, threads)
    asked: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/health": front.health, "/v1/health": front.health, "/v1/models": front.models, "/models": front.models,
        "/metrics": front.metrics, "/card": front.card, "/card.json": front.card_data, "/openapi.json": front.openapi,
        "/docs": front.docs, "/": front.home,
    }  # fmt: skip
    posted: dict[str, Callable[[Request], Awaitable[Response]]] = {"/tokenize": front.tokenize}
    for paths, handler in (
        (_CHATTED, front.chat), (_COMPLETED, front.complete), (_EMBEDDED, front.embed),
        (_PASSED_CHATS, front.pass_chat), (_PASSED, front.pass_on),
    ):  # fmt: skip
        posted |= dict.fromkeys(paths, handler)
    routes = [Route(path, handler) for path, handler in asked.items()]
    routes += [Route(path, handler, methods=["POST"]) for path, handler in posted.items()]
    routes.append(Route("/v1/models/{name:path}", front.one_model))
    middleware = [
        Middleware(Accounts, endpoints={*asked, *posted}, metrics=metrics, journal=journal),  # pyright: ignore[reportCallIssue]
        Middleware(
            Admission, hosts=door.hosts, origins=door.origins, keys=door.keys, any_address=door.any_address  # pyright: ignore[reportCallIssue]
        ),
    ]  # fmt: skip
    errors: dict[Any, Any] = {
        HTTPException: _http_error, Refusal: _refused, SmidgenError: _refused, EngineEnded: _refused,
        ClientDisconnect: _gone, Exception: _our_fault,
    }  # fmt: skip
    return Starlette(routes=routes, middleware=middleware, exception_handlers=errors, lifespan=front.lifespan)


class _Front:
    def __init__(
        self, pool: Pool, door: Door, gate: Gate, journal: Journal, metrics: Metrics, threads: int | None
    ) -> None:
        self._pool, self._door, self._gate = pool, door, gate
        self._journal, self._metrics, self._threads = journal, metrics, threads
        self._scorers: dict[str, PromptScorer] = {}
        self._bundles: dict[str, AnsweringModel] = {}
        self._calls = RequiredCalls()
        self._openapi = openapi(models=tuple(pool.models))

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(self._pool.unload_idle)
            try:
                yield
            finally:
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    for scorer in self._scorers.values():
                        await scorer.aclose()
                    await self._pool.close()
                    self._door.budgets.save()

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model.as_object() for model in self._pool.models.values()]})

    async def one_model(self, request: Request) -> Response:
        return JSONResponse(self._pool.find(request.path_params["name"]).as_object())

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(self._metrics.page(self._pool), media_type=CONTENT_TYPE)

    async def card(self, request: Request) -> Response:
        return page_of_card(self._pool.find(request.query_params.get("model")))

    async def card_data(self, request: Request) -> Response:
        return data_of_card(self._pool.find(request.query_params.get("model")))

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(self._openapi)

    async def docs(self, request: Request) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
        page = docs_page(self._openapi, str(request.base_url).rstrip("/"))
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    async def home(self, request: Request) -> Response:
        return RedirectResponse("/docs", 303)

    async def chat(self, request: Request) -> Response:
        asked, model, account, hidden = await self._read(request)
        await check_chat(model, asked)
        return self._answered(asked, model, account, hidden, chat, chat_events)

    async def complete(self, request: Request) -> Response:
        return self._answered(*await self._read(request), complete, complete_events)

    def _answered(
        self, asked: Asked, model: Hosted, account: Account, hidden: dict[str, int],
        whole: Callable[[AnsweringModel, Asked], Awaitable[dict[str, Any]]],
        events: Callable[[AnsweringModel, Asked], Events],
    ) -> Response:  # fmt: skip
        """The way of a prompt that may be judged, and of its answer."""

        async def answer(loaded: Loaded) -> dict[str, Any] | Stream:
            let_in = await self._gate.admit(asked, model.name, hidden, self._metrics.decided)
            bundle = self._bundle(loaded)
            if loaded.upstream.dialect == "openai":
                write, stream = passed, passed_events
            else:
                write, stream = whole, events
            if asked.stream and let_in.refused:
                return Stream(account.events(let_in.refusal_events(), asked.include_usage))
            if let_in.refused:
                return account.whole(let_in.refusal())
            wanted = await self._calls.begun(bundle, asked)
            if asked.stream:
                return Stream(let_in.events(account.events(stream(bundle, wanted), asked.include_usage)))
            return await let_in.whole(account.whole(await write(bundle, wanted)))

        return self._work(model, asked, account, answer)

    async def embed(self, request: Request) -> Response:
        asked, model, account, hidden = await self._read(request)

        async def answer(loaded: Loaded) -> dict[str, Any]:
            return with_extension(account.whole(await embed(self._bundle(loaded), asked)), [], hidden)

        return self._work(model.for_embeddings(), asked, account, answer)

    async def pass_chat(self, request: Request) -> Response:
        asked, model, account, _ = await self._read(request)
        await check_chat(model, asked)
        return self._passed(asked, model, account)

    async def pass_on(self, request: Request) -> Response:
        asked, model, account, _ = await self._read(request)
        return self._passed(asked, model, account)

    def _passed(self, asked: Asked, model: Hosted, account: Account) -> Response:
        async def answer(loaded: Loaded) -> dict[str, Any] | Stream:
            bundle = self._bundle(loaded)
            wanted = await self._calls.begun(bundle, asked)
            if asked.stream:
                return Stream(account.events(passed_events(bundle, wanted), True), asked.path in _NAMED_EVENTS)
            return account.whole(await passed(bundle, wanted))

        return self._work(model, asked, account, answer)

    async def tokenize(self, request: Request) -> Response:
        asked, model, _, _ = await self._read(request)
        tokenizer, text = model.facts.tokenizer, asked.body["content"]
        if tokenizer is None:
            raise Refusal(f"the tokenizer of {model.name} is of a kind that is not known here.", 501)
        add_bos = bool(asked.body.get("add_special", False)) and tokenizer.adds_bos
        special = bool(asked.body.get("parse_special", True))
        ids = await anyio.to_thread.run_sync(lambda: tokenizer.encode(text, add_bos=add_bos, parse_special=special))
        return JSONResponse({"tokens": ids})

    async def _read(self, request: Request) -> tuple[Asked, Hosted, Account, dict[str, int]]:
        """What is asked, of which model, by whom, and what was hidden. Raises Refusal for what may not be asked."""
        body = await read_body(request)
        asked = await anyio.to_thread.run_sync(read_request, request.url.path, dict(body))
        asked = replace(asked, given={key: value for key, value in body.items() if value is not None})
        model = self._pool.find(asked.model)
        if model.facts.tokenizer is not None:
            refuse_unknown_biases(asked.body.get("logit_bias"), len(model.facts.tokenizer))
        if self._door.most_tokens is not None:
            asked = _within(asked, self._door.most_tokens)
        if asked.path not in _WITHOUT_TEXT:
            self._gate.refuse_unjudged(asked)
        asked, hidden = await self._gate.redacted(asked)
        account = Account(request.scope, self._metrics, self._door.budgets, self._journal.texts)
        account.asked(model.name, asked.messages or asked.prompts or asked.inputs or None)
        return asked, model, account, hidden

    def _bundle(self, loaded: Loaded) -> AnsweringModel:
        """The model with all that answers need of it; made once for each engine."""
        model = loaded.hosted
        known = self._bundles.get(model.key)
        if known is not None and known.upstream is loaded.upstream:
            return known
        if model.name not in self._scorers and model.lora is None:
            self._scorers[model.name] = PromptScorer(model.path, self._threads, model.kv)
        template = require_chat_template(model.facts, model.template) if model.facts.has_chat_template else None
        bundle = AnsweringModel(model.name, model.facts, loaded.upstream, self._scorers.get(model.name), template)
        self._bundles[model.key] = bundle
        return bundle

    def _work(
        self, model: Hosted, asked: Asked, account: Account,
        answer: Callable[[Loaded], Awaitable[dict[str, Any] | Stream]],
    ) -> Response:  # fmt: skip
        headers = {"X-Smidgen-Warning": _as_header(asked.warnings)} if asked.warnings else {}

        async def begun(loaded: Loaded) -> dict[str, Any] | Stream:
            account.begin()
            return await answer(loaded)

        return Work(self._pool, model, begun, self._door.seconds, headers, account.first_piece)


def _within(asked: Asked, most: int) -> Asked:
    """With a limit of tokens. Raises Refusal where more is asked for."""
    if asked.max_tokens is None:
        name = _LIMIT_NAMES.get(asked.path, "max_tokens")
        return replace(asked, max_tokens=most, body={**asked.body, name: most})
    if asked.max_tokens > most:
        raise Refusal(f"max_tokens is {asked.max_tokens}; {most} is the most here.", param="max_tokens")
    return asked


def _as_header(warnings: Sequence[str]) -> str:
    """In what a header may hold; names in them are the client's."""
    text = re.sub(r"[^ -~]", "?", "; ".join(warnings))
    return text if len(text) <= _LONGEST_HEADER else f"{text[:_LONGEST_HEADER]} ..."


async def _http_error(request: Request, error: HTTPException) -> Response:
    known = {404: f"there is no {request.url.path[:200]} here.", 405: f"{request.url.path} takes no {request.method}."}
    return Refusal(known.get(error.status_code, error.detail), error.status_code).as_response()


async def _refused(request: Request, error: SmidgenError) -> Response:
    if isinstance(error, Refusal):
        return error.as_response()
    return Refusal(str(error), 503 if isinstance(error, EngineEnded) else 400).as_response()


async def _our_fault(request: Request, error: Exception) -> Response:
    if type(error).__module__.startswith("h11"):  # what came was not HTTP
        return Refusal("the request is not HTTP.").as_response()
    progress.say(f"A request to {request.url.path} failed with {type(error).__name__}: a fault of smidgen.")  # no text
    return Refusal("the server could not answer this request.", _STATUS_OF_FAULT).as_response()


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=_NOBODY_LISTENS)  # nobody reads it
