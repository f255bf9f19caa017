"""Answers that llama.cpp writes in other dialects (Responses, Anthropic's messages, infill), handed on as they come."""

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from smidgen.serving.answers.events import Event, events_of, refusal_of
from smidgen.serving.answers.model import AnsweringModel
from smidgen.serving.requests.asked import Asked

_LAST_TYPES = frozenset({"response.completed", "response.failed", "response.incomplete", "message_stop"})
Count = Callable[[dict[str, int]], None]


async def passed(model: AnsweringModel, asked: Asked) -> dict[str, Any]:
    """The whole answer. Raises Refusal with the engine's words where it refuses."""
    async with model.upstream.exchange("POST", asked.path, asked.body | {"model": model.name}) as answer:
        raw = await answer.read()
        if answer.status != 200:
            raise refusal_of(answer.status, raw)
    return json.loads(raw)


async def passed_events(model: AnsweringModel, asked: Asked, count: Count) -> AsyncGenerator[Event]:
    """The events of a streamed answer. count: called once, with what the answer used.

    Raises Refusal where the engine refuses, EngineEnded where the stream breaks off.
    """
    usage: dict[str, int] = {}
    body = asked.body | {"model": model.name}
    try:
        async for event in events_of(model.upstream, asked.path, body, _is_last):
            usage |= _usage_in(event)
            yield event
    finally:
        count(usage)


def _is_last(event: Event) -> bool:
    return event.get("type") in _LAST_TYPES or event.get("stop") is True


def _usage_in(event: Event) -> dict[str, int]:
    """What an event says of tokens, wherever its dialect has it."""
    for holder in (event, event.get("response"), event.get("message")):
        if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
            return {key: value for key, value in holder["usage"].items() if isinstance(value, int)}
    if event.get("stop") is True:
        return {
            "prompt_tokens": event.get("tokens_evaluated", 0),
            "completion_tokens": event.get("tokens_predicted", 0),
        }
    return {}
