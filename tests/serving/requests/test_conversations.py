"""Messages in three dialects: what is said reaches llama.cpp, and what it would drop or break at is refused."""
# ruff: noqa: E501 - one case, one line

from typing import Any

import pytest

from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.reading import read_request

CHAT = "/v1/chat/completions"
HI = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": null}'}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "42"}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (5, ""), ({"content": "a"}, ".role"), ({"role": None, "content": "a"}, ".role"), ({"role": 7, "content": "a"}, ".role"),
        ({"role": "function", "name": "f", "content": "a"}, ".role"), ({"role": "king", "content": "a"}, ".role"),
        ({"role": "user"}, ".content"), ({"role": "user", "content": None}, ".content"),
        ({"role": "user", "content": 5}, ".content"), ({"role": "user", "content": ["a"]}, ".content[0]"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, ".content[0].type"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, ".content[0].type"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, ".content[0].text"),
        ({"role": "user", "content": [{"type": "text"}]}, ".content[0].text"),
        ({"role": "tool", "content": "x"}, ".tool_call_id"), ({"role": "tool", "content": "x", "tool_call_id": None},
         ".tool_call_id"), ({"role": "assistant"}, ""), ({"role": "assistant", "content": None, "tool_calls": []}, ""),
        ({"role": "assistant", "tool_calls": "x"}, ".tool_calls"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}, ".tool_calls[0].function.arguments"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
         ".tool_calls[0].function.arguments"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
         ".tool_calls[0].function.arguments"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
         ".tool_calls[0].function.arguments"),
        ({"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}, ".tool_calls[0].function.name"),
    ],
)  # fmt: skip
def test_a_message_that_is_wrong_is_named(message: Any, field: str) -> None:
    with pytest.raises(Refusal) as found:
        read_request(CHAT, {"messages": [HI, message]})
    assert found.value.param == f"messages[1]{field}"


@pytest.mark.parametrize("messages", [None, [], "hi", {"role": "user"}, [HI] * 10_001])
def test_what_is_no_conversation(messages: Any) -> None:
    with pytest.raises(Refusal) as found:
        read_request(CHAT, {"messages": messages})
    assert found.value.param == "messages"


def test_a_role_that_is_refused_is_named() -> None:
    with pytest.raises(Refusal, match="'function'"):
        read_request(CHAT, {"messages": [{"role": "function", "name": "f", "content": "a"}]})
    with pytest.raises(Refusal, match="reads text only"):
        read_request(CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})


def test_an_agents_conversation_comes_through_whole() -> None:
    told = {
        "role": "assistant",
        "content": None,
        "tool_calls": [CALL],
        "refusal": None,
        "audio": None,
        "annotations": [1],
    }
    messages = [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, HI, told, RESULT]
    asked = read_request(CHAT, {"messages": messages})
    assert asked.messages == asked.body["messages"] == [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, HI,
        {"role": "assistant", "tool_calls": [CALL]}, RESULT,
    ]  # fmt: skip
    assert asked.warnings == ("messages[].annotations has no effect here",)
    refused = [HI, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, HI]
    assert read_request(CHAT, {"messages": refused}).body["messages"][1]["content"] == [{"type": "text", "text": "No."}]
    empty = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ""}}]}
    [_, called, _] = read_request(CHAT, {"messages": [HI, empty, RESULT]}).body["messages"]
    assert called["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize(
    "messages",
    [[HI, {"role": "assistant", "tool_calls": [CALL]}], [HI, *[{"role": "assistant", "content": "a"}] * 2]],
)
def test_what_no_answer_can_go_on_from(messages: list[Any]) -> None:
    with pytest.raises(Refusal) as found:
        read_request(CHAT, {"messages": messages})
    assert found.value.param == "messages"


def test_a_begun_answer_says_whether_it_is_echoed() -> None:
    begun = [HI, {"role": "assistant", "content": "It is"}]
    assert read_request(CHAT, {"messages": begun}).body["echo"] is False
    assert read_request(CHAT, {"messages": begun, "echo": True}).body["echo"] is True
    assert "echo" not in read_request(CHAT, {"messages": [HI]}).body


def test_responses_are_conversations() -> None:
    items = [
        {"role": "developer", "content": "D"}, {"role": "user", "content": [{"type": "input_text", "text": "U"}]},
        {"type": "reasoning", "id": "r", "summary": []},
        {"type": "function_call", "id": "x", "call_id": "c1", "name": "f", "arguments": '{"a": null}', "status": "completed"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "42"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "id": "m"}, HI,
    ]  # fmt: skip
    asked = read_request("/v1/responses", {"input": items, "instructions": "I"})
    assert [message["role"] for message in asked.messages or []] == [
        "system", "system", "user", "assistant", "tool", "assistant", "user",
    ]  # fmt: skip
    assert (asked.messages or [])[3]["tool_calls"] == [CALL]
    assert [item["type"] for item in asked.body["input"]] == [
        "message", "message", "function_call", "function_call_output", "message", "message",
    ]  # fmt: skip
    assert read_request("/v1/responses", {"input": "hi"}).messages == [HI]


def test_anthropics_turns_are_conversations() -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "U", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "T", "signature": "s"}, {"type": "text", "text": "A"},
            {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": None}},
        ]},
        {"role": "user", "content": [
            {"type": "text", "text": "V"},
            {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "42"}]},
        ]},
    ]  # fmt: skip
    asked = read_request(
        "/v1/messages", {"messages": turns, "system": [{"type": "text", "text": "S"}], "max_tokens": 5}
    )
    assert [message["role"] for message in asked.messages or []] == ["system", "user", "assistant", "tool", "user"]
    called = (asked.messages or [])[2]
    assert called["tool_calls"] == [CALL] and called["reasoning_content"] == "T"
    sent = asked.body["messages"]
    assert [[block["type"] for block in turn["content"]] for turn in sent] == [
        ["text"], ["thinking", "text", "tool_use"], ["tool_result"], ["text"],
    ]  # fmt: skip
    assert read_request("/v1/messages/count_tokens", {"messages": [HI]}).messages == [HI]
    bad = {"role": "user", "content": [{"type": "image", "source": {}}]}
    with pytest.raises(Refusal, match="reads text only"):
        read_request("/v1/messages", {"messages": [bad]})
