"""Tools in three dialects, and which of them must be called."""
# ruff: noqa: E501 - one case, one line

from typing import Any

import pytest

from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.asked import Asked
from smidgen.serving.requests.reading import read_request

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"q": {"type": "string", "default": None}}, "required": ["q"]}
TOOLS = [{"type": "function", "function": {"name": name, "description": None, "parameters": SCHEMA}} for name in "fg"]


def asked_for(choice: Any, tools: Any = TOOLS, **more: Any) -> Asked:
    body = {"messages": HI, "tools": tools, "tool_choice": choice, **more}
    return read_request("/v1/chat/completions", body)


def names(asked: Asked) -> list[str]:
    return [tool["function"]["name"] for tool in asked.body.get("tools", [])]


def test_choices() -> None:
    assert (names(asked_for(None)), asked_for(None).tool_choice) == (["f", "g"], "auto")
    assert (names(asked_for("required")), asked_for("required").body["tool_choice"]) == (["f", "g"], "required")
    assert names(asked_for("none")) == [] and asked_for("none").tools is None
    named = asked_for({"type": "function", "function": {"name": "g"}})
    assert (names(named), named.body["tool_choice"], named.tool_name) == (["g"], "required", "g")
    assert named.body["parallel_tool_calls"] is False and "parallel_tool_calls" not in asked_for("required").body
    assert asked_for("auto", []).tools is None


def test_the_other_dialects_name_tools_too() -> None:
    flat = [{"type": "function", **tool["function"]} for tool in TOOLS]
    asked = read_request(
        "/v1/responses", {"input": "a", "tools": flat, "tool_choice": {"type": "function", "name": "g"}}
    )
    assert [tool["name"] for tool in asked.body["tools"]] == ["g"] and asked.body["tool_choice"] == "required"
    tools = [{"name": name, "input_schema": SCHEMA} for name in "fg"]
    choices = {
        "tool": (["g"], {"type": "any"}),
        "any": (["f", "g"], {"type": "any"}),
        "auto": (["f", "g"], {"type": "auto"}),
    }
    for kind, (left, sent) in choices.items():
        choice = {"type": kind, **({"name": "g"} if kind == "tool" else {})}
        asked = read_request("/v1/messages", {"messages": HI, "tools": tools, "tool_choice": choice})
        assert [tool["name"] for tool in asked.body["tools"]] == left and asked.body["tool_choice"] == sent
    asked = read_request("/v1/messages", {"messages": HI, "tools": tools, "tool_choice": {"type": "none"}})
    assert "tools" not in asked.body


@pytest.mark.parametrize(
    ("choice", "tools", "field"),
    [
        ({"type": "function", "function": {"name": "h"}}, TOOLS, "tool_choice"), ("required", None, "tool_choice"),
        ("required", [], "tool_choice"), ("perhaps", TOOLS, "tool_choice"), (5, TOOLS, "tool_choice"),
        ({"type": "function"}, TOOLS, "tool_choice.function"), ("auto", "f", "tools"), ("auto", [None], "tools[0]"),
        ("auto", [{}], "tools[0].type"), ("auto", [{"type": "web_search"}], "tools[0].type"),
        ("auto", [{"type": "function", "function": {"name": 5}}], "tools[0].function.name"),
        ("auto", [{"type": "function", "function": {"name": "a b"}}], "tools[0].function.name"),
        ("auto", [*TOOLS, TOOLS[0]], "tools[2].function.name"), ("auto", TOOLS * 200, "tools"),
        ("auto", [{"type": "function", "function": {"name": "f", "parameters": "x"}}], "tools[0].function.parameters"),
        ("auto", [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}],
         "tools[0].function.parameters"),
    ],
)  # fmt: skip
def test_what_is_no_tool_and_no_choice(choice: Any, tools: Any, field: str) -> None:
    with pytest.raises(Refusal) as found:
        asked_for(choice, tools)
    assert found.value.param == field


def tool(schema: Any, strict: bool | None = None) -> list[Any]:
    parameters = {"type": "object", "properties": {"q": schema}}
    return [{"type": "function", "function": {"name": "f", "parameters": parameters, "strict": strict}}]


PASSED_OVER = [
    {"type": "number", "minimum": 3}, {"type": "string", "format": "email"}, {"type": "string", "pattern": "a+"},
    {"type": "string", "pattern": "^a(?=b)$"}, {"type": "array", "items": {"type": "null"}, "uniqueItems": True},
    {"not": {"type": "null"}}, {"type": "integer", "multipleOf": 2}, {"type": "object", "required": ["z"]},
    {"type": "string", "enum": [1]}, {"type": "object", "patternProperties": {}}, {"oneOf": [{}, {"type": "null"}]},
    {"type": "array", "prefixItems": [{"type": "null"}]},
]  # fmt: skip


@pytest.mark.parametrize("schema", PASSED_OVER)
def test_what_is_not_enforced_is_refused_where_strict_and_said_elsewhere(schema: Any) -> None:
    with pytest.raises(Refusal, match="properties.q"):
        asked_for("auto", tool(schema, strict=True))
    asked = asked_for("auto", tool(schema))
    assert asked.body["tools"][0]["function"]["parameters"]["properties"]["q"] == schema
    assert any("properties.q" in line and "not enforced" in line for line in asked.warnings)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": 5}, {"type": "integer", "minimum": 3}, {"enum": [1, None]}, {"$ref": "#/$defs/a"},
        {"type": "string", "pattern": "^[a-z]+-(x|y){2}$"}, {"type": "string", "format": "date"}, True,
        {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "Q"},
        {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "boolean"}}}, "required": ["a"]},
        {"oneOf": [{"type": "integer"}, {"type": "null"}]},
    ],
)  # fmt: skip
def test_ordinary_arguments_are_enforced(schema: Any) -> None:
    tools = tool(schema, strict=True)
    tools[0]["function"]["parameters"]["$defs"] = {"a": {"type": "null"}}
    assert asked_for("auto", tools).warnings == ()


@pytest.mark.parametrize(
    "schema",
    [
        False, "x", {"type": "weird"}, {"$ref": "#/$defs/nothing"}, {"$ref": "https://elsewhere.example/a"}, {"enum": []},
        {"$ref": "#/properties/q"}, {"type": "string", "maxLength": 10**9}, {"type": "string", "pattern": "(" * 100},
        {"anyOf": []}, {"properties": 5}, {"required": "a"}, {"type": "string", "minLength": 5, "maxLength": 2},
    ],
)  # fmt: skip
def test_what_llama_cpp_could_not_read_is_refused_always(schema: Any) -> None:
    with pytest.raises(Refusal) as found:
        asked_for("auto", tool(schema))
    assert found.value.param == "tools[0].function.parameters"


def test_what_must_also_hold_is_put_in_its_place() -> None:
    schema = {"allOf": [{"type": "string"}, {"maxLength": 3}], "description": "Q"}
    asked = asked_for("auto", tool(schema, strict=True))
    sent = asked.body["tools"][0]["function"]["parameters"]["properties"]["q"]
    assert sent == {"type": "string", "maxLength": 3, "description": "Q"}


def test_a_schema_beside_tools() -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "null"}}}
    assert "grammar" in asked_for("none", response_format=wanted).body
    assert "grammar" not in asked_for("required", response_format=wanted).body
    with pytest.raises(Refusal, match="response_format"):
        asked_for("auto", response_format=wanted)


def test_what_is_not_carried_out_beside_tools_is_refused() -> None:
    for stream in (False, True):
        with pytest.raises(Refusal) as caught:
            asked_for(None, logprobs=True, stream=stream)
        assert caught.value.param == "logprobs"
    tools = [{"type": "function", "name": "f", "parameters": SCHEMA}]
    with pytest.raises(Refusal) as caught:
        read_request("/v1/responses", {"input": "hi", "tools": tools, "parallel_tool_calls": False})
    assert caught.value.param == "parallel_tool_calls"


def test_warnings_fit_a_header() -> None:
    many = {"type": "object", "properties": {f"\u00e9{i}": {"type": "number", "minimum": 3} for i in range(400)}}
    asked = asked_for("auto", [{"type": "function", "function": {"name": "f", "parameters": many}}])
    assert len(asked.warnings) == 17 and asked.warnings[-1] == "and 384 more"
    assert all(line.isascii() and line.isprintable() and len(line) <= 200 for line in asked.warnings)
