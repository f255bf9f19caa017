"""Responses, as OpenAI has them. llama.cpp makes a chat completion of each."""

from typing import Annotated, Any, Literal

from pydantic import Field

from smidgen.serving.requests.chat import Effort, TemplateNames
from smidgen.serving.requests.conversations import CalledFunction
from smidgen.serving.requests.fields import (
    Body,
    Lenient,
    Limit,
    MessagesOf,
    Metadata,
    Name,
    PartsOf,
    TextOr,
    TextOrObject,
    ToolsOf,
    Unused,
)  # fmt: skip
from smidgen.serving.requests.sampling import Sampling
from smidgen.serving.requests.tools import NamedResponsesTool, ResponsesTool


class InputPart(Lenient):
    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusedPart(Lenient):
    type: Literal["refusal"]
    refusal: str


_Part = Annotated[InputPart | RefusedPart, Field(discriminator="type")]


class Item(Lenient):
    type: Literal["message"]
    role: Literal["system", "developer", "user", "assistant"]
    content: TextOr[PartsOf[_Part]]


class CallItem(CalledFunction, Lenient):
    model_config = Lenient.model_config
    type: Literal["function_call"]
    call_id: str


class ResultItem(Lenient):
    type: Literal["function_call_output"]
    call_id: str
    output: TextOr[PartsOf[_Part]]


class ReasoningPart(Lenient):
    type: str | None = None
    text: str


class ReasoningItem(Lenient):
    type: Literal["reasoning"]
    summary: list[dict[str, Any]] | None = None
    content: PartsOf[ReasoningPart] | None = None


Items = Annotated[Item | CallItem | ResultItem | ReasoningItem, Field(discriminator="type")]


class TextFormat(Lenient):
    type: Literal["text", "json_object", "json_schema"]
    schema_: Annotated[Any, Field(alias="schema")] = None


class TextOptions(Body):
    format: TextFormat | None = None
    verbosity: Unused[str] = None


class Reasoning(Body):
    effort: Effort | None = None
    summary: Unused[str] = None
    generate_summary: Unused[str] = None


class Response(Sampling):
    """The body of POST /v1/responses."""

    model: Name | None = None
    input: TextOr[MessagesOf[Items]]
    instructions: str | None = None
    max_output_tokens: Limit | None = None
    stream: bool | None = None
    text: TextOptions | None = None
    tools: ToolsOf[ResponsesTool] | None = None
    tool_choice: TextOrObject[Literal["none", "auto", "required"], NamedResponsesTool] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    chat_template_kwargs: TemplateNames | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None

    user: Unused[str] = None
    store: Unused[bool] = None
    metadata: Unused[Metadata] = None
    include: Unused[list[str]] = None
    service_tier: Unused[str] = None
    safety_identifier: Unused[str] = None
    prompt_cache_key: Unused[str] = None
    prompt_cache_retention: Unused[str] = None
    max_tool_calls: Unused[int] = None
    stream_options: Unused[dict[str, Any]] = None


def with_types(items: Any) -> Any:
    """Messages may leave out that they are messages."""
    if not isinstance(items, list):
        return items
    return [{"type": "message", **one} if isinstance(one, dict) and one.get("type") is None else one for one in items]


def messages_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation of a checked request in the shape of chat completions."""
    messages: list[dict[str, Any]] = []
    if body.get("instructions"):
        messages.append({"role": "system", "content": body["instructions"]})
    if isinstance(body["input"], str):
        return [*messages, {"role": "user", "content": body["input"]}]
    for item in body["input"]:
        if item["type"] == "message":
            role = "system" if item["role"] == "developer" else item["role"]
            messages.append({"role": role, "content": _texts(item["content"])})
        elif item["type"] == "function_call":
            call = {"id": item["call_id"], "type": "function"}
            call["function"] = {"name": item["name"], "arguments": item["arguments"] or "{}"}
            if not (messages and messages[-1]["role"] == "assistant"):
                messages.append({"role": "assistant"})
            messages[-1].setdefault("tool_calls", []).append(call)
        elif item["type"] == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": _texts(item["output"])})
    return messages


def for_llama_cpp(items: Any) -> Any:
    """Checked items as llama.cpp reads them: it ends a request for an item or a part that it does not know."""
    if isinstance(items, str):
        return items
    found = []
    for item in items:
        if item["type"] == "message":
            role = "system" if item["role"] == "developer" else item["role"]
            kind = "output_text" if role == "assistant" else "input_text"
            parts = [{"type": kind, "text": part["text"]} for part in _texts(item["content"], always=True)]
            found.append({"type": "message", "role": role, "content": parts})
        elif item["type"] == "function_call":
            named = {key: item[key] for key in ("type", "call_id", "name")}
            found.append({**named, "arguments": item["arguments"] or "{}"})
        elif item["type"] == "function_call_output":
            output = _texts(item["output"])
            if isinstance(output, list):
                output = [{"type": "input_text", "text": part["text"]} for part in output]
            found.append({"type": item["type"], "call_id": item["call_id"], "output": output})
        elif item.get("content"):
            found.append({"type": "reasoning", "summary": [], "content": item["content"]})
    return found


def join_last(items: list[dict[str, Any]]) -> None:
    """Make one text of a begun answer: llama.cpp would put line breaks between its parts."""
    parts = items[-1].get("content") or []
    if items[-1]["type"] == "message" and len(parts) > 1:
        items[-1]["content"] = [{**parts[0], "text": "".join(part["text"] for part in parts)}]


def _texts(content: Any, always: bool = False) -> Any:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if always else content
    return [{"type": "text", "text": part.get("text", part.get("refusal"))} for part in content]
