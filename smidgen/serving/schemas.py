"""JSON schemas of requests: what llama.cpp would not enforce is refused, because it would pass over it without a word.

It drops a schema that it cannot turn into a grammar, and parts of one that contradict themselves; then the answer is
free text, and the status says that all is well. So types, references, sizes and patterns are looked at first.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from smidgen.errors import SmidgenError, printable

_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
_FORMATS = {"text", "json_object", "json_schema"}
_RANGES = (
    ("minItems", "maxItems"), ("minLength", "maxLength"), ("minProperties", "maxProperties"), ("minimum", "maximum"),
    ("exclusiveMinimum", "exclusiveMaximum"),
)  # fmt: skip
_ONE = ("items", "additionalProperties", "not", "contains", "propertyNames")
_SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "$defs", "definitions", "patternProperties")


def refuse_unenforceable(body: Mapping[str, Any]) -> None:
    """Raises SmidgenError for a response format or schema that could not be held to."""
    if body.get("json_schema") is not None:
        check_schema(body["json_schema"], "json_schema")
    wanted = body.get("response_format")
    if wanted is not None:
        _check_format(wanted, "response_format")
    text = body.get("text")
    if isinstance(text, dict) and text.get("format") is not None:
        _check_format(text["format"], "text.format")


def _check_format(wanted: Any, name: str) -> None:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if not isinstance(kind, str) or kind not in _FORMATS:
        raise SmidgenError(f"{name} must be an object whose type is text, json_object or json_schema.")
    if kind == "json_schema":
        inner = wanted.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, dict) else wanted.get("schema")
        if schema is None:
            raise SmidgenError(f"{name} of type json_schema needs a schema.")
        check_schema(schema, name)
    elif wanted.get("schema") is not None:
        check_schema(wanted["schema"], name)


def check_schema(schema: Any, name: str) -> None:
    """Raises SmidgenError, which names the field, for a schema with a part that says nothing or contradicts itself."""
    for part in _parts(schema, name):
        kinds = part.get("type")
        for kind in kinds if isinstance(kinds, list) else [] if kinds is None else [kinds]:
            if not isinstance(kind, str) or kind not in _TYPES:
                raise _bad(name, f"has the type {_shown(kind)}, which there is not")
        if "enum" in part and not (isinstance(part["enum"], list) and part["enum"]):
            raise _bad(name, "has an enum without values")
        for least, most in _RANGES:
            if _is_number(part.get(least)) and _is_number(part.get(most)) and part[least] > part[most]:
                raise _bad(name, f"has {least} {part[least]} above {most} {part[most]}")
        if "pattern" in part:
            _check_pattern(part["pattern"], name)
        if "$ref" in part:
            _check_reference(part["$ref"], schema, name)


def _parts(schema: Any, name: str) -> Iterator[dict[str, Any]]:
    """The schema and every schema in it. Raises SmidgenError for one that is neither an object nor true or false."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, bool):
            continue
        if not isinstance(part, dict):
            raise _bad(name, f"has {_shown(part)} where a schema is wanted")
        yield part
        waiting += [part[key] for key in _ONE if isinstance(part.get(key), dict | str | int | float)]
        for key in _SEVERAL:
            waiting += part[key] if isinstance(part.get(key), list) else []
        if isinstance(part.get("items"), list):
            waiting += part["items"]
        for key in _NAMED:
            waiting += part[key].values() if isinstance(part.get(key), dict) else []


def _check_pattern(pattern: Any, name: str) -> None:
    if not isinstance(pattern, str) or not (pattern.startswith("^") and pattern.endswith("$")):
        raise _bad(name, "has a pattern that does not begin with ^ and end with $, and others are not enforced")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise _bad(name, f"has a pattern that cannot be read ({printable(error, 60)})") from error


def _check_reference(reference: Any, schema: Any, name: str) -> None:
    """It leads somewhere in the schema, and not in a circle of references only."""
    seen = set[str]()
    while True:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise _bad(name, f"refers to {_shown(reference)}; only references within it, such as #/$defs/a, are read")
        if reference in seen:
            raise _bad(name, f"refers from {_shown(reference)} to itself")
        seen.add(reference)
        place = schema
        for key in reference.split("/")[1:]:
            place = place.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(place, dict) else None
        if not isinstance(place, dict | bool):
            raise _bad(name, f"refers to {_shown(reference)}, which it does not have")
        if not (isinstance(place, dict) and set(place) == {"$ref"}):
            return
        reference = place["$ref"]


def _bad(name: str, what: str) -> SmidgenError:
    return SmidgenError(f"the schema in {name} {what}.")


def _shown(value: Any) -> str:
    return printable(repr(value), 60)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
