"""What llama.cpp does not tell truly in dialects other than OpenAI's completions, put right as it is handed on.

A begun answer (the assistant's message last) comes back with its beginning in some places and without it in others:
here it is always without. A stream holds back what may begin a stop text, and loses it where the answer ends for
another reason: here streams are searched for stop texts. The events of Responses lack the numbers by which clients put
them together: here they have them. An answer that the token limit cuts off passes for complete in Responses: here it
is incomplete, as OpenAI has it.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

from smidgen.serving.answers.events import Event
from smidgen.serving.answers.model import AnsweringModel
from smidgen.serving.answers.rendered import texts_of
from smidgen.serving.answers.stopping import Passing
from smidgen.serving.requests.asked import Asked

_STOPS = {"/infill": "stop", "/v1/messages": "stop_sequences"}  # what each dialect calls them
_TEXTS = frozenset({"text", "output_text", "response.output_text.done"})  # types of what has a whole text
_HOLDERS = ("response", "output", "item", "content", "part")  # where such stand


def without_stops(asked: Asked) -> dict[str, Any]:
    """The body for llama.cpp, which looks for stop texts in whole answers only."""
    left_out = _STOPS.get(asked.path) if asked.stream else None
    return {key: value for key, value in asked.body.items() if key != left_out}


def put_right(model: AnsweringModel, asked: Asked, answer: dict[str, Any]) -> dict[str, Any]:
    """A whole answer, or an event of one."""
    _cut(answer, _beginning(asked))
    if answer.get("type") == "message" and answer.get("stop_sequence") is not None:
        answer["stop_reason"] = "stop_sequence"
    if asked.path == "/v1/responses":
        response = answer.get("response", answer)
        if response.get("status") == "completed" and _is_cut_off(model, asked, response.get("usage") or {}):
            response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
            if answer.get("type") == "response.completed":
                answer["type"] = "response.incomplete"
    return answer


async def events_put_right(model: AnsweringModel, asked: Asked, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """The events of a stream that was asked for with `without_stops`, up to a stop text."""
    told: AsyncIterator[Event] = events
    if asked.path == "/v1/responses":
        told = _numbered(model, events)
    elif asked.stop:
        told = (_stopped_infill if asked.path == "/infill" else _stopped_message)(asked.stop, events)
    async with aclosing(events):
        async for event in told:
            yield put_right(model, asked, event)


def _beginning(asked: Asked) -> str:
    """What the request gave of the answer."""
    last = asked.messages[-1] if asked.messages else {}
    return "".join(texts_of(last)) if last.get("role") == "assistant" else ""


def _cut(value: Any, beginning: str) -> None:
    """Take the beginning off the texts in an answer or an event."""
    if isinstance(value, list):
        for one in value:
            _cut(one, beginning)
    elif isinstance(value, dict) and beginning:
        if value.get("type") in _TEXTS and isinstance(value.get("text"), str):
            value["text"] = value["text"].removeprefix(beginning)
        for name in _HOLDERS:
            _cut(value.get(name), beginning)


def _is_cut_off(model: AnsweringModel, asked: Asked, usage: dict[str, Any]) -> bool:
    """llama.cpp does not tell: an answer that ends by itself with its last token passes for cut off, too."""
    limit = asked.max_tokens or model.upstream.context
    return usage.get("output_tokens", 0) >= limit or usage.get("total_tokens", 0) >= model.upstream.context


async def _numbered(model: AnsweringModel, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """Events of Responses with the numbers by which clients put them together, which llama.cpp leaves out."""
    places: dict[str, int] = {}
    number = 0
    async for event in events:
        numbered = {**event, "sequence_number": number}
        number += 1
        item = event.get("item") or {}
        name = event.get("item_id") or item.get("id") or item.get("call_id")
        if name is not None:
            numbered["output_index"] = places.setdefault(name, len(places))
            if not item and "function_call" not in event["type"]:
                numbered["content_index"] = 0  # an item has one part
        elif event.get("response", {}).get("status") == "in_progress":
            numbered["response"] = {"model": model.name, "output": [], **event["response"]}
        yield numbered


async def _stopped_infill(stops: tuple[str, ...], events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    passing, said = Passing[None](stops), ""
    async for event in events:
        said += event["content"]
        text, _ = passing.pass_on(event["content"])
        if passing.found:
            stop = _first_of(stops, said)
            yield {**event, "content": text, "stop": True, "stop_type": "word", "stopping_word": stop}
            return
        yield {**event, "content": text + (passing.rest()[0] if event["stop"] else "")}


async def _stopped_message(stops: tuple[str, ...], events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """llama.cpp does not tell in between how many tokens it has written: nearly all deltas are of one."""
    passing, said, deltas, last = Passing[None](stops), "", 0, -1
    async for event in events:
        kind = event["type"]
        deltas += kind == "content_block_delta"
        if kind == "content_block_delta" and event["delta"]["type"] == "text_delta":
            said, last = said + event["delta"]["text"], event["index"]
            text, _ = passing.pass_on(event["delta"]["text"])
            if text:
                yield _text_delta(last, text)
            if passing.found:
                for end in _ends_of_message(last, _first_of(stops, said), deltas):
                    yield end
                return
            continue
        if kind == "content_block_stop" and event["index"] == last and (held := passing.rest()[0]):
            yield _text_delta(last, held)
        yield event


def _text_delta(index: int, text: str) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}


def _ends_of_message(index: int, stop: str, tokens: int) -> Iterator[Event]:
    yield {"type": "content_block_stop", "index": index}
    reason = {"stop_reason": "stop_sequence", "stop_sequence": stop}
    yield {"type": "message_delta", "delta": reason, "usage": {"output_tokens": tokens}}
    yield {"type": "message_stop"}


def _first_of(stops: tuple[str, ...], text: str) -> str:
    """The stop text that comes first in a text that has one."""
    return min((text.find(stop), stop) for stop in stops if stop in text)[1]
