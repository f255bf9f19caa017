"""The methods of texts that templates may call, and formatting: each paid for by what it reads and what it makes."""

import re
from collections.abc import Callable, Iterable, Mapping
from sys import getsizeof
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedFormatter
from markupsafe import Markup

from smidgen.model.templates.budget import (
    LARGEST_WIDTH,
    LONGEST_TEXT,
    MOST_PIECES,
    STEP,
    counted,
    fitting,
    spend,
    text_of,
    weigh,
)

if TYPE_CHECKING:
    from smidgen.model.templates.sandbox import Sandbox

Method = Callable[..., Any]

_ESCAPED = 5  # times as long as before, where a text that is marked as safe takes another in
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_NEVER = len(str(LARGEST_WIDTH)) + 1  # digits of a width that is refused
_LONGEST_FIELD = 200  # characters that name what a format puts in
_WIDE = rf"[-#0 +]*(?:\*|\d{{{_NEVER}}}|\d{{0,{_NEVER}}}\.(?:\*|\d{{{_NEVER}}}))"
_WIDTH = re.compile("%" + _WIDE)
_WIDTH_BEHIND_NAMES = re.compile("[%)]" + _WIDE)  # %(name)5d; where a name ends is not looked at more closely
_DIGITS = re.compile(rf"\d{{{_NEVER}}}")


def percent(form: str, values: Any) -> str:
    """`form % values`."""
    if (_WIDTH_BEHIND_NAMES if "%(" in form else _WIDTH).search(form):
        raise SecurityError(f"it formats to a width of more than {LARGEST_WIDTH}, or to one that it computes")
    spend(form.count("%") * _ESCAPED * (weigh(values) + LARGEST_WIDTH) + getsizeof(form))
    return fitting(form % values)


class _Formatter(SandboxedFormatter):
    """The sandbox's, which looks fields up as templates do, with bounded widths."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        if len(field_name) > _LONGEST_FIELD:
            raise SecurityError(f"it formats a field with a name of more than {_LONGEST_FIELD} characters")
        return super().get_field(field_name, args, kwargs)

    def convert_field(self, value: Any, conversion: Any) -> Any:
        text_of(value)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        if _DIGITS.search(format_spec):
            raise SecurityError(f"it formats to a width of more than {LARGEST_WIDTH}")
        spend(LARGEST_WIDTH + len(text_of(value)))
        return super().format_field(value, format_spec)


def _format(environment: "Sandbox", form: str, *args: Any, **kwargs: Any) -> str:
    if isinstance(form, Markup):
        raise SecurityError("it formats a text that is marked as safe")
    spend(getsizeof(form) + 4 * STEP * (form.count("{") + form.count("}")))
    return fitting(_Formatter(environment).vformat(form, args, kwargs))


def _linear(name: str) -> Method:
    """A method that goes through the text once, and through what it is given."""

    def run(text: str, *args: Any) -> Any:
        spend(3 * (getsizeof(text) + sum(weigh(value) for value in args)))
        return fitting(getattr(text, name)(*args))

    return run


def _strip(name: str) -> Method:
    def run(text: str, chars: str | None = None) -> str:
        spend(getsizeof(text) * (1 if chars is None else max(1, len(chars))))
        return getattr(text, name)(chars)

    return run


def search_cost(text: str, part: str) -> int:
    """What finding a part costs at worst: CPython looks in linear time, but for short texts and parts."""
    return getsizeof(text) + getsizeof(part) + min(len(text), 30_000) * min(len(part), 100)


def _find(name: str) -> Method:
    def run(text: str, part: str, *bounds: int) -> Any:
        spend(search_cost(text, part))
        return getattr(text, name)(part, *bounds)

    return run


def _find_backwards(name: str) -> Method:
    """CPython looks backwards in quadratic time."""

    def run(text: str, part: str, *bounds: int) -> Any:
        spend(getsizeof(text) * max(1, len(part)))
        return getattr(text, name)(part, *bounds)

    return run


def _split(name: str) -> Method:
    def run(text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
        spend(getsizeof(text) * max(1, len(sep or "")) if name == "rsplit" else search_cost(text, sep or " "))
        most = MOST_PIECES if maxsplit < 0 else min(maxsplit, MOST_PIECES)
        pieces = getattr(text, name)(sep, most)
        if len(pieces) > MOST_PIECES:
            raise SecurityError(f"it splits a text into more than {MOST_PIECES} pieces")
        spend(2 * STEP * len(pieces))
        return pieces

    return run


def split_lines(text: str, keepends: bool = False) -> list[str]:
    """`text.splitlines(keepends)`."""
    spend(len(_LINE_ENDS) * getsizeof(text))
    lines = sum(text.count(end) for end in _LINE_ENDS)
    if lines > MOST_PIECES:
        raise SecurityError(f"it splits a text into more than {MOST_PIECES} lines")
    spend(2 * STEP * lines)
    return text.splitlines(keepends)


def join(separator: str, values: Iterable[Any]) -> str:
    """`separator.join(values)`."""
    pieces = list(counted(values))
    spend(_ESCAPED * (sum(getsizeof(piece) for piece in pieces) + getsizeof(separator) * len(pieces)))
    return fitting(separator.join(pieces))


def replace(text: str, old: str, new: str, count: int = -1) -> str:
    """`text.replace(old, new, count)`."""
    spend(search_cost(text, old))
    found = text.count(old)
    times = found if count < 0 else min(found, count)
    spend(_ESCAPED * (getsizeof(text) + times * getsizeof(new)))
    return fitting(text.replace(old, new, count))


def _pad(name: str) -> Method:
    def run(text: str, width: int, *fill: str) -> str:
        if width > LONGEST_TEXT:
            raise SecurityError(f"it pads a text to more than {LONGEST_TEXT} characters")
        spend(getsizeof(text) + 4 * max(width, 0))
        return getattr(text, name)(width, *fill)

    return run


def _expand_tabs(text: str, tabsize: int = 8) -> str:
    spend(4 * (getsizeof(text) + text.count("\t") * max(tabsize, 0)))
    return fitting(text.expandtabs(tabsize))


_LINEAR = (
    "upper", "lower", "capitalize", "title", "swapcase", "casefold", "startswith", "endswith", "removeprefix",
    "removesuffix", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric",
    "isprintable", "isspace", "istitle", "isupper",
)  # fmt: skip

#: What templates may call on a text, by name. Each takes the text first.
METHODS: Mapping[str, Method] = {
    **{name: _linear(name) for name in _LINEAR},
    **{name: _strip(name) for name in ("strip", "lstrip", "rstrip")},
    **{name: _find(name) for name in ("find", "index", "count", "partition")},
    **{name: _find_backwards(name) for name in ("rfind", "rindex", "rpartition")},
    **{name: _split(name) for name in ("split", "rsplit")},
    **{name: _pad(name) for name in ("ljust", "rjust", "center", "zfill")},
    "splitlines": split_lines,
    "join": join,
    "replace": replace,
    "expandtabs": _expand_tabs,
}

#: The same, for those that need the sandbox: they take it before the text.
METHODS_IN_SANDBOX: Mapping[str, Method] = {"format": _format}
