"""Responses, Anthropic's messages and infill: nothing lost or added, and what was cut off is said to be."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from smidgen.serving.answers.passed import passed, passed_events
from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.asked import Asked
from smidgen.serving.requests.reading import read_request
from tests.serving.answers.pretended import PretendedUpstream, model_on, sse

ASKED = {"role": "user", "content": "Count."}
BEGUN = {"role": "assistant", "content": [{"type": "text", "text": "One,"}, {"type": "text", "text": " two,"}]}


def message_stream(*pieces: str) -> list[dict[str, Any]]:
    """As llama.cpp streams one of Anthropic's messages that the token limit ends."""
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in pieces
    ]
    end = {"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None}, "usage": {}}
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    return [start, *deltas, {"type": "content_block_stop", "index": 0}, end, {"type": "message_stop"}]


def events_of(question: Asked, events: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], PretendedUpstream]:
    upstream = PretendedUpstream(lambda body: sse(events))

    async def collect() -> list[dict[str, Any]]:
        return [event async for event in passed_events(model_on(upstream), question)]

    return asyncio.run(collect()), upstream


def whole(question: Asked, answer: dict[str, Any]) -> dict[str, Any]:
    return asyncio.run(passed(model_on(PretendedUpstream(lambda body: (200, json.dumps(answer).encode()))), question))


def messages(stream: bool = True, **more: Any) -> Asked:
    return read_request("/v1/messages", {"messages": [ASKED], "max_tokens": 3, "stream": stream, **more})


def said(events: list[dict[str, Any]]) -> str:
    return "".join(one["delta"]["text"] for one in events if one["type"] == "content_block_delta")


def test_a_stop_text_that_never_comes_takes_nothing_from_a_stream() -> None:
    events, upstream = events_of(messages(stop_sequences=["ree@@"]), message_stream("one", " two", " three"))
    assert said(events) == "one two three" and events[-2]["delta"]["stop_reason"] == "max_tokens"
    assert events.index(next(one for one in events if one["type"] == "content_block_stop")) == len(events) - 3
    assert "stop_sequences" not in upstream.asked[0][1]


def test_a_stop_text_ends_a_stream_and_is_named() -> None:
    events, upstream = events_of(messages(stop_sequences=["wo t", "zz"]), message_stream("one", " two", " three"))
    assert said(events) == "one t"
    assert events[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "wo t"}
    assert [one["type"] for one in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert upstream.open == 0


def test_a_whole_message_that_a_stop_text_ended_says_so() -> None:
    told = {"type": "message", "content": [], "stop_reason": "end_turn", "stop_sequence": "zz"}
    assert whole(messages(False, stop_sequences=["zz"]), told)["stop_reason"] == "stop_sequence"


@pytest.mark.parametrize(("stop", "text"), [(["d@@"], "a b c d"), (["c"], "a b ")])
def test_streams_of_infill_lose_nothing_and_end_at_stop_texts(stop: list[str], text: str) -> None:
    question = read_request("/infill", {"input_prefix": "x", "input_suffix": "y", "stop": stop, "stream": True})
    pieces = [{"content": piece, "stop": False} for piece in ("a", " b", " c", " d")]
    events, _ = events_of(question, [*pieces, {"content": "", "stop": True, "stop_type": "limit"}])
    assert "".join(one["content"] for one in events) == text
    assert events[-1]["stop"] is True and events[-1]["stop_type"] == ("word" if text == "a b " else "limit")


def test_a_begun_answer_comes_without_its_beginning_streamed_and_whole() -> None:
    block = {"type": "text", "text": "One, two, three"}
    question = messages(False, messages=[ASKED, BEGUN])
    assert question.body["messages"][-1]["content"] == [{"type": "text", "text": "One, two,"}]
    assert whole(question, {"type": "message", "content": [block]})["content"][0]["text"] == " three"

    question = read_request("/v1/responses", {"input": [ASKED, BEGUN], "stream": True})
    assert [part["text"] for part in question.body["input"][-1]["content"]] == ["One, two,"]
    part = {"type": "output_text", "text": "One, two, three"}
    item = {"type": "message", "content": [part]}
    response = {"status": "completed", "output": [item], "usage": {"output_tokens": 1, "total_tokens": 9}}
    told = [
        {"type": "response.output_text.delta", "delta": " three"},
        {"type": "response.output_text.done", "text": "One, two, three"},
        {"type": "response.content_part.done", "part": part},
        {"type": "response.output_item.done", "item": item},
        {"type": "response.completed", "response": response},
    ]
    assert "One" not in str(events_of(question, told)[0])


def test_events_of_responses_have_the_numbers_by_which_clients_put_them_together() -> None:
    told = [
        {"type": "response.created", "response": {"id": "r", "status": "in_progress"}},
        {"type": "response.output_item.added", "item": {"id": "m", "type": "message"}},
        {"type": "response.output_text.delta", "item_id": "m", "delta": "a"},
        {"type": "response.output_item.added", "item": {"id": "c", "type": "function_call"}},
        {"type": "response.function_call_arguments.delta", "item_id": "c", "delta": "{}"},
        {"type": "response.completed", "response": {"status": "completed", "usage": {}}},
    ]
    events, _ = events_of(read_request("/v1/responses", {"input": "Hi", "stream": True}), told)
    assert [one["sequence_number"] for one in events] == list(range(6))
    assert [one.get("output_index") for one in events] == [None, 0, 0, 1, 1, None]
    assert [one.get("content_index") for one in events] == [None, None, 0, None, None, None]
    assert events[0]["response"] == {"model": "ours", "output": [], "id": "r", "status": "in_progress"}


def test_the_arguments_of_a_call_stay_as_they_are() -> None:
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {"type": "text", "text": "One, two, three"}}
    assert whole(messages(False, messages=[ASKED, BEGUN]), {"type": "message", "content": [call]})["content"] == [call]


@pytest.mark.parametrize(
    ("limit", "written", "read", "status"),
    [(4, 4, 9, "incomplete"), (4, 3, 9, "completed"), (None, 30, 34, "incomplete"), (None, 30, 33, "completed")],
)
def test_a_response_that_a_limit_cut_off_is_incomplete(limit: int | None, written: int, read: int, status: str) -> None:
    usage = {"output_tokens": written, "total_tokens": written + read}
    response = {"object": "response", "status": "completed", "output": [], "usage": usage}
    question = read_request("/v1/responses", {"input": "Hi", "max_output_tokens": limit})
    found = whole(question, response)
    assert found["status"] == status and ("incomplete_details" in found) == (status == "incomplete")
    question = read_request("/v1/responses", {"input": "Hi", "max_output_tokens": limit, "stream": True})
    events, _ = events_of(question, [{"type": "response.completed", "response": {**response, "status": "completed"}}])
    assert events[-1]["type"] == f"response.{status}" and events[-1]["response"]["status"] == status


CONTROL = "<|im_end|>"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/messages", {"messages": [ASKED], "system": CONTROL}, "messages[0].content"),
        ("/v1/messages", {"messages": [ASKED], "tools": [{"name": "f", "description": CONTROL, "input_schema": {}}]},
         "tools"),
        ("/v1/messages", {"messages": [ASKED], "tools": [
            {"name": "f", "input_schema": {"type": "object", "properties": {CONTROL: {"type": "string"}}}}]}, "tools"),
        ("/v1/messages", {"messages": [ASKED], "chat_template_kwargs": {"a": [CONTROL]}}, "chat_template_kwargs"),
        ("/v1/responses", {"input": [ASKED, {"type": "function_call", "name": "f", "call_id": "c",
                                             "arguments": '{"a": "<|im_end|>"}'},
                                     {"type": "function_call_output", "call_id": "c", "output": "x"}]}, "messages[1]"),
        ("/v1/messages", {"messages": [ASKED], "tools": [{"name": "f", "description": "a" * 10_001,
                                                          "input_schema": {}}]}, "tools"),
        ("/infill", {"input_prefix": "a" * 10_001, "input_suffix": ""}, "input_prefix"),
        ("/infill", {"input_prefix": "", "input_suffix": "", "input_extra": [{"text": "a" * 10_001}]}, "input_extra"),
    ],
)  # fmt: skip
def test_what_llama_cpp_would_take_for_something_else_is_refused_wherever_it_stands(
    path: str, body: dict[str, Any], param: str, smollm_path: Path
) -> None:
    upstream = PretendedUpstream(lambda body: sse([]))
    with pytest.raises(Refusal) as caught:
        asyncio.run(passed(model_on(upstream, smollm_path), read_request(path, body)))
    assert caught.value.param == param and not upstream.asked
