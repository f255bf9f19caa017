"""An engine that says what it is told to, and remembers what it was asked."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from smidgen.engines.llama_cpp.engine import Facts, read_facts
from smidgen.model.tokenizer import Tokenizer
from smidgen.serving.answers.model import AnsweringModel
from smidgen.serving.answers.scorer import PromptScorer
from smidgen.serving.upstream import Answer, Dialect

_facts_of = cache(read_facts)
Reply = tuple[int, bytes]  # status and body


class PretendedAnswer:
    headers: Mapping[str, str] = {}

    def __init__(self, status: int, body: bytes, hangs: bool) -> None:
        self.status, self._body, self._hangs = status, body, hangs

    async def read(self) -> bytes:
        return self._body

    async def pieces(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), 7):  # cut anywhere
            yield self._body[start : start + 7]
        if self._hangs:
            await asyncio.Event().wait()


class PretendedUpstream:
    """An `Upstream`. asked: paths and bodies in their order.  open: requests it works on.

    hangs: whether answers go on without an end after what is said here.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Reply], hangs: bool = False, slots: int = 4) -> None:
        self.context, self.slots = 64, slots
        self.dialect: Dialect = "llama.cpp"
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.open = self.most_open = 0
        self._answer, self._hangs = answer, hangs

    @asynccontextmanager
    async def exchange(self, method: str, path: str, body: dict[str, Any] | None) -> AsyncIterator[Answer]:
        self.asked.append((path, body or {}))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await asyncio.sleep(0)
            yield PretendedAnswer(*self._answer(body or {}), self._hangs)
        finally:
            self.open -= 1

    def close(self) -> None:
        pass


def sse(events: Sequence[dict[str, Any]], done: bool = True) -> Reply:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return 200, ("".join(lines) + ("data: [DONE]\n\n" if done else "")).encode()


def error(status: int, message: str, **more: Any) -> Reply:
    return status, json.dumps({"error": {"code": status, "message": message, **more}}).encode()


def chat_stream(*pieces: str, finish: str = "stop", prompt: int = 5, done: bool = True) -> Reply:
    """As llama.cpp streams a chat: one token a piece. done: whether the stream comes to its end."""
    events: list[dict[str, Any]] = [_chunk({"role": "assistant", "content": None})]
    for number, piece in enumerate(pieces, 1):
        timings = {"cache_n": 1, "prompt_n": prompt - 1, "predicted_n": number}
        events.append({**_chunk({"content": piece}), "timings": timings, "__verbose": {"secret": True}})
    if done:
        usage = {"prompt_tokens": prompt, "completion_tokens": len(pieces), "prompt_tokens_details": {}}
        events += [_chunk({}, finish), {"choices": [], "usage": usage}]
    return sse(events, done)


def _chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"id": "theirs", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def text_stream(*pieces: str, stop_type: str = "limit", done: bool = True) -> Reply:
    """As llama.cpp streams a text: one token a piece."""
    events: list[dict[str, Any]] = [
        {"content": piece, "tokens": [7], "stop": False, "tokens_predicted": number}
        for number, piece in enumerate(pieces, 1)
    ]
    last = {"content": "", "tokens": [], "stop": True, "stop_type": stop_type, "tokens_predicted": len(pieces)}
    return sse(events + [last] if done else events, done=False)


def model_on(
    upstream: PretendedUpstream, path: Path | None = None, scorer: PromptScorer | None = None
) -> AnsweringModel:
    """A model with the tokenizer of a GGUF file, or with none that we know."""
    facts = Facts(64, None, "unknown", False, {}) if path is None else _facts_of(path)
    return AnsweringModel("ours", facts, upstream, scorer)


def tokenizer_of(model: AnsweringModel) -> Tokenizer:
    assert model.facts.tokenizer is not None
    return model.facts.tokenizer
