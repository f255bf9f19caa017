"""Bounds of numbers as parts of a grammar (GBNF)."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

_MOST_DIGITS = 15  # beyond which a float is no longer exact
_FRACTION = f'("." [0-9]{{1,{_MOST_DIGITS}}})?'
_SOME_FRACTION = f'"." [0-9]{{0,{_MOST_DIGITS - 1}}} [1-9]'
_LARGEST = 10**_MOST_DIGITS - 1
INTEGER = f'"-"? ("0" | [1-9] [0-9]{{0,{_MOST_DIGITS - 1}}})'
NUMBER = f"{INTEGER} {_FRACTION} ([eE] [-+]? [0-9]{{1,2}})?"


def integers(schema: Mapping[str, Any]) -> str | None:
    """Whole numbers within the bounds of a schema; None where there are none."""
    least, most, above, below = _bounds(schema)
    if least is None and most is None:
        return INTEGER
    low = -_LARGEST if least is None else math.ceil(least) + (above and least == math.ceil(least))
    high = _LARGEST if most is None else math.floor(most) - (below and most == math.floor(most))
    return _span(max(low, -_LARGEST), min(high, _LARGEST))


def numbers(schema: Mapping[str, Any]) -> str | None:
    """Numbers within bounds that are whole; None where there are none, or where the bounds are not whole."""
    least, most, above, below = _bounds(schema)
    if least is None and most is None:
        return NUMBER
    if any(bound is not None and bound != int(bound) for bound in (least, most)):
        return None
    low = -_LARGEST if least is None else int(least)
    high = _LARGEST if most is None else int(most)
    parts = [
        *_up_from_zero(max(low, 0), high, above and low >= 0, below),
        *_down_from_zero(low, min(high, 0), above, below and high <= 0),
    ]
    return " | ".join(parts) if parts else None


def _up_from_zero(low: int, high: int, above: bool, below: bool) -> Iterator[str]:
    """Numbers from `low` to `high`, neither below 0."""
    if high < low:
        return
    if above and low < high:
        yield f"{_digits(low, low)} {_SOME_FRACTION}"
    first = low + 1 if above else low
    if first <= high - 1:
        yield f"({_digits(first, high - 1)}) {_FRACTION}"
    if not below and high >= first:
        yield _digits(high, high)


def _down_from_zero(low: int, high: int, above: bool, below: bool) -> Iterator[str]:
    """Numbers from `low` to `high`, neither above 0, and 0 itself left out."""
    if low >= 0:
        return
    for part in _up_from_zero(-high, -low, below or high == 0, above):
        yield f'"-" ({part})'


def _bounds(schema: Mapping[str, Any]) -> tuple[float | None, float | None, bool, bool]:
    """The bounds, and whether each is itself out of bounds."""
    lows = [(schema[key], key == "exclusiveMinimum") for key in ("minimum", "exclusiveMinimum") if key in schema]
    highs = [(schema[key], key == "exclusiveMaximum") for key in ("maximum", "exclusiveMaximum") if key in schema]
    low = max(lows, default=(None, False), key=lambda one: (one[0], one[1]))
    high = min(highs, default=(None, False), key=lambda one: (one[0], not one[1]))
    return low[0], high[0], low[1], high[1]


def _span(low: int, high: int) -> str | None:
    if low > high:
        return None
    parts = []
    if low < 0:
        parts.append(f'"-" ({_digits(max(1, -high), -low)})')
    if high >= 0:
        parts.append(_digits(max(low, 0), high))
    return " | ".join(parts)


def _digits(low: int, high: int) -> str:
    """Whole numbers from `low` to `high`, neither below 0."""
    parts = []
    for length in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        parts += _same_length(str(first), str(min(high, 10**length - 1)))
    return " | ".join(parts)


def _same_length(low: str, high: str) -> Iterator[str]:
    if low == high:
        yield f'"{low}"'
    elif set(low) == {"0"} and set(high) == {"9"}:
        yield f"[0-9]{{{len(low)}}}"
    elif len(low) == 1:
        yield f"[{low}-{high}]"
    elif low[0] == high[0]:
        yield f'"{low[0]}" ({" | ".join(_same_length(low[1:], high[1:]))})'
    else:
        rest = len(low) - 1
        first, last = int(low[0]), int(high[0])
        if low[1:] != "0" * rest:
            yield f'"{first}" ({" | ".join(_same_length(low[1:], "9" * rest))})'
            first += 1
        if high[1:] != "9" * rest:
            last -= 1
        if first <= last:
            yield f"[{first}-{last}] [0-9]{{{rest}}}"
        if high[1:] != "9" * rest:
            yield f'"{high[0]}" ({" | ".join(_same_length("0" * rest, high[1:]))})'
