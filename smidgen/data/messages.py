"""Conversations as people keep them, checked, and as chat templates read them.

    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}, …]}
    {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}, …]}      (ShareGPT)
    {"prompt": [messages], "completion": [messages]}

A message may say that it is not to be learned (`"weight": 0`, `"train": false`), and an answer may call tools and
have reasoning beside its content. A line may list `tools`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smidgen.model.chat import fold_system

#: Names of the reasoning that stands beside an answer's content; templates mostly ask for the first.
REASONING = ("reasoning_content", "reasoning", "thinking")
_SHAREGPT = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "assistant": "assistant", "model": "assistant", "system": "system", "tool": "tool", "observation": "tool",
    "function_response": "tool",
}  # fmt: skip
_NOT_FOR_TEMPLATES = ("weight", "train")


class BadLine(ValueError):
    """What is wrong with a line, to be said after its name."""


@dataclass(frozen=True)
class Chat:
    """messages: as templates read them.  weights: how much each of them counts, 0 for one that is not to be learned.

    tools: that the model may call.  prompt: how many of the messages are a prompt, whose answers are only read.
    """

    messages: Sequence[dict[str, Any]]
    weights: Sequence[float]
    tools: Sequence[Any] | None = None
    prompt: int = 0

    @property
    def answers(self) -> list[int]:
        """Places of the assistant's messages that are no part of a prompt."""
        return [place for place in range(self.prompt, len(self.messages)) if self.is_answer(place)]

    def is_answer(self, place: int) -> bool:
        """Whether the assistant says it."""
        return self.messages[place]["role"] == "assistant"

    @property
    def has_system(self) -> bool:
        """Whether it begins with a system message."""
        return self.messages[0]["role"] == "system"

    def turns(self) -> list[int]:
        """The places of the messages that begin a turn: of each first message of the user in a row."""
        begins = [
            place
            for place, message in enumerate(self.messages)
            if message["role"] == "user" and (place == 0 or self.messages[place - 1]["role"] != "user")
        ]
        return begins or [0]

    def part(self, start: int, stop: int) -> "Chat":
        """The messages from one place to another, behind the system message."""
        kept = [0] if self.has_system and start > 0 else []
        places = [*kept, *range(start, stop)]
        return replace(
            self,
            messages=[self.messages[place] for place in places],
            weights=[self.weights[place] for place in places],
            prompt=sum(place < self.prompt for place in places),
        )

    def folded(self) -> "Chat":
        """With the system message in front of the user's first."""
        messages = [dict(message) for message in fold_system(self.messages)]
        gone = len(self.messages) - len(messages)
        return replace(self, messages=messages, weights=self.weights[gone:], prompt=max(0, self.prompt - gone))

    def with_arguments_as_text(self) -> "Chat":
        """With what calls hand over as JSON, for templates that do not write objects."""
        return replace(self, messages=[_with_arguments_as_text(message) for message in self.messages])


def _with_arguments_as_text(message: dict[str, Any]) -> dict[str, Any]:
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else message


def chat_of(value: Mapping[str, Any]) -> Chat | None:
    """The conversation that a line holds; None where it holds none. Raises BadLine where something is wrong with it."""
    if "messages" in value:
        return _chat(value, "messages")
    if "conversations" in value:
        return _chat(value, "conversations")
    prompt, completion = value.get("prompt"), value.get("completion")
    if not isinstance(prompt, list):
        return None
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    if not isinstance(completion, list):
        raise BadLine('has messages as "prompt" and none as "completion"')
    whole = _chat({**value, "messages": [*prompt, *completion]}, "messages")
    return replace(whole, prompt=len(whole.messages) - len(completion))


def _chat(value: Mapping[str, Any], key: str) -> Chat:
    found = value[key]
    if not isinstance(found, list) or not found:
        raise BadLine(f'has "{key}" that are not a list with at least one message')
    system = value.get("system")
    if isinstance(system, str) and system.strip():
        found = [{"role": "system", "content": system}, *found]
    messages = [_message(message, number) for number, message in enumerate(found, 1)]
    weights = [_weight(message, number) for number, message in enumerate(found, 1)]
    return Chat(messages, weights, _tools(value.get("tools")))


def _tools(found: Any) -> list[Any] | None:
    """Some keep them as a text that is JSON."""
    if isinstance(found, str):
        found = _json(found) if found.strip() else None
    if not found:
        return None
    if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
        raise BadLine('has "tools" that are not a list of descriptions')
    return found


def _json(text: str) -> Any:
    """What a text says in JSON; the text itself where that is nothing."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _message(message: Any, number: int) -> dict[str, Any]:
    if isinstance(message, dict) and "role" not in message and isinstance(message.get("from"), str):
        message = _of_sharegpt(message, number)
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise BadLine(f'has a message {number} without a "role"')
    made = {key: value for key, value in message.items() if key not in _NOT_FOR_TEMPLATES}
    if message.get("tool_calls"):
        made["tool_calls"] = _calls(message["tool_calls"], number)
    else:
        made.pop("tool_calls", None)
    if thought := reasoning_of(message):
        made[REASONING[0]] = thought
    made["content"] = _content(message, number)
    said = made["content"].strip() or thought or "tool_calls" in made
    if message["role"] == "assistant" and not said and _weight(message, number):
        raise BadLine(f"has an empty answer as message {number}")
    return made


def _of_sharegpt(message: Mapping[str, Any], number: int) -> dict[str, Any]:
    role = _SHAREGPT.get(message["from"].lower())
    if role is None:
        raise BadLine(f'has a message {number} from "{message["from"][:40]}"; known are {", ".join(_SHAREGPT)}')
    rest = {key: value for key, value in message.items() if key not in ("from", "value")}
    return {**rest, "role": role, "content": message.get("value")}


def reasoning_of(message: Mapping[str, Any]) -> str:
    """What an answer's writer thought, where that is kept beside the content."""
    found = (message.get(key) for key in REASONING)
    return next((text for text in found if isinstance(text, str) and text.strip()), "")


def _calls(found: Any, number: int) -> list[dict[str, Any]]:
    """Calls of tools, their arguments as objects: most templates write these as JSON themselves."""
    calls = []
    for call in found if isinstance(found, list) else [found]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadLine(f'has a message {number} whose "tool_calls" name no function')
        arguments = function.get("arguments", {})
        function = {**function, "arguments": _json(arguments) if isinstance(arguments, str) else arguments}
        calls.append({"type": "function", **call, "function": function})
    return calls


def _content(message: Mapping[str, Any], number: int) -> str:
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if content is None and (message.get("tool_calls") or reasoning_of(message)):
        content = ""
    if not isinstance(content, str):
        raise BadLine(f'has a message {number} whose "content" is not text')
    return content


def _weight(message: Mapping[str, Any], number: int) -> float:
    """How much a message counts, by what it says of itself."""
    train, weight = message.get("train"), message.get("weight")
    if train is not None and not isinstance(train, bool | int):
        raise BadLine(f'has a message {number} whose "train" is neither true nor false')
    if weight is None:
        weight = 1.0
    if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise BadLine(f'has a message {number} whose "weight" is not a number from 0 on')
    return 0.0 if train is not None and not train else float(weight)
