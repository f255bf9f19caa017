"""Schemas that would not be enforced are refused by what is wrong with them; ordinary ones pass."""

from typing import Any

import pytest

from smidgen.errors import SmidgenError
from smidgen.serving.schemas import check_schema, refuse_unenforceable

PERSON = {
    "type": "object", "additionalProperties": False, "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 50, "pattern": "^[A-Z].*$"},
        "age": {"type": ["integer", "null"], "minimum": 0, "maximum": 150},
        "type": {"enum": ["a", 1, None]}, "pattern": {"type": "string"}, "$ref": {"type": "boolean"},
        "friends": {"type": "array", "items": {"$ref": "#"}, "minItems": 0, "maxItems": 5},
        "home": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]},
        "anything": True,
    },
    "$defs": {"place": {"type": "object", "properties": {"next": {"$ref": "#/$defs/place"}}}},
}  # fmt: skip


def test_ordinary_schemas_pass() -> None:
    check_schema(PERSON, "it")
    check_schema({}, "it")
    check_schema(True, "it")
    refuse_unenforceable({"response_format": {"type": "json_object"}, "text": {"format": {"type": "text"}}})
    refuse_unenforceable({"response_format": {"type": "json_schema", "json_schema": {"schema": PERSON}}})
    refuse_unenforceable({"response_format": {"type": "json_schema", "schema": PERSON}, "json_schema": None})


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("x", "where a schema is wanted"), (5, "where a schema is wanted"), ({"type": "text"}, "type 'text'"),
        ({"type": 5}, "type 5"), ({"enum": []}, "enum without values"), ({"enum": "a"}, "enum without values"),
        ({"minItems": 5, "maxItems": 2}, "minItems 5 above maxItems 2"), ({"minimum": 10, "maximum": 2}, "minimum 10"),
        ({"properties": {"a": {"minLength": 5, "maxLength": 2}}}, "minLength 5"),
        ({"items": {"pattern": "[a-z]+"}}, "begin with"), ({"pattern": "^a{5,2}$"}, "cannot be read"),
        ({"pattern": "^(a$"}, "cannot be read"), ({"pattern": 5}, "begin with"),
        ({"$ref": "#/$defs/a"}, "does not have"), ({"$ref": "https://elsewhere.example/a"}, "within it"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "to itself"),
        ({"anyOf": [{"type": "object", "properties": {"a": {"allOf": [{"type": "no"}]}}}]}, "type 'no'"),
    ],
)  # fmt: skip
def test_what_says_nothing_is_named(schema: Any, said: str) -> None:
    with pytest.raises(SmidgenError, match=said):
        check_schema(schema, "response_format")


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": "json"}, {"response_format": {"type": "nonsense"}}, {"response_format": {}},
        {"response_format": {"type": "json_schema"}}, {"response_format": {"type": "json_schema", "json_schema": "x"}},
        {"text": {"format": {"type": "xml"}}}, {"json_schema": "x"},
    ],
)  # fmt: skip
def test_formats_that_nobody_knows(body: dict[str, Any]) -> None:
    with pytest.raises(SmidgenError):
        refuse_unenforceable(body)
