"""Schemas of the arguments of tools. llama.cpp makes grammars of them itself, and passes over much of what they say.

Looked up in the grammars that it makes (tests/serving/requests/test_on_engine.py does so again). Where a function is
`strict`, what is passed over is refused; elsewhere the model reads it, nothing enforces it, and a warning says so.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.bounds import LONGEST_GRAMMAR, MOST_REPEATS, excess_of_pattern
from smidgen.serving.requests.merging import ANNOTATIONS, Unenforceable, disjoint, flattened, resolved
from smidgen.serving.requests.schemas import TYPES, is_of

_FORMATS = ("date", "time", "date-time", "uuid")
_PLAIN_PATTERN = re.compile(r"\^(?:[A-Za-z0-9 _/:@,()|+*?{}-]|\[(?!\^)[A-Za-z0-9 _/:@-]+\])*\$")
_SIZES = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_ENFORCED = {
    "type", "enum", "const", "properties", "required", "additionalProperties", "items", "minItems", "maxItems",
    "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "anyOf", "oneOf", "$ref",
}  # fmt: skip
_WHOLE = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def for_tools(schema: Mapping[str, Any], name: str, strict: bool, warnings: list[str]) -> dict[str, Any]:
    """The schema as llama.cpp reads it: `true` as an empty schema, and what also holds (`allOf`) in its place.

    Raises Refusal for what it could not read, and where `strict` for what it would pass over, which else joins the
    warnings.
    """
    try:
        if len(str(schema)) > LONGEST_GRAMMAR:
            raise Unenforceable("", "", f"has more than {LONGEST_GRAMMAR} characters")
        made = _rewritten(schema, schema, "", 0)
        for problem in _passed_over(made, made, ""):
            if strict:
                raise problem
            warnings.append(f"{name}: {problem.place} is shown to the model and not enforced")
        return made
    except Unenforceable as error:
        raise Refusal(f"the schema in {name} {error}.", param=name, code="unenforceable_schema") from None


def _rewritten(schema: Any, root: Any, where: str, depth: int) -> dict[str, Any]:
    if depth > 64:
        raise Unenforceable(where, "", "is nested too deep")
    if schema is True:
        return {}
    if not isinstance(schema, Mapping):
        raise Unenforceable(where, "", "allows nothing, or is no schema")
    if "allOf" in schema:
        kept = {key: value for key, value in schema.items() if key in ANNOTATIONS}
        schema = {**kept, **flattened(schema, root, where)}
    found = dict(schema)
    for key, value in schema.items():
        inside = f"{where}.{key}" if where else key
        if key in ("properties", "$defs", "definitions"):
            if not isinstance(value, Mapping):
                raise Unenforceable(where, key, "must be an object of schemas")
            found[key] = {
                one: _rewritten(inner, root, f"{inside}.{one[:60]}", depth + 1) for one, inner in value.items()
            }
        elif key in ("anyOf", "oneOf", "prefixItems"):
            if not isinstance(value, list) or not value:
                raise Unenforceable(where, key, "must be a list of schemas")
            found[key] = [_rewritten(one, root, f"{inside}[{i}]", depth + 1) for i, one in enumerate(value)]
        elif key in ("items", "additionalProperties") and not isinstance(value, bool):
            if not (key == "items" and isinstance(value, list)):
                found[key] = _rewritten(value, root, inside, depth + 1)
    if found.get("items") is True:
        del found["items"]
    _refuse_unreadable(found, root, where)
    return found


def _refuse_unreadable(schema: Mapping[str, Any], root: Any, where: str) -> None:
    """What llama.cpp ends the request for, or its process."""
    if "$ref" in schema:
        resolved(schema["$ref"], root, where)
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in TYPES:
            raise Unenforceable(where, "type", "is none of " + ", ".join(TYPES))
    if "enum" in schema and not (isinstance(schema["enum"], list) and schema["enum"]):
        raise Unenforceable(where, "enum", "has no values")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(one, str) for one in required):
        raise Unenforceable(where, "required", "must be a list of names")
    for key in _SIZES:
        if key in schema and not (is_of(schema[key], "integer") and 0 <= schema[key] <= MOST_REPEATS):
            raise Unenforceable(where, key, f"must be a whole number from 0 to {MOST_REPEATS}")
    for least, most in (("minItems", "maxItems"), ("minLength", "maxLength")):
        if schema.get(least, 0) > schema.get(most, MOST_REPEATS):
            raise Unenforceable(where, least, f"is above {most}")
    for key in _WHOLE:
        if key in schema and not (is_of(schema[key], "number") and abs(schema[key]) < 2**53):
            raise Unenforceable(where, key, "must be a number of at most 15 digits")
    if "pattern" in schema:
        excess = excess_of_pattern(schema["pattern"]) if isinstance(schema["pattern"], str) else "must be a text"
        if excess:
            raise Unenforceable(where, "pattern", excess)


def _passed_over(schema: Mapping[str, Any], root: Any, where: str) -> Iterator[Unenforceable]:
    """Every keyword that llama.cpp does not enforce."""
    for key in schema:
        if key in ANNOTATIONS or key.startswith("x-"):
            continue
        if key not in _ENFORCED or not _is_enforced(key, schema, root, where):
            yield Unenforceable(where, key, "is not enforced in the arguments of tools")
    dot = f"{where}." if where else ""
    for name, inner in schema.get("properties", {}).items():
        yield from _passed_over(inner, root, f"{dot}properties.{name[:60]}")
    for key in ("anyOf", "oneOf"):
        for place, inner in enumerate(schema.get(key, [])):
            yield from _passed_over(inner, root, f"{dot}{key}[{place}]")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            yield from _passed_over(schema[key], root, f"{dot}{key}")
    if not where:
        for key in ("$defs", "definitions"):
            for name, inner in schema.get(key, {}).items():
                yield from _passed_over(inner, root, f"{key}.{name[:60]}")


def _is_enforced(key: str, schema: Mapping[str, Any], root: Any, where: str) -> bool:
    kinds = schema.get("type")
    match key:
        case "type":
            values = schema.get("enum", [schema["const"]] if "const" in schema else [])
            listed = kinds if isinstance(kinds, list) else [str(kinds)]
            return all(any(is_of(value, kind) for kind in listed) for value in values)
        case "anyOf" | "oneOf" | "$ref":
            alone = all(other == key or other in ANNOTATIONS for other in schema)
            return alone and (key != "oneOf" or disjoint(schema["oneOf"], root, where))
        case "required":
            return all(name in schema.get("properties", {}) for name in schema["required"])
        case "items":
            return isinstance(schema["items"], Mapping) and "prefixItems" not in schema
        case "pattern":
            alone = not {"minLength", "maxLength", "format"} & set(schema)
            return alone and kinds == "string" and _PLAIN_PATTERN.fullmatch(schema["pattern"]) is not None
        case "format":
            alone = not {"minLength", "maxLength"} & set(schema)
            return alone and kinds == "string" and schema["format"] in _FORMATS
        case "minLength" | "maxLength":
            return kinds in ("string", ["string", "null"]) and "enum" not in schema
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            return kinds == "integer" and is_of(schema[key], "integer")
        case _:
            return True
