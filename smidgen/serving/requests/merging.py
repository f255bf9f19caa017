"""JSON schemas that hold at once made one, references followed, and alternatives of which only one can hold."""

from collections.abc import Callable, Mapping
from typing import Any

ANNOTATIONS = {
    "title", "description", "default", "examples", "example", "$schema", "$id", "id", "$comment", "deprecated",
    "readOnly", "writeOnly", "$defs", "definitions", "$anchor", "discriminator", "contentEncoding",
    "contentMediaType", "xml",
    "externalDocs",
}  # fmt: skip
_MOST_ALTERNATIVES = 256  # each is compared with each
_ITEMS = {"items", "prefixItems", "additionalItems"}
_NUMBERS: dict[str, Callable[..., Any]] = dict.fromkeys(
    ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max
)
_NUMBERS |= dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min)


class Unenforceable(ValueError):
    """A part of a schema that no grammar holds an answer to."""

    def __init__(self, where: str, keyword: str, why: str) -> None:
        place = ".".join(part for part in (where, keyword) if part)
        super().__init__(f"has {_printable(place)}, which {why}" if place else why)
        self.place, self.keyword, self.why = place, keyword, why


def flattened(schema: Any, root: Any, where: str) -> dict[str, Any]:
    """A schema without annotations, and with all that it must also follow (`allOf`) in itself."""
    found: dict[str, Any] = {}
    waiting, steps = [schema], 0
    while waiting:
        one = waiting.pop()
        steps += 1
        if steps > 256:
            raise Unenforceable(where, "allOf", "has too many parts, or leads back to itself")
        if one is True:
            continue
        if not isinstance(one, Mapping):
            raise Unenforceable(where, "allOf", "has something else where a schema is wanted")
        inner = {key: value for key, value in one.items() if not _is_annotation(key)}
        also = inner.pop("allOf", [])
        if not isinstance(also, list):
            raise Unenforceable(where, "allOf", "must be a list of schemas")
        if "$ref" in inner:
            also = [resolved(inner.pop("$ref"), root, where), *also]
        waiting += reversed(also)
        if found and "unevaluatedProperties" in inner:
            raise Unenforceable(where, "unevaluatedProperties", "is not enforced within allOf")
        found = _met(found, inner, where) if found else inner
    return found


def _met(one: dict[str, Any], other: dict[str, Any], where: str) -> dict[str, Any]:
    """What follows two schemas at once."""
    if any(key in one and key in other and one[key] != other[key] for key in _ITEMS) or (
        _ITEMS & set(one) and _ITEMS & set(other) and _ITEMS & set(one) != _ITEMS & set(other)
    ):
        raise Unenforceable(where, "items", "is not enforced where two parts say different things")
    found = dict(one)
    for key, value in other.items():
        found[key] = _both(key, one[key], value, where) if key in one else value
    if "properties" in found or "additionalProperties" in found:
        return found | _members(one, other, where)
    return found


def _members(one: dict[str, Any], other: dict[str, Any], where: str) -> dict[str, Any]:
    """The members of both: what one does not list follows what it says of others."""
    listed = [part.get("properties", {}) for part in (one, other)]
    if not all(isinstance(names, Mapping) for names in listed):
        raise Unenforceable(where, "properties", "must be an object of schemas")
    extras = [part.get("additionalProperties", True) for part in (one, other)]
    members = {}
    for name in [*listed[0], *(name for name in listed[1] if name not in listed[0])]:
        members[name] = _meeting([names.get(name, extra) for names, extra in zip(listed, extras, strict=True)])
    found: dict[str, Any] = {"properties": members} if members else {}
    if any("additionalProperties" in part for part in (one, other)):
        found["additionalProperties"] = _meeting(extras)
    return found


def _meeting(schemas: list[Any]) -> Any:
    """A schema for what follows all of these."""
    if any(one is False for one in schemas):
        return False
    several = [one for one in schemas if one is not True]
    return True if not several else several[0] if len(several) == 1 else {"allOf": several}


def _is_annotation(key: str) -> bool:
    return key in ANNOTATIONS or key.startswith("x-")


def _both(key: str, one: Any, other: Any, where: str) -> Any:
    """What holds where both do."""
    if one == other and isinstance(one, bool) == isinstance(other, bool):
        return one
    if key == "required" and isinstance(one, list) and isinstance(other, list):
        return [*one, *(name for name in other if name not in one)]
    if key in ("properties", "additionalProperties"):
        return one  # see `_members`
    if key in _NUMBERS and not isinstance(one, bool | str) and not isinstance(other, bool | str):
        return _NUMBERS[key](one, other)
    if key == "type":
        kinds = [kind for kind in _listed(one) if kind in _listed(other)]
        if "integer" in _listed(one) + _listed(other) and {"number", "integer"} <= {*_listed(one), *_listed(other)}:
            kinds.append("integer")
        if kinds:
            return kinds
    if key == "enum" and isinstance(one, list) and isinstance(other, list):
        return [value for value in one if value in other]
    raise Unenforceable(where, key, "is not enforced where two parts say different things")


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list) else [given]


def resolved(reference: Any, root: Any, where: str) -> Any:
    """What a reference leads to in the end. Raises Unenforceable where that is elsewhere, nothing, or itself."""
    seen = set[str]()
    while True:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise Unenforceable(where, "$ref", "is not within the schema; only such as #/$defs/a are followed")
        if reference in seen:
            raise Unenforceable(where, "$ref", "leads back to itself")
        seen.add(reference)
        place = root
        for key in reference.split("/")[1:]:
            key = key.replace("~1", "/").replace("~0", "~")
            if isinstance(place, list) and key.isdigit() and int(key) < len(place):
                place = place[int(key)]
            else:
                place = place.get(key) if isinstance(place, Mapping) else None
        if not isinstance(place, Mapping | bool):
            raise Unenforceable(where, "$ref", "leads to nothing")
        if not (isinstance(place, Mapping) and set(place) == {"$ref"}):
            return place
        reference = place["$ref"]


def disjoint(alternatives: list[Any], root: Any, where: str) -> bool:
    """Whether no value can follow two of the alternatives, as far as types, values and members show."""
    if len(alternatives) > _MOST_ALTERNATIVES:
        raise Unenforceable(where, "oneOf", f"has more than {_MOST_ALTERNATIVES} alternatives; use anyOf or enum")
    parts = [flattened(one, root, where) for one in alternatives]
    return all(_apart(parts[i], parts[j], root, where) for i in range(len(parts)) for j in range(i))


def _apart(one: dict[str, Any], other: dict[str, Any], root: Any, where: str, deeper: bool = True) -> bool:
    ours, theirs = _values(one), _values(other)
    if ours is not None and theirs is not None:
        return not any(value == another for value in ours for another in theirs)
    kinds, others = _types(one), _types(other)
    if kinds and others and not kinds & others:
        return True
    shared = set(_names(one)) & set(_names(other))
    if not deeper or kinds != {"object"} or others != {"object"}:
        return False
    for name in shared:
        first, second = one["properties"].get(name, True), other["properties"].get(name, True)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            if _apart(flattened(first, root, where), flattened(second, root, where), root, where, deeper=False):
                return True
    return False


def _values(schema: dict[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else None


def _types(schema: dict[str, Any]) -> set[str]:
    """Types that values have; empty where any. Whole numbers are numbers."""
    values = _values(schema)
    if values is not None:
        return {_type_of(value) for value in values}
    return (
        {"number" if kind == "integer" else str(kind) for kind in _listed(schema["type"])}
        if "type" in schema
        else set()
    )


def _type_of(value: Any) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _names(schema: dict[str, Any]) -> list[str]:
    """Members that an object must have and that are described."""
    required, properties = schema.get("required"), schema.get("properties")
    if not isinstance(required, list) or not isinstance(properties, Mapping):
        return []
    return [name for name in required if isinstance(name, str) and name in properties]


def _printable(text: str) -> str:
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= 160 else f"{shown[:80]}...{shown[-77:]}"
