"""Answers that are handed on as they come: those that llama.cpp writes in other dialects (Responses, Anthropic's
messages, infill), and all of an engine that has OpenAI's endpoints itself."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from smidgen.serving.answers.dialects import events_put_right, put_right, without_stops
from smidgen.serving.answers.events import Event, events_of, refusal_of
from smidgen.serving.answers.model import AnsweringModel
from smidgen.serving.answers.rendered import refuse_unsafe
from smidgen.serving.requests.asked import Asked

_LAST_TYPES = frozenset({"response.completed", "response.failed", "response.incomplete", "message_stop"})
_COUNTED_LAST = frozenset({"/v1/chat/completions", "/v1/completions"})


async def passed(model: AnsweringModel, asked: Asked) -> dict[str, Any]:
    """The whole answer. Raises Refusal with the engine's words where it refuses."""
    refuse_unsafe(model, asked)
    async with model.upstream.exchange("POST", asked.path, _body(model, asked)) as answer:
        raw = await answer.read()
        if answer.status != 200:
            raise refusal_of(answer.status, raw)
    found = json.loads(raw)
    return put_right(model, asked, found) if model.upstream.dialect == "llama.cpp" else found


async def passed_events(model: AnsweringModel, asked: Asked) -> AsyncGenerator[Event]:
    """The events of a streamed answer.

    Raises Refusal where the engine refuses, EngineEnded where the stream breaks off.
    """
    refuse_unsafe(model, asked)
    events = events_of(model.upstream, asked.path, _body(model, asked), _is_last)
    if model.upstream.dialect == "llama.cpp":
        events = events_put_right(model, asked, events)
    async with aclosing(events) as told:
        async for event in told:
            yield event


def _body(model: AnsweringModel, asked: Asked) -> dict[str, Any]:
    if model.upstream.dialect == "llama.cpp":
        return without_stops(asked) | {"model": model.name}
    counted = {"stream_options": {"include_usage": True}} if asked.stream and asked.path in _COUNTED_LAST else {}
    return asked.given | {"model": model.name} | counted


def _is_last(event: Event) -> bool:
    counted = bool(event.get("usage")) and event.get("choices") == []
    return counted or event.get("type") in _LAST_TYPES or event.get("stop") is True
