"""Answers to conversations, whole or piece by piece.

Where an answer may have calls of tools or reasoning, llama.cpp's `/v1/chat/completions` renders the conversation and
reads them out of what the model writes; elsewhere we render it (rendered.py). What llama.cpp does not do well is done
here: several answers at once, each counted; the texts that end an answer, with nothing before them lost; one entry of
log-probabilities a token. It always streams, so that a whole answer is the same as its pieces.

Where the last message is the assistant's, the model goes on with it. The answer holds what the model wrote, and with
`echo` that beginning too. Stop texts are looked for in what the answer says, not in its reasoning nor in calls of
tools.
"""

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from smidgen.engines.llama_cpp.engine import LARGEST_SEED
from smidgen.serving.answers.events import Event, events_of
from smidgen.serving.answers.filling import filled
from smidgen.serving.answers.logprobs import UNKNOWN, TokenEntry, chat_shape, entries_of
from smidgen.serving.answers.model import FINGERPRINT, AnsweringModel
from smidgen.serving.answers.rendered import ids_of_conversation, is_rendered_here, refuse_unsafe, rendered_events
from smidgen.serving.answers.side_by_side import interleaved
from smidgen.serving.answers.stopping import Passing
from smidgen.serving.answers.upstream_calls import call
from smidgen.serving.requests.asked import Asked

_OURS = ("stop", "echo")  # fields that llama.cpp is not told
_PATH = "/v1/chat/completions"


@dataclass
class Counts:
    """Tokens so far. prompt: of the conversation as it was rendered."""

    prompt: int = 0
    written: int = 0


@dataclass(frozen=True)
class _Piece:
    """Something new of one answer; delta: in OpenAI's shape."""

    index: int
    delta: dict[str, Any]
    entries: list[TokenEntry] = field(default_factory=list)
    finish_reason: str | None = None


async def chat(model: AnsweringModel, asked: Asked) -> dict[str, Any]:
    """A `chat.completion`. Raises Refusal where the engine refuses, EngineEnded where it ends."""
    counts = [Counts() for _ in range(asked.n)]
    answers = [_Whole() for _ in range(asked.n)]
    async with aclosing(_pieces(model, asked, counts)) as pieces:
        async for piece in pieces:
            answers[piece.index].add(piece)
    if asked.logprobs is not None:
        for answer in answers:
            answer.entries = await _filled(model, asked, answer.entries)
    choices = [answer.as_choice(index, asked.logprobs is not None) for index, answer in enumerate(answers)]
    return {**_head(model, "chat.completion"), "choices": choices, "usage": usage(counts[0].prompt, counts)}


async def chat_events(model: AnsweringModel, asked: Asked) -> AsyncGenerator[dict[str, Any]]:
    """`chat.completion.chunk`s as they come, the last one with the usage. Raises as `chat`."""
    head, counts = _head(model, "chat.completion.chunk"), [Counts() for _ in range(asked.n)]
    async with aclosing(_pieces(model, asked, counts)) as pieces:
        async for piece in pieces:
            shown = chat_shape(piece.entries) if asked.logprobs is not None and piece.entries else None
            choice = {
                "index": piece.index, "delta": piece.delta, "logprobs": shown, "finish_reason": piece.finish_reason
            }  # fmt: skip
            yield {**head, "choices": [choice]}
    yield {**head, "choices": [], "usage": usage(counts[0].prompt, counts)}


def usage(prompt_tokens: int, counts: list[Counts]) -> dict[str, int]:
    """The tokens of a request: what was read, and the sum of all answers."""
    written = sum(one.written for one in counts)
    return {
        "prompt_tokens": prompt_tokens, "completion_tokens": written, "total_tokens": prompt_tokens + written
    }  # fmt: skip


def seed_of(asked: Asked, number: int) -> dict[str, Any]:
    """Fields that make answer `number` of a request with a seed repeatable, and another one than its neighbours."""
    if asked.seed is None:
        return {}
    # A prompt that is taken from the cache was computed in other batches, which changes the last digits.
    return {"seed": (asked.seed + number) % (LARGEST_SEED + 1), "cache_prompt": False}


def _head(model: AnsweringModel, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model.name,
        "system_fingerprint": FINGERPRINT,
    }  # fmt: skip


def _pieces(model: AnsweringModel, asked: Asked, counts: list[Counts]) -> AsyncGenerator[_Piece]:
    answers = [_answer(model, asked, index, counts[index]) for index in range(asked.n)]
    return interleaved(answers, model.upstream.slots)


async def _answer(model: AnsweringModel, asked: Asked, index: int, counts: Counts) -> AsyncGenerator[_Piece]:
    """One answer. It begins with its role, as soon as the engine has accepted the request."""
    body = {key: value for key, value in asked.body.items() if key not in _OURS}
    # The timings have counts, which a stream that is left early would not tell otherwise.
    body |= {"stream": True, "stream_options": {"include_usage": True}, "timings_per_token": True}
    body |= seed_of(asked, index)
    passing = Passing[TokenEntry](asked.stop)
    begun, reason, new_tokens = False, "stop", None
    alone = asked.body.get("parallel_tool_calls") is False  # llama.cpp may write more calls than one
    async with aclosing(_events(model, asked, body)) as events:
        async for event in events:
            if not begun:
                begun = True
                yield _Piece(index, {"role": "assistant", "content": _beginning(asked)})
            new_tokens = _count(event, counts)
            for choice in event.get("choices", ()):
                reason = choice.get("finish_reason") or reason
                entries = _entries(model, asked, choice, new_tokens)
                delta = _known(choice.get("delta") or {})
                if alone and any(part["index"] > 0 for part in delta.get("tool_calls", ())):
                    yield _Piece(index, {}, finish_reason="tool_calls")
                    return
                text, ready = passing.pass_on(delta.pop("content", ""), entries)
                if text:
                    delta["content"] = text
                if delta or ready:
                    yield _Piece(index, delta, ready)
            if passing.found:
                yield _Piece(index, {}, finish_reason="stop")
                return
    text, ready = passing.rest()
    if asked.logprobs is not None and reason == "length":
        ready += [UNKNOWN] * (new_tokens or 0)  # told of in the last event only: parts of a character
    if text or ready:
        yield _Piece(index, {"content": text} if text else {}, ready)
    yield _Piece(index, {}, finish_reason=reason)


async def _filled(model: AnsweringModel, asked: Asked, entries: list[TokenEntry]) -> list[TokenEntry]:
    if all(entry.logprob is not None for entry in entries):
        return entries
    if is_rendered_here(model, asked):
        prompt: list[int | str] = [*await ids_of_conversation(model, asked)]
    else:
        prompt = [(await call(model, "/apply-template", asked.body))["prompt"]]
    return await filled(model, prompt, entries, asked.logprobs or 0)


def _events(model: AnsweringModel, asked: Asked, body: dict[str, Any]) -> AsyncGenerator[Event]:
    """What the engine streams, whoever renders the conversation."""
    if is_rendered_here(model, asked):
        return rendered_events(model, asked, body)
    refuse_unsafe(model, asked)
    return events_of(model.upstream, _PATH, body, is_last=lambda event: "usage" in event)


def _beginning(asked: Asked) -> str:
    """What the request gave of the answer, where it asks to have it back."""
    last = asked.messages[-1] if asked.echo and asked.messages else {}
    given = last.get("content") if last.get("role") == "assistant" else None
    if isinstance(given, list):
        return "".join(part.get("text", "") for part in given)
    return given or ""


def _count(event: Event, counts: Counts) -> int | None:
    """Take in what an event says of tokens; how many it is of, None where it does not say."""
    before, told, timings = counts.written, event.get("usage"), event.get("timings")
    if told is not None:
        counts.prompt, counts.written = told["prompt_tokens"], told["completion_tokens"]
    elif timings is not None:
        counts.prompt, counts.written = timings["cache_n"] + timings["prompt_n"], timings["predicted_n"]
    else:
        return None
    return counts.written - before


def _entries(model: AnsweringModel, asked: Asked, choice: dict[str, Any], new_tokens: int | None) -> list[TokenEntry]:
    found = (choice.get("logprobs") or {}).get("content")
    if asked.logprobs is None or not found:
        return []
    return entries_of(model, found, new_tokens, asked.logprobs)


def _known(delta: dict[str, Any]) -> dict[str, Any]:
    """What clients know of a delta; the role was sent."""
    return {
        key: delta[key] for key in ("content", "reasoning_content", "tool_calls") if delta.get(key)
    }  # fmt: skip


class _Whole:
    """One answer, put together from its pieces."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self.entries: list[TokenEntry] = []
        self._finish_reason: str | None = None

    def add(self, piece: _Piece) -> None:
        self._content.append(piece.delta.get("content", ""))
        self._reasoning.append(piece.delta.get("reasoning_content", ""))
        for part in piece.delta.get("tool_calls", ()):
            self._add_call(part)
        self.entries += piece.entries
        self._finish_reason = piece.finish_reason or self._finish_reason

    def _add_call(self, part: dict[str, Any]) -> None:
        """The beginning of a call, with its id and name, or more of its arguments."""
        empty = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        call = self._calls.setdefault(part["index"], empty)
        call["id"] = part.get("id") or call["id"]
        for key, text in part.get("function", {}).items():
            call["function"][key] = call["function"].get(key, "") + (text or "")

    def as_choice(self, index: int, with_logprobs: bool) -> dict[str, Any]:
        content = "".join(self._content)
        calls = [self._calls[number] for number in sorted(self._calls)]
        message: dict[str, Any] = {
            "role": "assistant", "content": content or (None if calls else ""), "refusal": None
        }  # fmt: skip
        if any(self._reasoning):
            message["reasoning_content"] = "".join(self._reasoning)
        if calls:
            message["tool_calls"] = calls
        logprobs = chat_shape(self.entries) if with_logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": self._finish_reason}
