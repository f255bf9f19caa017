"""What each request was and took: for the figures, the journal and the budgets of keys."""

import time
from collections.abc import Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smidgen.serving.journal import Entry, Journal
from smidgen.serving.keys import Budgets, Key
from smidgen.serving.metrics import Metrics

_NOBODY_LISTENS = 499
_OTHER = "other"  # paths that are not ours are one endpoint, or strangers could fill the figures


class Accounts:
    """ASGI middleware around everything. Handlers add what they know with `account_of(scope)`."""

    def __init__(self, app: ASGIApp, endpoints: Collection[str], metrics: Metrics, journal: Journal) -> None:
        self._app, self._endpoints = app, frozenset(endpoints)
        self._metrics, self._journal = metrics, journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Time a request, and write it down when it is over."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry = Entry(scope["path"] if scope["path"] in self._endpoints else _OTHER)
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
            seconds = time.monotonic() - began
            self._metrics.answered(entry.endpoint, status, seconds)
            self._journal.write(entry, status, seconds)


class Account:
    """One request's: whose it is, and what it used.  began: reading of time.monotonic."""

    def __init__(self, scope: Scope, metrics: Metrics, budgets: Budgets, texts: bool) -> None:
        self.entry: Entry = scope["smidgen"]
        self.key: Key | None = scope.get("smidgen.key")
        self.began = time.monotonic()
        self._metrics, self._budgets, self.keeps_texts = metrics, budgets, texts
        self.entry.key = None if self.key is None else self.key.name

    def asked(self, model: str, prompt: Any) -> None:
        """Which model is asked what. Raises Refusal for a key whose budget is used up."""
        self._budgets.refuse_spent(self.key)
        self.entry.model = model
        if self.keeps_texts:
            self.entry.prompt = prompt

    def used(self, usage: Any) -> None:
        """Count tokens, from `usage` as OpenAI or as Anthropic and Responses write it."""
        if not isinstance(usage, dict):
            return
        prompt = int(usage.get("prompt_tokens", usage.get("input_tokens", 0)) or 0)
        completion = int(usage.get("completion_tokens", usage.get("output_tokens", 0)) or 0)
        self.entry.prompt_tokens, self.entry.completion_tokens = prompt, completion
        self._metrics.used(self.entry.model or "", self.entry.key, prompt, completion)
        self._budgets.charge(self.key, prompt + completion)

    def wrote(self, answer: Any) -> None:
        """Keep an answer for a journal that keeps texts."""
        if self.keeps_texts:
            self.entry.answer = answer

    def first_piece(self) -> None:
        """The first piece of the answer is there."""
        self._metrics.first_piece(self.entry.model or "", time.monotonic() - self.began)
