"""Messages, as Anthropic has them. llama.cpp makes a chat completion of each, of the fields that are listed here."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from smidgen.serving.requests.bounds import LONGEST_STOP, MOST_ENTRIES
from smidgen.serving.requests.chat import TemplateNames
from smidgen.serving.requests.fields import (
    Body,
    Count,
    Lenient,
    Metadata,
    Name,
    Tokens,
    listed,
    text_or,
    without_effect,
)  # fmt: skip
from smidgen.serving.requests.sampling import Temperature
from smidgen.serving.requests.tools import AnthropicChoice, AnthropicTool

_CONTENT = "must be a text or a list of blocks"
_Control = without_effect(dict[str, Any])


class TextBlock(Lenient):
    type: Literal["text"]
    text: str


class ThinkingBlock(Lenient):
    type: Literal["thinking"]
    thinking: str


class ToolUseBlock(Lenient):
    type: Literal["tool_use"]
    id: str
    name: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    input: dict[str, Any]


class ToolResultBlock(Lenient):
    type: Literal["tool_result"]
    tool_use_id: str
    content: text_or(listed(TextBlock, MOST_ENTRIES["parts"], 0), _CONTENT) | None = None
    is_error: bool | None = None


_Said = listed(
    Annotated[TextBlock | ThinkingBlock | ToolUseBlock, Field(discriminator="type")], MOST_ENTRIES["parts"]
)
_Asked = listed(Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")], MOST_ENTRIES["parts"])


class UserTurn(Lenient):
    role: Literal["user"]
    content: text_or(_Asked, _CONTENT)


class AssistantTurn(Lenient):
    role: Literal["assistant"]
    content: text_or(_Said, _CONTENT)


class Thinking(Body):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Count | None = None
    display: without_effect(str) = None


class CountedMessages(Body):
    """The body of POST /v1/messages/count_tokens."""

    model: Name | None = None
    messages: listed(Annotated[UserTurn | AssistantTurn, Field(discriminator="role")], MOST_ENTRIES["messages"])
    system: text_or(listed(TextBlock, MOST_ENTRIES["parts"], 0), _CONTENT) | None = None
    tools: listed(AnthropicTool, MOST_ENTRIES["tools"], 0) | None = None
    tool_choice: AnthropicChoice | None = None
    thinking: Thinking | None = None
    chat_template_kwargs: TemplateNames | None = None
    cache_control: _Control = None
    betas: without_effect(list[str]) = None


class AnthropicMessages(CountedMessages, Temperature):
    """The body of POST /v1/messages."""

    max_tokens: Tokens | None = None
    stream: bool | None = None
    stop_sequences: (
        listed(Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_STOP)], MOST_ENTRIES["stop"], 0) | None
    ) = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    metadata: without_effect(Metadata) = None
    service_tier: without_effect(str) = None
    inference_geo: without_effect(str) = None


def messages_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation of a checked request in the shape of chat completions."""
    messages: list[dict[str, Any]] = []
    if body.get("system"):
        messages.append({"role": "system", "content": _text(body["system"])})
    for turn in body["messages"]:
        if isinstance(turn["content"], str):
            messages.append({"role": turn["role"], "content": turn["content"]})
        else:
            messages += _turns(turn["role"], turn["content"])
    return messages


def _turns(role: str, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A turn of the assistant with its calls, or the results of calls and what the user says with them."""
    message: dict[str, Any] = {"role": role}
    texts = [{"type": "text", "text": block["text"]} for block in blocks if block["type"] == "text"]
    thoughts = "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    calls = [_call(block) for block in blocks if block["type"] == "tool_use"]
    if texts or calls or thoughts:
        message["content"] = texts or ""
    if calls:
        message["tool_calls"] = calls
    if thoughts:
        message["reasoning_content"] = thoughts
    results = [
        {"role": "tool", "tool_call_id": block["tool_use_id"], "content": _text(block.get("content") or "")}
        for block in blocks
        if block["type"] == "tool_result"
    ]
    return ([message] if "content" in message else []) + results


def _call(block: dict[str, Any]) -> dict[str, Any]:
    function = {"name": block["name"], "arguments": json.dumps(block["input"])}
    return {"id": block["id"], "type": "function", "function": function}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(block["text"] for block in content)
