"""Messages, as Anthropic has them. llama.cpp makes a chat completion of each, of the fields that are listed here."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from smidgen.serving.requests.chat import TemplateNames
from smidgen.serving.requests.fields import (
    Body,
    Count,
    Lenient,
    Limit,
    MessagesOf,
    Metadata,
    Name,
    PartsOf,
    StopTexts,
    TextOr,
    ToolsOf,
    TopK,
    Unused,
)  # fmt: skip
from smidgen.serving.requests.sampling import Temperature
from smidgen.serving.requests.tools import AnthropicChoice, AnthropicTool


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
    content: TextOr[PartsOf[TextBlock]] | None = None
    is_error: bool | None = None


_Said = Annotated[TextBlock | ThinkingBlock | ToolUseBlock, Field(discriminator="type")]
_Asked = Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]


class UserTurn(Lenient):
    role: Literal["user"]
    content: TextOr[PartsOf[_Asked]]


class AssistantTurn(Lenient):
    role: Literal["assistant"]
    content: TextOr[PartsOf[_Said]]


class Thinking(Body):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Count | None = None
    display: Unused[str] = None


class CountedMessages(Body):
    """The body of POST /v1/messages/count_tokens."""

    model: Name | None = None
    messages: MessagesOf[Annotated[UserTurn | AssistantTurn, Field(discriminator="role")]]
    system: TextOr[PartsOf[TextBlock]] | None = None
    tools: ToolsOf[AnthropicTool] | None = None
    tool_choice: AnthropicChoice | None = None
    thinking: Thinking | None = None
    chat_template_kwargs: TemplateNames | None = None
    cache_control: Unused[dict[str, Any]] = None
    betas: Unused[list[str]] = None


class AnthropicMessages(CountedMessages, Temperature):
    """The body of POST /v1/messages."""

    max_tokens: Limit | None = None
    stream: bool | None = None
    stop_sequences: StopTexts | None = None
    top_k: TopK | None = None
    metadata: Unused[Metadata] = None
    service_tier: Unused[str] = None
    inference_geo: Unused[str] = None


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
    return results + ([message] if "content" in message else [])


def _call(block: dict[str, Any]) -> dict[str, Any]:
    function = {"name": block["name"], "arguments": json.dumps(block["input"])}
    return {"id": block["id"], "type": "function", "function": function}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


def for_llama_cpp(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Checked turns with the fields that llama.cpp reads. It would put what a user says before the results of calls."""
    found = []
    for turn in turns:
        if isinstance(turn["content"], str):
            found.append({"role": turn["role"], "content": turn["content"]})
            continue
        blocks = [_block(block) for block in turn["content"]]
        results = [block for block in blocks if block["type"] == "tool_result"]
        others = [block for block in blocks if block["type"] != "tool_result"]
        found += [{"role": turn["role"], "content": part} for part in (results, others) if part]
    return found


def join_last(turns: list[dict[str, Any]]) -> None:
    """Make one text of a begun answer: llama.cpp would put line breaks between its parts."""
    blocks = turns[-1]["content"]
    if isinstance(blocks, list) and len(texts := [block["text"] for block in blocks if block["type"] == "text"]) > 1:
        others = [block for block in blocks if block["type"] != "text"]
        turns[-1]["content"] = [*others, {"type": "text", "text": "".join(texts)}]


def _block(block: dict[str, Any]) -> dict[str, Any]:
    match block["type"]:
        case "tool_use":
            return {key: block[key] for key in ("type", "id", "name", "input")}
        case "tool_result":
            content = _text(block.get("content") or "")
            return {"type": "tool_result", "tool_use_id": block["tool_use_id"], "content": content}
        case "thinking":
            return {"type": "thinking", "thinking": block["thinking"]}
        case _:
            return {"type": "text", "text": block["text"]}
