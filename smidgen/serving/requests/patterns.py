"""Regular expressions of JSON schemas as rules of a grammar (GBNF), for the text between two quotes of JSON.

The grammar may allow less than the pattern (classes stay within ASCII, and leave out what JSON has to escape where
others remain), never more. What cannot be put that way is refused: looking ahead or back, references to groups, flags.
"""

import re
from collections.abc import Callable, Iterable
from re import _parser  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any

CHARACTER = (
    r'([^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" ([0-9a-cefA-CEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2})))'
)
_DIGITS, _SPACES = [(0x30, 0x39)], [(0x09, 0x0D), (0x20, 0x20)]
_WORDS = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_CATEGORIES = {"CATEGORY_DIGIT": _DIGITS, "CATEGORY_SPACE": _SPACES, "CATEGORY_WORD": _WORDS}
_LAST = 0x10FFFF
_TO_ESCAPE = [(0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF)]  # sorted
_SHORT = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '"', 0x5C: "\\"}
Ranges = list[tuple[int, int]]


class NoGrammar(ValueError):
    """A pattern that no grammar holds an answer to. The words follow "its pattern"."""


def grammar_of_pattern(pattern: str) -> str:
    """What stands for texts that the pattern is found in. Raises NoGrammar."""
    try:
        parsed = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise NoGrammar(f"cannot be read ({error})") from error
    if parsed.state.flags & ~re.UNICODE:
        raise NoGrammar("has flags, which are not enforced")
    steps = list(parsed)
    begins = bool(steps) and _is_at(steps[0], ("AT_BEGINNING", "AT_BEGINNING_STRING"))
    ends = len(steps) > begins and _is_at(steps[-1], ("AT_END", "AT_END_STRING"))
    inner = _sequence(steps[begins : len(steps) - ends])
    parts = ["" if begins else f"{CHARACTER}*", inner, "" if ends else f"{CHARACTER}*"]
    return " ".join(part for part in parts if part) or '""'


def _is_at(step: tuple[Any, Any], names: tuple[str, ...]) -> bool:
    return str(step[0]) == "AT" and str(step[1]) in names


def _sequence(steps: Iterable[tuple[Any, Any]]) -> str:
    return " ".join(_step(str(kind), value) for kind, value in steps) or '""'


def _step(kind: str, value: Any) -> str:
    if kind in _STEPS:
        return _STEPS[kind](value)
    told = {"ASSERT": "looks ahead or back", "ASSERT_NOT": "looks ahead or back", "GROUPREF": "refers to a group",
            "AT": "has ^, $ or \\b in its midst"}  # fmt: skip
    raise NoGrammar(f"{told.get(kind, 'has a part that is rarely used')}, which is not enforced")


def _group(value: Any) -> str:
    _, added, removed, steps = value
    if added or removed:
        raise NoGrammar("has flags, which are not enforced")
    return f"({_sequence(steps)})"


def _branches(value: Any) -> str:
    return f"({' | '.join(_sequence(branch) for branch in value[1])})"


def _repeat(value: Any) -> str:
    least, most, steps = value
    inner = _sequence(steps)
    bounds = f"{{{least},}}" if most == _parser.MAXREPEAT else f"{{{least},{most}}}"
    return f"({inner}){bounds}"


def _one_of(value: Any) -> str:
    negated = bool(value) and str(value[0][0]) == "NEGATE"
    ranges: Ranges = []
    for kind, inner in value[negated:]:
        match str(kind):
            case "LITERAL":
                ranges.append((inner, inner))
            case "RANGE":
                ranges.append(inner)
            case _:
                ranges += _category(str(inner))
    return _class(_without(ranges) if negated else ranges)


def _category(name: str) -> Ranges:
    if name in _CATEGORIES:
        return _CATEGORIES[name]
    positive = name.replace("_NOT_", "_")
    if positive not in _CATEGORIES:
        raise NoGrammar("has a class that is rarely used, which is not enforced")
    return _without([*_CATEGORIES[positive], (0x80, _LAST)])  # what is a digit or a letter beyond ASCII is debated


def _without(ranges: Ranges) -> Ranges:
    """All characters but these."""
    found, start = [], 0
    for first, last in sorted(ranges):
        if first > start:
            found.append((start, first - 1))
        start = max(start, last + 1)
    return [*found, (start, _LAST)] if start <= _LAST else found


def _class(ranges: Ranges) -> str:
    """A character of these that JSON shows as it is; where there is none, one that it escapes."""
    plain = [part for one in ranges for part in _shown_parts(*one)]
    if plain:
        return f"[{''.join(_bound(first) + ('' if first == last else '-' + _bound(last)) for first, last in plain)}]"
    escaped = [code for first, last in ranges for code in range(first, last + 1) if not 0xD800 <= code <= 0xDFFF]
    if not escaped:
        raise NoGrammar("has a class without characters")
    return f"({' | '.join(_literal(code) for code in escaped)})"


def _shown_parts(first: int, last: int) -> Ranges:
    found = []
    for low, high in _TO_ESCAPE:
        if first < low:
            found.append((first, min(last, low - 1)))
        first = max(first, high + 1)
        if first > last:
            return [part for part in found if part[0] <= part[1]]
    return [*found, (first, last)]


def _bound(code: int) -> str:
    """A character within brackets."""
    if code < 0x7F and (chr(code).isalnum() or chr(code) in " _"):
        return chr(code)
    return f"\\x{code:02X}" if code <= 0xFF else f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def _literal(code: int) -> str:
    """A character between quotes, as JSON writes it."""
    if code in _SHORT:
        written = f"\\{_SHORT[code]}"
    elif code < 0x20 or code == 0x7F or 0xD800 <= code <= 0xDFFF:
        written = f"\\u{code:04x}"
    else:
        written = chr(code)
    return quoted(written)


def quoted(text: str) -> str:
    """A text as a grammar writes one."""
    shown = (
        text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    )
    return f'"{shown}"'


_STEPS: dict[str, Callable[[Any], str]] = {
    "LITERAL": _literal,
    "NOT_LITERAL": lambda code: _class(_without([(code, code)])),
    "ANY": lambda _: _class(_without([(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)])),
    "IN": _one_of,
    "BRANCH": _branches,
    "SUBPATTERN": _group,
    "MAX_REPEAT": _repeat,
    "MIN_REPEAT": _repeat,
}
