"""The messages and tools of a request, whichever of the three dialects it speaks.

OpenAI's chat completions have `messages`, its responses `input` and `instructions`, Anthropic's messages `system`
beside `messages`. Here they are read only to be looked at; llama.cpp reads the request itself.
"""

from collections.abc import Mapping
from typing import Any

from smidgen.errors import SmidgenError

_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_OTHER_MEDIA = (
    "image_url", "input_image", "image", "input_audio", "audio", "input_file", "file", "document", "video_url",
)  # fmt: skip


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation. Raises SmidgenError for what is no message, and for pictures and sound."""
    given = body.get("messages", body.get("input"))
    found = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(found, list) or not found:
        raise SmidgenError("a conversation needs at least one message.")
    first = body.get("system", body.get("instructions"))
    messages = [] if not first else [{"role": "system", "content": first}]
    for place, message in enumerate(found):
        if not isinstance(message, dict):
            raise SmidgenError(f"message {place + 1} is not an object.")
        if "type" in message and message["type"] != "message":
            continue  # calls and their results, among the items of a response
        if not isinstance(message.get("role"), str):
            raise SmidgenError(f"message {place + 1} has no role; give it a role such as user or assistant.")
        messages.append({**message, "content": _content(message.get("content"), place)})
    return messages


def _content(content: Any, place: int) -> Any:
    """As templates read it. Raises SmidgenError for parts that are not text."""
    if not isinstance(content, list):
        return content
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _OTHER_MEDIA:
            raise SmidgenError(f"message {place + 1} has a part of type {kind}; this model reads text only.")
        if isinstance(part, dict) and kind in _TEXT_PARTS:
            part = {"type": "text", "text": part.get(str(kind), part.get("text"))}
        parts.append(part)
    return parts


def tools_of(body: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The tools as templates read them; None where there are none. Raises SmidgenError for what is no tool."""
    given = body.get("tools")
    if given is None or given == []:
        return None
    if not isinstance(given, list):
        raise SmidgenError("tools must be a list.")
    found = []
    for place, tool in enumerate(given):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise SmidgenError(f"tool {place + 1} is not a function with a name.")
        found.append({"type": "function", "function": function})
    return found
