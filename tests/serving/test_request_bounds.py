"""Requests are measured before llama.cpp's parsers see them; what people send passes."""

from typing import Any

import pytest

from smidgen.errors import SmidgenError
from smidgen.serving.request_bounds import refuse_excess


def nested(depth: int) -> str:
    return "root ::= " + "(" * depth + '"a"' + ")" * depth


def schema(depth: int) -> dict[str, Any]:
    one: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        one = {"type": "object", "properties": {"a": one}}
    return one


@pytest.mark.parametrize(
    "body",
    [
        {"grammar": nested(20)},
        {"grammar": f'root ::= "{"(" * 40}" [{"(" * 40}] # {"(" * 40}'},
        {"grammar": 'root ::= item{1,20}\nitem ::= [a-z]{3} | "\\"{5000}"'},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": schema(10)}}},
        {"json_schema": {"type": "string", "pattern": "^(\\d{3}-)?[a-z]+$", "maxLength": 200}},
        {"json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}},
        {"stop": "END"}, {"stop": ["a", "b"]}, {"stop": None}, {"logprobs": True}, {"top_logprobs": 20}, {},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema(3)}}]},
    ],
)  # fmt: skip
def test_what_people_send_passes(body: dict[str, Any]) -> None:
    refuse_excess(body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"grammar": nested(30_000)}, "deeper"),
        ({"grammar": nested(40)}, "deeper"),
        ({"grammar": "\n".join(f"r{i} ::= r{i + 1}" for i in range(2000))}, "rules"),
        ({"grammar": 'root ::= "a"{0,99999999999999999999}'}, "repeats"),
        ({"grammar": 'root ::= "a"{3000}'}, "repeats"),
        ({"grammar": "a" * 100_000}, "characters"),
        ({"grammar": ["root"]}, "text in GBNF"),
        ({"json_schema": {"pattern": "(" * 100 + ")" * 100}}, "deeper"),
        ({"json_schema": {"pattern": "a{99999}"}}, "repeats"),
        ({"json_schema": {"pattern": "a" * 2000}}, "characters"),
        ({"json_schema": {"items": {"maxItems": 1_000_000}}}, "maxItems"),
        ({"json_schema": {"enum": ["x" * 100_000]}}, "characters"),
        ({"json_schema": {"$ref": "https://elsewhere.example/schema.json"}}, "refers to"),
        ({"response_format": {"json_schema": {"schema": {"minLength": 10**9}}}}, "minLength"),
        ({"tools": [{"function": {"parameters": {"pattern": "(" * 100}}}]}, "deeper"),
        ({"text": {"format": {"schema": {"maxLength": 10**9}}}}, "maxLength"),
        ({"tools": [{}] * 1000}, "tools has 1000"),
        ({"stop": ["x"] * 100}, "stop has 100"),
        ({"stop": "x" * 5000}, "stop text"),
        ({"stop": -1}, "a text or a list"),
        ({"stop": {"a": 1}}, "a text or a list"),
        ({"stop": [1]}, "a text or a list"),
        ({"logit_bias": {str(i): 1 for i in range(20_000)}}, "logit_bias"),
        ({"n_probs": 100_000}, "n_probs"),
    ],
)
def test_what_asks_too_much_is_refused_by_name(body: dict[str, Any], said: str) -> None:
    with pytest.raises(SmidgenError, match=said):
        refuse_excess(body)
