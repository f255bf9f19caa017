"""What each request was and took: for the figures, the journal and the budgets of keys."""

import time
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing
from typing import Any

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smidgen.serving.journal import Entry, Journal
from smidgen.serving.keys import Budgets, Key
from smidgen.serving.metrics import Metrics

Events = AsyncIterator[dict[str, Any]]
_FIRST_REFUSAL, _NOBODY_LISTENS = 400, 499
_BYTES_OF_A_TOKEN = 4
_ACCOUNT = "smidgen.account"
_ONE_MODEL = "/v1/models/"
_OTHER = "other"  # paths that are not ours are one endpoint, or strangers could fill the figures


class Accounts:
    """ASGI middleware around everything. Handlers add what they know with an `Account`."""

    def __init__(self, app: ASGIApp, endpoints: Collection[str], metrics: Metrics, journal: Journal) -> None:
        self._app, self._endpoints = app, frozenset(endpoints)
        self._metrics, self._journal = metrics, journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Time a request, and write it down when it is over."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry = Entry(self._name_of(scope["path"]))
        scope["smidgen"] = entry
        began, status = time.monotonic(), _NOBODY_LISTENS

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_see)
        finally:
            account = scope.get(_ACCOUNT)
            if isinstance(account, Account):
                account.close(status)
            seconds = time.monotonic() - began
            self._metrics.answered(entry.endpoint, status, seconds)
            with anyio.CancelScope(shield=True):
                await self._journal.write(entry, status, seconds)

    def _name_of(self, path: str) -> str:
        if path.startswith(_ONE_MODEL):
            return f"{_ONE_MODEL}{{name}}"
        return path if path in self._endpoints else _OTHER


class Account:
    """One request's: whose it is, and what it used.  began: reading of time.monotonic."""

    def __init__(self, scope: Scope, metrics: Metrics, budgets: Budgets, texts: bool) -> None:
        self.entry: Entry = scope["smidgen"]
        self.key: Key | None = scope.get("smidgen.key")
        self.began = time.monotonic()
        self._is_begun = self._is_counted = self._is_whole = False
        self._prompt_bytes = self._pieces = 0
        self._metrics, self._budgets, self.keeps_texts = metrics, budgets, texts
        scope[_ACCOUNT] = self
        self.entry.key = None if self.key is None else self.key.name

    def asked(self, model: str, prompt: Any) -> None:
        """Which model is asked what. Raises Refusal for a key whose budget is used up."""
        self._budgets.refuse_spent(self.key)
        self.entry.model = model
        self._prompt_bytes = len(str(prompt))
        if self.keeps_texts:
            self.entry.prompt = prompt

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Take note of a whole answer."""
        self._used(_usage_in(answer))
        self._is_whole = self._is_counted
        if self.keeps_texts:
            self.entry.answer = answer.get("choices", answer.get("output", answer.get("content")))
        return answer

    async def events(self, events: Events, with_usage: bool) -> Events:
        """Take note of an answer in pieces.

        with_usage: whether the client asked for the event that has the counts alone.
        """
        pieces, texts = 0, dict[int, str]()
        try:
            async with aclosing(events):  # pyright: ignore[reportArgumentType]
                async for event in events:
                    pieces += 1
                    self._used(_usage_in(event))
                    if self.keeps_texts:
                        _gather(event, texts)
                    if with_usage or not event.get("usage") or event.get("choices") != []:
                        yield event
            self._is_whole = True
        finally:
            self._pieces = pieces
            self.entry.answer = [texts[index] for index in sorted(texts)] if self.keeps_texts else None

    def begin(self) -> None:
        """From here on the engine works. Raises Refusal for a key whose budget was used up while this one waited."""
        self._budgets.refuse_spent(self.key)
        self._is_begun = True

    def close(self, status: int) -> None:
        """Count by estimate what the client or the engine broke off: it is never for free. A refusal is.

        status: of the answer.
        """
        is_refused = _FIRST_REFUSAL <= status < _NOBODY_LISTENS
        if self._is_begun and not self._is_whole and not is_refused:
            # Anthropic's streams tell what was read at their beginning.
            prompt = 0 if self._is_counted else self._prompt_bytes // _BYTES_OF_A_TOKEN + 1
            self._used({"prompt_tokens": prompt, "completion_tokens": self._pieces})

    def _used(self, usage: Any) -> None:
        """Count tokens, from `usage` as OpenAI or as Anthropic and Responses write it."""
        if not isinstance(usage, dict) or not usage:
            return
        prompt = int(usage.get("prompt_tokens", usage.get("input_tokens", 0)) or 0)
        prompt += int(usage.get("cache_read_input_tokens", 0) or 0)  # Anthropic counts them apart
        completion = int(usage.get("completion_tokens", usage.get("output_tokens", 0)) or 0)
        earlier = (self.entry.prompt_tokens or 0, self.entry.completion_tokens or 0)  # Anthropic tells them by and by
        prompt, completion = max(prompt, earlier[0]), max(completion, earlier[1])
        more = (prompt - earlier[0], completion - earlier[1])
        self.entry.prompt_tokens, self.entry.completion_tokens = prompt, completion
        self._is_counted = True
        self._metrics.used(self.entry.model or "", self.entry.key, *more)
        self._budgets.charge(self.key, sum(more))

    def first_piece(self) -> None:
        """The first piece of the answer is there."""
        self._metrics.first_piece(self.entry.model or "", time.monotonic() - self.began)


def _usage_in(event: dict[str, Any]) -> dict[str, int]:
    """What an event says of tokens, wherever its dialect has it."""
    if "tokens_evaluated" in event:  # of infill
        return {"prompt_tokens": event["tokens_evaluated"], "completion_tokens": event.get("tokens_predicted", 0)}
    for holder in (event, event.get("response"), event.get("message")):
        if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
            return {key: value for key, value in holder["usage"].items() if isinstance(value, int)}
    return {}


def _gather(event: dict[str, Any], texts: dict[int, str]) -> None:
    """Add what an event says to the text of its choice."""
    for choice in event.get("choices") or ():
        said = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        texts[choice["index"]] = texts.get(choice["index"], "") + said
    delta = event.get("delta")  # of Responses, and of Anthropic
    said = delta.get("text") if isinstance(delta, dict) else delta
    if isinstance(said, str):
        texts[0] = texts.get(0, "") + said
