"""Schemas that cannot be enforced are refused by keyword and place. (That the others are enforced: test_on_engine.py.)"""
# ruff: noqa: E501 - one case, one line

from typing import Any

import pytest

from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.schemas import grammar_of

PERSON = {
    "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Person", "type": "object",
    "additionalProperties": False, "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 50, "description": "N"},
        "age": {"type": ["integer", "null"], "minimum": 0, "maximum": 150, "default": None},
        "type": {"enum": ["a", 1, None]}, "pattern": {"type": "string", "pattern": "^[A-Z].*$"},
        "$ref": {"type": "boolean", "deprecated": True}, "friends": {"type": "array", "items": {"$ref": "#"}, "maxItems": 5},
        "home": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]}, "born": {"type": "string", "format": "date"},
        "anything": True, "map": {"type": "object", "additionalProperties": {"type": "number"}}, "share": {"type": "number",
        "minimum": 0, "maximum": 1},
        "pet": {"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}], "discriminator": {"propertyName": "kind"}},
    },
    "$defs": {
        "place": {"type": "object", "properties": {"next": {"$ref": "#/$defs/place"}}},
        "cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
        "dog": {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind"]},
    },
}  # fmt: skip


def test_ordinary_schemas_become_grammars() -> None:
    assert grammar_of(PERSON, "it").startswith("root ::=") or "\nroot ::=" in grammar_of(PERSON, "it")
    for schema in ({}, True, {"type": "object"}, {"allOf": [{"type": "object"}, {"properties": {"a": {}}}]}):
        assert "root ::=" in grammar_of(schema, "it")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("x", "where a schema is wanted"), (5, "where a schema is wanted"), (False, "allows nothing"),
        ({"type": "text"}, "has type, which is none of"), ({"type": []}, "has type"), ({"enum": []}, "has enum"),
        ({"enum": "a"}, "has enum"), ({"minItems": 5, "maxItems": 2}, "has minItems"),
        ({"type": "integer", "minimum": 10, "maximum": 2}, "has minimum"), ({"type": "number", "minimum": 0.5}, "has minimum"),
        ({"type": "integer", "multipleOf": 3}, "has multipleOf"), ({"type": "string", "maxLength": 10**9}, "has maxLength"),
        ({"properties": {"a": {"minLength": 5, "maxLength": 2}}}, r"has properties\.a\.minLength"),
        ({"type": "string", "pattern": "^a(?=b)$"}, "has pattern, which looks ahead"),
        ({"type": "string", "pattern": "(?<!a)b"}, "looks ahead or back"), ({"type": "string", "pattern": r"^(a)\1$"}, "group"),
        ({"type": "string", "pattern": "(?i)a"}, "flags"), ({"type": "string", "pattern": "^(a$"}, "cannot be read"),
        ({"type": "string", "pattern": r"\p{L}"}, "cannot be read"), ({"type": "string", "pattern": "a^b"}, "midst"),
        ({"type": "string", "pattern": "^a{5,2}$"}, "pattern"), ({"type": "string", "pattern": 5}, "pattern"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "together"),
        ({"type": "string", "format": "regex"}, "has format"), ({"type": "array", "uniqueItems": True}, "has uniqueItems"),
        ({"type": "array", "contains": {}}, "has contains"), ({"not": {}}, "has not"), ({"if": {}, "then": {}}, "has if"),
        ({"type": "object", "patternProperties": {"a": {}}}, "has patternProperties"),
        ({"type": "object", "propertyNames": {}}, "propertyNames"), ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"type": "object", "dependentRequired": {}}, "dependentRequired"), ({"type": "object", "maxProperties": 2}, "maxP"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "names 'a'"),
        ({"type": "string", "minimum": 3}, "has minimum, which is not enforced for the type string"),
        ({"type": "string", "maxLenght": 3}, "has maxLenght"), ({"const": 5, "type": "string"}, "no value of its type"),
        ({"enum": ["a"], "minLength": 3}, "together"), ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "at once"),
        ({"oneOf": [{}, {"type": "null"}]}, "at once"), ({"anyOf": []}, "no alternatives"), ({"allOf": "x"}, "allOf"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "different things"),
        ({"$ref": "#/$defs/a"}, "leads to nothing"), ({"$ref": "https://elsewhere.example/a"}, "within the schema"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "itself"),
        ({"anyOf": [{"properties": {"a": {"allOf": [{"type": "no"}]}}}]}, r"anyOf\[0\]\.properties\.a\.type"),
        ({"enum": ["x" * 100_000]}, "characters"), ({"items": {"maxItems": 1_000_000}}, "items.maxItems"),
        ({"oneOf": [{"const": i} for i in range(1000)]}, "256 alternatives"),
        ({"properties": {f"a{i}": {} for i in range(2000)}}, "parts"),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_named(schema: Any, said: str) -> None:
    with pytest.raises(Refusal, match=said) as found:
        grammar_of(schema, "response_format")
    assert found.value.param == "response_format" and str(found.value).isprintable()


def test_a_schema_that_would_grow_without_end_is_refused_at_once() -> None:
    defs: dict[str, Any] = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    defs["d40"] = {"type": "null"}
    with pytest.raises(Refusal):
        grammar_of({"$ref": "#/$defs/d0", "$defs": defs}, "it")
    endless = {"type": "object", "properties": {"a": {"$ref": "#", "minProperties": 0}}}
    with pytest.raises(Refusal):
        grammar_of(endless, "it")
