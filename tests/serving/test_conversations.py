"""Messages and tools in three dialects."""

from typing import Any

import pytest

from smidgen.errors import SmidgenError
from smidgen.serving.conversations import messages_of, tools_of


def test_three_dialects() -> None:
    asked = [{"role": "user", "content": "Hi"}]
    assert messages_of({"messages": asked}) == asked
    assert messages_of({"input": "Hi"}) == asked
    assert messages_of({"instructions": "Be brief.", "input": "Hi"})[0] == {"role": "system", "content": "Be brief."}
    parts = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "function_call", "name": "f"},
    ]
    assert messages_of({"input": parts}) == [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    function = {"name": "f", "parameters": {}}
    assert tools_of({"tools": [{"type": "function", "function": function}]}) == tools_of({"tools": [function]})
    assert tools_of({"tools": []}) is tools_of({}) is None


@pytest.mark.parametrize(
    "body",
    [
        {}, {"messages": []}, {"messages": 5}, {"messages": [5]}, {"messages": [{"content": "a"}]},
        {"messages": [{"role": None, "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}]},
    ],
)  # fmt: skip
def test_what_is_no_conversation(body: dict[str, Any]) -> None:
    with pytest.raises(SmidgenError):
        messages_of(body)


@pytest.mark.parametrize("tools", ["f", [None], [{}], [{"type": "function", "function": {"name": 5}}]])
def test_what_is_no_tool(tools: Any) -> None:
    with pytest.raises(SmidgenError):
        tools_of({"tools": tools})
