"""The filters and tests of templates: those that chat templates use, each paid for before it runs.

They do what Jinja's do. What is missing here is for web pages (`urlize`, `wordwrap`, `striptags`, `xmlattr`,
`urlencode`, `pprint`, `filesizeformat`, `random`): slow expressions over texts that no chat template needs.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from sys import getsizeof
from typing import TYPE_CHECKING, Any

from jinja2 import filters, pass_environment, tests
from jinja2.exceptions import FilterArgumentError, SecurityError
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.filters import ignore_case, make_attrgetter
from jinja2.tests import TESTS as JINJA_TESTS

from smidgen.model.templates import text
from smidgen.model.templates.budget import (
    LARGEST_WIDTH,
    LONGEST_RANGE,
    MOST_PIECES,
    STEP,
    counted,
    fitting,
    key,
    spend,
    text_of,
    weigh,
)

if TYPE_CHECKING:
    from smidgen.model.templates.sandbox import Sandbox

Filter = Callable[..., Any]

_LONGEST_NUMBER = 400  # characters that are read as a number
_LONGEST_PATH = 8  # dots and commas in the name of an attribute of an attribute
_CALL = 8  # steps that a call takes at most
_LONGEST_SEPARATOR = 16
_MOST_DIGITS = 30  # behind the point


def _passed(function: Filter) -> int:
    """How many arguments Jinja puts before the template's own."""
    return 1 if hasattr(function, "jinja_pass_arg") else 0


def _through(function: Filter, factor: int) -> Filter:
    """A filter that goes `factor` times through all it is given."""
    skipped = _passed(function)

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        size = sum(weigh(value) for value in (*args[skipped:], *kwargs.values()) if not _is_lazy(value))
        spend((factor - 1) * size)
        if args[skipped:] and _is_lazy(args[skipped]):
            values = list(counted(args[skipped]))
            spend((factor - 1) * weigh(values))
            args = (*args[:skipped], values, *args[skipped + 1 :])
        return fitting(function(*args, **kwargs))

    return run


def _lazily(function: Filter) -> Filter:
    """A filter that takes elements and gives elements, one by one."""
    skipped = _passed(function)

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        _refuse_long_paths(*args[skipped + 1 :], kwargs.get("attribute"))
        return counted(function(*args, **kwargs), _CALL)

    return run


def _is_lazy(value: Any) -> bool:
    return isinstance(value, Iterator)


def _refuse_long_paths(*values: Any) -> None:
    for value in values:
        if isinstance(value, str) and value.count(".") + value.count(",") > _LONGEST_PATH:
            raise SecurityError(f"it looks up attributes of attributes, more than {_LONGEST_PATH} at once")


def _by_attribute(function: Filter, factor: int) -> Filter:
    """The same for filters that order or group by an attribute."""
    through = _through(function, factor)
    skipped = _passed(function)

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        _refuse_long_paths(*args[skipped + 1 :], kwargs.get("attribute"))
        return through(*args, **kwargs)

    return run


def _text(value: Any) -> str:
    """A value as Jinja's filters of texts take it: a text stays what it is."""
    return value if isinstance(value, str) else text_of(value)


@pass_environment
def _join(environment: "Sandbox", value: Any, d: Any = "", attribute: Any = None) -> str:
    _refuse_long_paths(attribute)
    values: Iterable[Any] = counted(value)
    if attribute is not None:
        values = counted(map(make_attrgetter(environment, attribute), values), _CALL)
    return text.join(text_of(d), [text_of(item) for item in values])


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    return text.replace(text_of(value), text_of(old), text_of(new), -1 if count is None else count)


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise FilterArgumentError("can't handle positional and keyword arguments at the same time")
    return text.percent(_text(value), kwargs or args)


def _center(value: Any, width: int = 80) -> str:
    return text.METHODS["center"](_text(value), width)


def _trim(value: Any, chars: str | None = None) -> str:
    return text.METHODS["strip"](_text(value), chars)


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    inset = " " * min(width, LARGEST_WIDTH + 1) if isinstance(width, int) else width
    if len(inset) > LARGEST_WIDTH:
        raise SecurityError(f"it indents by more than {LARGEST_WIDTH}")
    lines = len(text.split_lines(value))
    spend(5 * (getsizeof(value) + (lines + 1) * getsizeof(inset)))
    return fitting(filters.do_indent(value, width, first, blank))


def _int(value: Any, default: int = 0, base: int = 10) -> int:
    return fitting(filters.do_int(_short(value), default, base))


def _float(value: Any, default: float = 0.0) -> float:
    return filters.do_float(_short(value), default)


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LONGEST_NUMBER:
        raise SecurityError(f"it reads a number from more than {_LONGEST_NUMBER} characters")
    return value


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    if abs(precision) > _MOST_DIGITS:
        raise SecurityError(f"it rounds to more than {_MOST_DIGITS} digits")
    return filters.do_round(value, precision, method)


def _list(value: Any) -> list[Any]:
    if isinstance(value, str) and len(value) > MOST_PIECES:
        raise SecurityError(f"it splits a text into more than {MOST_PIECES} characters")
    return list(counted(value, 2))


def _reverse(value: Any) -> Any:
    if isinstance(value, str):
        spend(getsizeof(value))
        return value[::-1]
    return counted(filters.do_reverse(list(counted(value)) if _is_lazy(value) else value))


@pass_environment
def _attr(environment: "Sandbox", value: Any, name: Any) -> Any:
    return environment.attribute(value, text_of(name))


@pass_environment
def _sum(environment: "Sandbox", iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    _refuse_long_paths(attribute)
    values: Iterable[Any] = counted(iterable)
    if attribute is not None:
        values = counted(map(make_attrgetter(environment, attribute), values), _CALL)
    total = start
    for value in values:
        if isinstance(total, str):
            raise TypeError("sum() can't sum strings [use ''.join(seq) instead]")
        total = environment.binary("+", total, value)
    return total


@pass_environment
def _unique(environment: "Sandbox", value: Any, case_sensitive: bool = False, attribute: Any = None) -> Iterator[Any]:
    _refuse_long_paths(attribute)
    getter = make_attrgetter(environment, attribute, None if case_sensitive else ignore_case)
    seen: set[Any] = set()
    for item in counted(value):
        found = key(getter(item))
        spend(getsizeof(found) + _CALL * STEP)
        if found not in seen:
            seen.add(found)
            yield item


def _batch(value: Any, linecount: int, fill_with: Any = None) -> Iterator[Any]:
    return _in_parts(filters.do_batch, value, linecount, fill_with)


def _slice(value: Any, slices: int, fill_with: Any = None) -> Iterator[Any]:
    return _in_parts(filters.sync_do_slice, value, slices, fill_with)


def _in_parts(function: Filter, value: Any, number: int, fill_with: Any) -> Iterator[Any]:
    if number > LONGEST_RANGE:
        raise SecurityError(f"it asks for more than {LONGEST_RANGE} parts")
    for part in function(_list(value), number, fill_with):
        spend(STEP * (len(part) + 1))
        yield part


def to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As transformers has it: HTML characters stay. Paid for piece by piece, so a value may be of any shape."""
    longest = [indent if isinstance(indent, int) else len(indent or ""), *(len(part) for part in separators or ())]
    if max(longest) > _LONGEST_SEPARATOR:
        raise SecurityError(f"it separates JSON by more than {_LONGEST_SEPARATOR} characters")
    pieces: list[str] = []
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    for piece in encoder.iterencode(value):
        spend(4 * STEP + getsizeof(piece))
        pieces.append(piece)
    return fitting("".join(pieces))


#: How often each goes through what it is given: escaping makes texts longer, sorting compares over and over.
_THROUGH = {
    "abs": 1, "upper": 3, "lower": 3, "capitalize": 3, "title": 16, "string": 3, "safe": 2, "escape": 6, "e": 6,
    "forceescape": 6, "wordcount": 32, "truncate": 4,
}  # fmt: skip
_ORDERED = {"sort": 16, "min": 2, "max": 2, "dictsort": 16, "groupby": 16}
_LAZY = ("map", "select", "reject", "selectattr", "rejectattr")
_PLAIN = ("count", "length", "d", "default", "first", "last", "items")

FILTERS: Mapping[str, Filter] = {
    **{name: JINJA_FILTERS[name] for name in _PLAIN},
    **{name: _through(JINJA_FILTERS[name], factor) for name, factor in _THROUGH.items()},
    **{name: _by_attribute(JINJA_FILTERS[name], factor) for name, factor in _ORDERED.items()},
    **{name: _lazily(JINJA_FILTERS[name]) for name in _LAZY},
    "attr": _attr,
    "batch": _batch,
    "center": _center,
    "float": _float,
    "format": _format,
    "indent": _indent,
    "int": _int,
    "join": _join,
    "list": _list,
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "slice": _slice,
    "sum": _sum,
    "tojson": to_json,
    "trim": _trim,
    "unique": _unique,
}


def _compared(operator: str) -> Filter:
    @pass_environment
    def run(environment: "Sandbox", value: Any, other: Any) -> bool:
        return environment.compare(value, operator, other)

    return run


@pass_environment
def _odd(environment: "Sandbox", value: Any) -> bool:
    return environment.binary("%", value, 2) == 1


@pass_environment
def _even(environment: "Sandbox", value: Any) -> bool:
    return environment.binary("%", value, 2) == 0


@pass_environment
def _divisible_by(environment: "Sandbox", value: Any, num: Any) -> bool:
    return environment.binary("%", value, num) == 0


_COMPARISONS = {
    "eq": ("==", "eq", "equalto"), "ne": ("!=", "ne"), "gt": (">", "gt", "greaterthan"), "gteq": (">=", "ge"),
    "lt": ("<", "lt", "lessthan"), "lteq": ("<=", "le"), "in": ("in",),
}  # fmt: skip
_KINDS = (
    "defined", "undefined", "filter", "test", "none", "boolean", "false", "true", "integer", "float", "string",
    "mapping", "number", "sequence", "iterable", "callable", "sameas", "escaped",
)  # fmt: skip

TESTS: Mapping[str, Filter] = {
    **{name: JINJA_TESTS[name] for name in _KINDS},
    **{name: _compared(operator) for operator, names in _COMPARISONS.items() for name in names},
    "lower": _through(tests.test_lower, 2),
    "upper": _through(tests.test_upper, 2),
    "odd": _odd,
    "even": _even,
    "divisibleby": _divisible_by,
}
