"""Conversations that a template would show in part only are refused."""

import asyncio
from typing import Any

import pytest

from smidgen.model.chat import shows_calls
from smidgen.serving.hosting import Hosted
from smidgen.serving.readable import check_chat
from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.reading import read_request
from tests.serving.requests.conftest import TEMPLATE

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "19 degrees"},
]
THOUGHT = [{"role": "user", "content": "a"}, {"role": "assistant", "reasoning_content": "b"}, *CALLED[:1]]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def hosted(smollm_path: Any) -> Hosted:
    return Hosted.check("smollm2-135m-instruct", ctx_size=512)


def test_a_template_shows_calls_or_does_not() -> None:
    assert shows_calls(TEMPLATE)
    assert not shows_calls("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}")
    assert not shows_calls("{% for m in messages if m.role != 'tool' %}{{ m | tojson }}{% endfor %}")
    assert shows_calls("{{ raise_exception('no tools') }}")  # refused there, not dropped


@pytest.mark.parametrize(
    ("body", "param"),
    [({"messages": CALLED}, "messages"), ({"messages": THOUGHT, "tools": TOOLS}, "tools"),
     ({"messages": CALLED, "tools": TOOLS}, "messages")],
)  # fmt: skip
def test_what_the_template_would_drop_is_refused(hosted: Hosted, body: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        asyncio.run(check_chat(hosted, read_request("/v1/chat/completions", body)))
    assert caught.value.param == param and "has no place for" in str(caught.value)


def test_what_it_shows_passes(hosted: Hosted) -> None:
    asyncio.run(check_chat(hosted, read_request("/v1/chat/completions", {"messages": THOUGHT})))
