"""A call that must come comes at once.

Where a call is required, llama.cpp's grammar still lets the model write before it, without end: the answer may stop at
its limit without a call. So the answer is begun with the words that open a call in the model's template; behind them
the grammar has nothing else. `opening_of_calls` finds these words, `begun_with` puts them in.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from smidgen.serving.requests.asked import Asked

_WORD = 1  # of llama.cpp's kinds of trigger: a text
PROBE: dict[str, Any] = {
    "messages": [{"role": "user", "content": "?"}], "max_tokens": 1, "verbose": True,
    "tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "object", "properties": {}}}}],
}  # fmt: skip


def opening_of_calls(answer: Mapping[str, Any]) -> str | None:
    """The words that open a call, from its answer to `PROBE` at /v1/chat/completions; None where it has none."""
    triggers = answer.get("__verbose", {}).get("generation_settings", {}).get("grammar_triggers", [])
    words = [one["value"] for one in triggers if one.get("type") == _WORD and one.get("value")]
    return words[0] if len(words) == 1 else None


def begun_with(asked: Asked, opening: str) -> Asked:
    """The request with an answer that is begun by a call, where one is required; the same request elsewhere."""
    begun = bool(asked.messages) and asked.messages[-1]["role"] == "assistant"
    if asked.tool_choice != "required" or not asked.tools or begun:
        return asked
    body = dict(asked.body)
    if asked.path == "/v1/responses":
        items = body["input"]
        if isinstance(items, str):
            items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": items}]}]
        said = [{"type": "output_text", "text": opening}]
        body["input"] = [*items, {"type": "message", "role": "assistant", "content": said}]
    else:
        body["messages"] = [*body["messages"], {"role": "assistant", "content": opening}]
    return replace(asked, body=body)
