"""JSON schemas as grammars (GBNF) that llama.cpp holds an answer to.

llama.cpp turns schemas into grammars itself, but passes over what it does not know, and where it fails the answer is
free text and the status says that all is well. So it is done here, and whatever cannot be enforced is refused with its
keyword and place. The grammar never allows more than the schema, and here and there less: members come in the order of
`properties`, and where there are some, others are written only if `additionalProperties` says so.

Specification: https://json-schema.org/draft/2020-12
"""

import json
from collections.abc import Mapping
from typing import Any

from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.bounds import LONGEST_GRAMMAR, MOST_REPEATS, MOST_RULES, excess_of_pattern
from smidgen.serving.requests.merging import Unenforceable, disjoint, flattened, resolved
from smidgen.serving.requests.numbers import INTEGER, NUMBER, integers, numbers
from smidgen.serving.requests.patterns import CHARACTER, NoGrammar, grammar_of_pattern, quoted

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_BY_TYPE = {
    "object": {
        "properties", "required", "additionalProperties", "minProperties", "maxProperties", "unevaluatedProperties",
    },
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "additionalItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "boolean": set(),
    "null": set(),
}  # fmt: skip
_DAY = '("0" [1-9] | "1" [0-9] | "2" [0-8])'
_DATE = (
    f'[0-9]{{3}} [1-9] "-" (("0" [1-9] | "1" [0-2]) "-" {_DAY} | ("0" [13-9] | "1" [0-2]) "-" ("29" | "30") '
    '| ("0" [13578] | "1" [02]) "-31")'
)
_CLOCK = '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]'
_TIME = f'{_CLOCK} ":" [0-5] [0-9] ("." [0-9]{{1,6}})? ("Z" | [+-] {_CLOCK})'
_BYTE = '("25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9]? [0-9])'
_LABEL = "[a-z] ([a-z0-9-]{0,30} [a-z0-9])?"
_HOST = f'{_LABEL} ("." {_LABEL}){{1,4}}'
FORMATS = {
    "date": _DATE, "time": _TIME, "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": '[0-9a-f]{8} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{12}',
    "ipv4": f'{_BYTE} ("." {_BYTE}){{3}}', "hostname": _HOST,
    "email": f'[A-Za-z0-9] [A-Za-z0-9_+-]{{0,40}} ("." [A-Za-z0-9_+-]{{1,20}}){{0,3}} "@" {_HOST}',
    "uri": f'("https" | "http") "://" {_HOST} ("/" [A-Za-z0-9._~-]{{0,60}}){{0,8}} ("?" [A-Za-z0-9._~=&-]{{0,200}})?',
}  # fmt: skip
_RULES = {
    "ws": '| " " | "\\n"{1,2} [ \\t]{0,20}',
    "char": CHARACTER,
    "string": '"\\"" char* "\\""',
    "value": 'object | array | string | number | "true" | "false" | "null"',
    "number": NUMBER,
    "object": '"{" ws (string ws ":" ws value (ws "," ws string ws ":" ws value)*)? ws "}"',
    "array": '"[" ws (value (ws "," ws value)*)? ws "]"',
}  # fmt: skip


def grammar_of(schema: Any, name: str) -> str:
    """The grammar of the JSON texts that a schema allows. name: the field it is in. Raises Refusal."""
    try:
        if len(json.dumps(schema)) > LONGEST_GRAMMAR:
            raise Unenforceable("", "", f"has more than {LONGEST_GRAMMAR} characters")
        grammar = _Grammar(schema).text()
        if len(grammar) > 4 * LONGEST_GRAMMAR:
            raise Unenforceable("", "", "is too large for a grammar")
        return grammar
    except Unenforceable as error:
        raise Refusal(f"the schema in {name} {error}.", param=name, code="unenforceable_schema") from None
    except RecursionError:
        raise Refusal(f"the schema in {name} is nested too deep.", param=name, code="unenforceable_schema") from None


class _Grammar:
    """Rules that are made for one schema. Each part of it that is referred to becomes a rule of its own, once."""

    def __init__(self, schema: Any) -> None:
        self._root = schema
        self._rules: dict[str, str] = {}
        self._of_references: dict[str, str] = {}

    def text(self) -> str:
        """The whole grammar."""
        self._rules["root"] = self._of(self._root, "")
        return "\n".join(f"{name} ::= {rule}" for name, rule in (self._rules | _RULES).items())

    def _of(self, schema: Any, where: str) -> str:
        """What stands for one schema. where: its place, as `properties.a`."""
        if schema is True or schema == {}:
            return "value"
        if schema is False:
            raise Unenforceable(where, "", "allows nothing")
        if not isinstance(schema, Mapping):
            raise Unenforceable(where, "", "has something else where a schema is wanted")
        if "$ref" in schema:
            return self._of_reference(schema, where)
        schema = flattened(schema, self._root, where)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._of_alternatives(schema, key, where)
        if "enum" in schema or "const" in schema:
            return _of_values(schema, where)
        return self._of_types(schema, where)

    def _of_reference(self, schema: Mapping[str, Any], where: str) -> str:
        others = flattened({key: value for key, value in schema.items() if key != "$ref"}, self._root, where)
        reference = schema["$ref"]
        target = resolved(reference, self._root, where)
        if others:
            return self._of({"allOf": [{"$ref": reference}, others]}, where)
        if reference not in self._of_references:
            self._of_references[reference] = self._new("ref")
            self._rules[self._of_references[reference]] = self._of(target, str(reference))
        return self._of_references[reference]

    def _of_alternatives(self, schema: Mapping[str, Any], key: str, where: str) -> str:
        given = schema[key]
        if not isinstance(given, list) or not given:
            raise Unenforceable(where, key, "has no alternatives")
        rest = {name: value for name, value in schema.items() if name != key}
        parts = [flattened({"allOf": [rest, one]}, self._root, where) if rest else one for one in given]
        if key == "oneOf" and not disjoint(parts, self._root, where):
            raise Unenforceable(where, key, "has alternatives that may hold at once; use anyOf")
        return f"({' | '.join(self._of(part, f'{_under(where)}{key}[{place}]') for place, part in enumerate(parts))})"

    def _of_types(self, schema: Mapping[str, Any], where: str) -> str:
        kinds = _kinds(schema, where)
        known = set().union(*(_BY_TYPE[kind] for kind in kinds)) | {"type"}
        for key in schema:
            if key not in known:
                raise Unenforceable(
                    where, key, "is not enforced here" if key in _EVERYWHERE else f"is not enforced{_for(kinds)}"
                )
        parts = [getattr(self, f"_{kind}")(schema, where) for kind in kinds]
        return parts[0] if len(parts) == 1 else f"({' | '.join(parts)})"

    def _null(self, schema: Mapping[str, Any], where: str) -> str:
        return '"null"'

    def _boolean(self, schema: Mapping[str, Any], where: str) -> str:
        return '("true" | "false")'

    def _integer(self, schema: Mapping[str, Any], where: str) -> str:
        return self._numeric(schema, where, integers(schema) if _check_bounds(schema, where) else INTEGER)

    def _number(self, schema: Mapping[str, Any], where: str) -> str:
        return self._numeric(schema, where, numbers(schema) if _check_bounds(schema, where) else NUMBER)

    def _numeric(self, schema: Mapping[str, Any], where: str, found: str | None) -> str:
        if "multipleOf" in schema and not (schema["multipleOf"] == 1 and schema.get("type") == "integer"):
            raise Unenforceable(where, "multipleOf", "is not enforced")
        if found is None:
            bound = next(key for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum") if key in schema)
            raise Unenforceable(
                where, bound, "leaves no number, or bounds other numbers than integers by one that is not whole"
            )
        return f"({found})"

    def _string(self, schema: Mapping[str, Any], where: str) -> str:
        named = [key for key in ("pattern", "format") if key in schema]
        if named and (len(named) > 1 or "minLength" in schema or "maxLength" in schema):
            raise Unenforceable(where, named[0], "is not enforced together with another bound of the same text")
        if "format" in schema:
            if schema["format"] not in FORMATS:
                raise Unenforceable(where, "format", f"is not enforced but for {', '.join(FORMATS)}")
            return f'"\\"" {FORMATS[schema["format"]]} "\\""'
        if "pattern" in schema:
            return f'"\\"" {_pattern(schema["pattern"], where)} "\\""'
        if "minLength" in schema or "maxLength" in schema:
            least, most = _sizes(schema, "minLength", "maxLength", where)
            return f'"\\"" char{_times(least, most)} "\\""'
        return "string"

    def _array(self, schema: Mapping[str, Any], where: str) -> str:
        least, most = _sizes(schema, "minItems", "maxItems", where)
        items, first = schema.get("items", True), schema.get("prefixItems", [])
        if isinstance(items, list):  # as older drafts have it
            items, first = schema.get("additionalItems", True), items
        elif "additionalItems" in schema:
            raise Unenforceable(where, "additionalItems", "is not enforced here")
        if not isinstance(first, list):
            raise Unenforceable(where, "prefixItems", "must be a list of schemas")
        if schema.get("uniqueItems") and not (most is not None and most <= 1):
            raise Unenforceable(where, "uniqueItems", "is not enforced")
        first = first[: len(first) if most is None else most]
        parts = [self._of(one, f"{_under(where)}prefixItems[{place}]") for place, one in enumerate(first)]
        least, most = max(0, least - len(parts)), None if most is None else most - len(parts)
        if items is False or (parts and "items" not in schema and least == 0):
            most = 0
        if most == 0 and least > 0:
            raise Unenforceable(where, "minItems", "is more than there may be items")
        if most == 0:
            inner = ' ws "," ws '.join(parts)
            return f'"[" ws {inner + " ws " if inner else ""}"]"'
        item = self._rule("item", self._of(items, f"{_under(where)}items"))
        if parts:
            inner = ' ws "," ws '.join(parts)
            return f'"[" ws {inner} (ws "," ws {item}){_times(least, most)} ws "]"'
        more = f'{item} (ws "," ws {item}){_times(max(0, least - 1), None if most is None else most - 1)}'
        return f'"[" ws {more if least else f"({more})?"} ws "]"'

    def _object(self, schema: Mapping[str, Any], where: str) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping):
            raise Unenforceable(where, "properties", "must be an object of schemas")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise Unenforceable(where, "required", "must be a list of names")
        extra = schema.get("additionalProperties", schema.get("unevaluatedProperties", True))
        undeclared = [name for name in dict.fromkeys(required) if name not in properties]
        if undeclared and extra is False:
            raise Unenforceable(where, "required", f"names {undeclared[0][:60]!r}, which additionalProperties forbids")
        members = dict(properties) | {name: extra for name in undeclared}
        explicit = "additionalProperties" in schema or not members
        extra = extra if explicit else False
        _check_counts(schema, required, members, extra, where)
        return self._members(members, set(required), extra, where)

    def _members(self, members: Mapping[str, Any], required: set[str], extra: Any, where: str) -> str:
        """Members in their order; after those that were left out as well as after those that were written."""
        after, at_start = self._extra_members(members, extra, where)
        for name, schema in reversed(list(members.items())):
            inside = f"{_under(where)}properties.{name[:60]}"
            if schema is False and name not in required:
                continue
            value = self._rule("member", self._of(schema, inside))
            written = f'{quoted(json.dumps(name, ensure_ascii=False))} ws ":" ws {value}'
            if name in required:
                at_start, after = f"{written} {after}", self._rule("rest", f'ws "," ws {written} {after}')
            else:
                at_start = self._rule("first", f"{written} {after} | {at_start}")
                after = self._rule("rest", f'(ws "," ws {written})? {after}')
        return f'"{{" ws {at_start} ws "}}"'

    def _extra_members(self, members: Mapping[str, Any], extra: Any, where: str) -> tuple[str, str]:
        """Members of other names: what stands for them behind others, and alone."""
        if extra is False:
            return '""', '""'
        value = self._rule("extra", self._of(extra, f"{_under(where)}additionalProperties"))
        key = self._rule("name", f'"\\"" {_other_names(list(members))} "\\""') if members else "string"
        one = f'{key} ws ":" ws {value}'
        return self._rule("others", f'(ws "," ws {one})*'), self._rule("alone", f'({one} (ws "," ws {one})*)?')

    def _rule(self, kind: str, text: str) -> str:
        """A name for a part, unless it is a name already."""
        if text.isidentifier() or text == '""':
            return text
        name = self._new(kind)
        self._rules[name] = text
        return name

    def _new(self, kind: str) -> str:
        if len(self._rules) >= MOST_RULES:
            raise Unenforceable("", "", "has too many parts")
        name = f"{kind}-{len(self._rules)}"
        self._rules[name] = ""
        return name


_EVERYWHERE = {"not", "if", "then", "else", "dependentSchemas", "$dynamicRef", "unevaluatedItems"}


def _kinds(schema: Mapping[str, Any], where: str) -> list[str]:
    given = schema.get("type")
    if given is None:
        guessed = [kind for kind in ("object", "array", "string", "number") if _BY_TYPE[kind] & set(schema)]
        if not guessed:
            raise Unenforceable(where, next(iter(schema)), "is not enforced")
        return guessed[:1]
    kinds = given if isinstance(given, list) else [given]
    if not kinds:
        raise Unenforceable(where, "type", "has no types")
    for kind in kinds:
        if kind not in TYPES:
            raise Unenforceable(where, "type", "is none of " + ", ".join(TYPES))
    return [kind for kind in dict.fromkeys(kinds) if not (kind == "integer" and "number" in kinds)]


def _of_values(schema: Mapping[str, Any], where: str) -> str:
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    if not isinstance(values, list) or not values:
        raise Unenforceable(where, "enum", "has no values")
    if "const" in schema:
        values = [value for value in values if _same(value, schema["const"])]
    for key in schema:
        if key not in ("type", "enum", "const"):
            raise Unenforceable(where, key, "is not enforced together with enum or const")
    if "type" in schema:
        kinds = _kinds(schema, where)
        values = [value for value in values if any(is_of(value, kind) for kind in kinds)]
    if not values:
        raise Unenforceable(where, "enum" if "enum" in schema else "const", "has no value of its type")
    return f"({' | '.join(quoted(json.dumps(value, ensure_ascii=False)) for value in values)})"


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def is_of(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a type."""
    match kind:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "integer":
            return isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
        case _:
            return isinstance(value, int | float) and not isinstance(value, bool)


def _check_bounds(schema: Mapping[str, Any], where: str) -> bool:
    """Whether a number has bounds; raises Unenforceable for one that is no number."""
    found = [key for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum") if key in schema]
    for key in found:
        if not is_of(schema[key], "number"):
            raise Unenforceable(where, key, "must be a number")
        if abs(schema[key]) > 10**15:
            raise Unenforceable(where, key, "is beyond what is enforced")
    return bool(found)


def _check_counts(
    schema: Mapping[str, Any], required: list[str], members: Mapping[str, Any], extra: Any, where: str
) -> None:
    """How many members there are is not counted, so that it must follow from the rest."""
    least, most = _sizes(schema, "minProperties", "maxProperties", where)
    if least > len(set(required)):
        raise Unenforceable(where, "minProperties", "is not enforced beyond the required members")
    if most is not None and (extra is not False or most < len(members)):
        raise Unenforceable(where, "maxProperties", "is not enforced")


def _sizes(schema: Mapping[str, Any], least: str, most: str, where: str) -> tuple[int, int | None]:
    for key in (least, most):
        if key in schema and not (is_of(schema[key], "integer") and 0 <= schema[key] <= MOST_REPEATS):
            raise Unenforceable(where, key, f"must be a whole number from 0 to {MOST_REPEATS}")
    low, high = int(schema.get(least, 0)), int(schema[most]) if most in schema else None
    if high is not None and low > high:
        raise Unenforceable(where, least, f"is {low}, above {most} {high}")
    return low, high


def _pattern(pattern: Any, where: str) -> str:
    if not isinstance(pattern, str):
        raise Unenforceable(where, "pattern", "must be a text")
    excess = excess_of_pattern(pattern)
    if excess is not None:
        raise Unenforceable(where, "pattern", excess)
    try:
        return grammar_of_pattern(pattern)
    except NoGrammar as error:
        raise Unenforceable(where, "pattern", str(error)) from None


def _other_names(names: list[str]) -> str:
    """Texts that are none of these names. They are written without escapes, so that no name comes back in disguise."""
    return _other_than([name for name in names if "\\" not in json.dumps(name, ensure_ascii=False)], "")


def _other_than(names: list[str], begun: str) -> str:
    """What may follow what has begun, of a text that is none of the names."""
    following = sorted({name[len(begun)] for name in names if name.startswith(begun) and len(name) > len(begun)})
    excluded = "".join(f"\\x{ord(one):02X}" if ord(one) <= 0xFF else f"\\U{ord(one):08X}" for one in following)
    plain = f'[^"\\\\\\x00-\\x1F\\x7F{excluded}]'
    parts = [f'{plain} [^"\\\\\\x00-\\x1F\\x7F]*']
    parts += [f"{quoted(one)} ({_other_than(names, begun + one)})" for one in following]
    if begun not in names:
        parts.append('""')
    return f"({' | '.join(parts)})" if not begun else " | ".join(parts)


def _times(least: int, most: int | None) -> str:
    if most is None:
        return "*" if least == 0 else f"{{{least},}}"
    return f"{{{least},{most}}}"


def _under(where: str) -> str:
    return f"{where}." if where else ""


def _for(kinds: list[str]) -> str:
    return f" for the type {kinds[0]}" if len(kinds) == 1 else ""
