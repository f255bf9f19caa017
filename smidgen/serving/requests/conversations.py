"""Messages of chat completions: who speaks, what was said, which tools were called.

llama.cpp leaves out messages of roles that a template does not know, without a word. So a role that is not listed here
is refused.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from smidgen.serving.requests.fields import Body, Lenient, MessagesOf, PartsOf, TextOr, ToolsOf


class TextPart(Lenient):
    type: Literal["text"]
    text: str


class RefusalPart(Lenient):
    type: Literal["refusal"]
    refusal: str


def _json_object(text: str) -> str:
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError("must be the text of a JSON object")
    return text


class CalledFunction(Body):
    name: Annotated[str, Field(min_length=1, max_length=512)]
    arguments: Annotated[str, AfterValidator(_json_object)]
    """The text of a JSON object."""


class ToolCall(Lenient):
    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunction


SpokenPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class SystemMessage(Lenient):
    """developer is another word for system."""

    role: Literal["system", "developer"]
    content: TextOr[PartsOf[SpokenPart]]
    name: str | None = None


class UserMessage(Lenient):
    role: Literal["user"]
    content: TextOr[PartsOf[SpokenPart]]
    name: str | None = None


class AssistantMessage(Lenient):
    role: Literal["assistant"]
    content: TextOr[PartsOf[SpokenPart]] | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: ToolsOf[ToolCall] | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "AssistantMessage":
        if self.content is None and self.refusal is None and not self.tool_calls and self.reasoning_content is None:
            raise ValueError("needs content or tool_calls")
        return self


class ToolMessage(Lenient):
    role: Literal["tool"]
    content: TextOr[PartsOf[SpokenPart]]
    tool_call_id: str
    name: str | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]
Messages = MessagesOf[Message]
_KINDS: tuple[type[Lenient], ...] = (SystemMessage, UserMessage, AssistantMessage, ToolMessage)
_FIELDS = {
    role: frozenset(kind.model_fields)
    for kind in _KINDS
    for role in kind.model_fields["role"].annotation.__args__  # type: ignore[union-attr]
}


def for_llama_cpp(messages: list[dict[str, Any]], warnings: list[str]) -> list[dict[str, Any]]:
    """Checked messages with the fields that llama.cpp reads and no others; what is left out joins the warnings."""
    found, without_effect = [], set[str]()
    for message in messages:
        known = _FIELDS[message["role"]]
        without_effect.update(
            key for key, value in message.items() if key not in known and value not in (None, [], {}, "")
        )
        kept = {key: value for key, value in message.items() if key in known and value is not None}
        refusal = kept.pop("refusal", None)
        if refusal is not None:
            kept.setdefault("content", refusal)
        if isinstance(kept.get("content"), list):
            kept["content"] = [{"type": "text", "text": part[part["type"]]} for part in kept["content"]]
        if kept["role"] == "developer":
            kept["role"] = "system"
        if "tool_calls" in kept:
            kept["tool_calls"] = [_call(call) for call in kept["tool_calls"]]
            if not kept["tool_calls"]:
                del kept["tool_calls"]
        found.append(kept)
    warnings.extend(f"messages[].{shown(key)} has no effect here" for key in sorted(without_effect)[:8])
    return found


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"] | {"arguments": call["function"]["arguments"] or "{}"}
    made = {"type": "function", "function": function}
    return made if call.get("id") is None else {"id": call["id"], **made}


def shown(name: str) -> str:
    """The name of a field from outside, for a message or a header."""
    cut = name if len(name) <= 60 else f"{name[:57]}..."
    return cut.encode("ascii", "backslashreplace").decode() if cut.isprintable() else ascii(cut)[1:-1]
