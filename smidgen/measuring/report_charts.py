"""Charts of the report, geometry only: where the bytes went, how KL divergence is spread, by how much scores changed.

The template page/charts.j2 draws them as SVG in units of CSS pixels, narrow enough for a phone at full size. Each has
a title and a description that says the same in words, for people who hear the page.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smidgen.measuring import parts
from smidgen.measuring.figures import number, percent, size, whole

WIDTH = 342
_EDGE = 6  # free space at both ends, for what is written there
_STACK_LINE, _STACK_BAR = 46, 22
_SPREAD_TOP, _SPREAD_HEIGHT, _AXIS = 46, 110, 30
_ROW, _LETTER = 12, 6.5  # of the words at a figure: height, and width with some to spare
_FOREST_LINE, _FOREST_AXIS = 36, 24
_LABEL_LETTERS = 40
_MOST_TICKS = 6
_SURE_LINE, _SURE_BAR, _SURE_LONGEST = 38, 14, 250


@dataclass(frozen=True)
class Piece:
    """A part of a bar.  place: of its part among all, for its colour.  about: what it says when pointed at."""

    x: float
    width: float
    place: int
    about: str


@dataclass(frozen=True)
class Stack:
    """One bar of pieces. y: of its label's foot."""

    label: str
    y: float
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class StackChart:
    """Two bars of one scale.  rows: name of each part, bytes before and after."""

    height: float
    bar: float
    stacks: tuple[Stack, ...]
    rows: tuple[tuple[str, int, int], ...]
    description: str


def stack_chart(by_part: Mapping[str, Mapping[str, int]]) -> StackChart:
    """Bytes of each part, original above cut. by_part: as in card.json."""
    found = parts.rows(by_part)
    sides = [("original", [before for _, before, _ in found]), ("cut", [after for _, _, after in found])]
    longest = max(sum(nbytes) for _, nbytes in sides) or 1
    stacks = []
    for line, (who, nbytes) in enumerate(sides):
        pieces, at = [], 0.0
        for place, ((name, _, _), count) in enumerate(zip(found, nbytes, strict=True)):
            width = count / longest * WIDTH
            if count:
                pieces.append(Piece(at, width, place, f"{name}, {who}: {size(count)}"))
            at += width
        stacks.append(Stack(f"{who}: {size(sum(nbytes))}", _STACK_LINE * line + 14, tuple(pieces)))
    said = "; ".join(f"{name}: {size(before)} before, {size(after)} after" for name, before, after in found)
    return StackChart(_STACK_LINE * 2, _STACK_BAR, tuple(stacks), tuple(found), f"{said}.")


@dataclass(frozen=True)
class Column:
    """A column of a histogram, downwards from y."""

    x: float
    y: float
    width: float
    height: float
    about: str


@dataclass(frozen=True)
class Mark:
    """A line at a figure, with words. y: of their foot.  anchor: which end of the words is at the line."""

    x: float
    y: float
    words: str
    anchor: str


@dataclass(frozen=True)
class SpreadChart:
    """How many tokens differ by how much.  foot: of the columns.  floor: from where to where noise alone reaches."""

    height: float
    foot: float
    columns: tuple[Column, ...]
    marks: tuple[Mark, ...]
    floor: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]
    description: str


def spread_chart(text: Mapping[str, Any], floor: Mapping[str, Any] | None) -> SpreadChart | None:
    """The KL divergence of all tokens of a text, on a logarithmic axis; None for cards that do not have it.

    floor: the original against itself in 16 bits; None where that was not measured.
    """
    histogram = text.get("kl_histogram")
    if not histogram or not sum(histogram["counts"]):
        return None
    edges, counts = _without_empty_ends(histogram["edges"], histogram["counts"], floor)
    low, high = math.log10(edges[0]), math.log10(edges[-1])

    def across(nats: float) -> float:
        share = (math.log10(min(max(nats, edges[0]), edges[-1])) - low) / (high - low)
        return _EDGE + share * (WIDTH - 2 * _EDGE)

    foot, most, total = _SPREAD_TOP + _SPREAD_HEIGHT, max(counts), sum(counts)
    columns = tuple(
        Column(
            across(least), foot - _SPREAD_HEIGHT * count / most, across(greatest) - across(least),
            _SPREAD_HEIGHT * count / most,
            f"{number(least, 2)} to {number(greatest, 2)} nats: {whole(count)} tokens, {percent(count / total)}",
        )
        for least, greatest, count in zip(edges, edges[1:], counts, strict=False)
    )  # fmt: skip
    marks = [("median", text["kl_median"]), ("mean", text["kl_mean"]), ("p99", text["kl_p99"])]
    bounds = [] if floor is None else [("floor, mean", floor["kl_mean"]), ("floor, p99", floor["kl_p99"])]
    ticks = tuple(
        (across(10.0**power), number(10.0**power, 1)) for power in range(math.ceil(low - 1e-9), math.floor(high) + 1)
    )
    every = max(1, math.ceil(len(ticks) / _MOST_TICKS))
    said = ", ".join(f"{name} {number(nats)}" for name, nats in [*marks, *bounds])
    return SpreadChart(
        foot + _AXIS, foot, columns,
        _apart([(across(nats), f"{name} {number(nats, 2)}") for name, nats in marks]),
        tuple(_mark(across(nats), 0, f"{name} {number(nats, 2)}") for name, nats in bounds),
        ticks[::every],
        f"KL divergence of {whole(total)} tokens in nats, on a logarithmic axis: {said}.",
    )  # fmt: skip


def _without_empty_ends(
    edges: Sequence[float], counts: Sequence[int], floor: Mapping[str, Any] | None
) -> tuple[list[float], list[int]]:
    """The bins from the first to the last that has something, the floor's figures among them."""
    seen = [place for place, count in enumerate(counts) if count]
    if floor is not None:
        for nats in (floor["kl_mean"], floor["kl_p99"]):
            seen.append(sum(edge <= nats for edge in edges[1:-1]))
    first, last = min(seen), max(seen)
    return list(edges[first : last + 2]), list(counts[first : last + 1])


def _mark(x: float, y: float, words: str, room: float = WIDTH) -> Mark:
    """Words to the right of the line, or to its left where they would come further than `room`."""
    return Mark(x, y, words, "end" if x + _LETTER * len(words) > room else "start")


def _apart(lines: Sequence[tuple[float, str]]) -> tuple[Mark, ...]:
    """Marks in rows of their own, in the order given; no line crosses the words of another.

    A line goes down from its row. So words to the left of their lines come first, the rightmost on top; then words to
    the right, the leftmost on top, which end before the lines of the others.
    """
    left: list[tuple[int, Mark]] = []
    right: list[tuple[int, Mark]] = []
    room: float = WIDTH
    for place in sorted(range(len(lines)), key=lambda place: lines[place], reverse=True):
        x, words = lines[place]
        mark = _mark(x, 0, words, room)
        if mark.anchor == "end":
            room = x
            left.append((place, mark))
        else:
            right.insert(0, (place, mark))
    rows = enumerate([*left, *right])
    placed = {place: replace(mark, y=_ROW * (row + 1)) for row, (place, mark) in rows}
    return tuple(placed[place] for place in range(len(lines)))


@dataclass(frozen=True)
class SureBar:
    """KL of the tokens at which the original was so sure. y: of its label's foot."""

    label: str
    y: float
    length: float
    words: str


@dataclass(frozen=True)
class SureChart:
    height: float
    bar: float
    bars: tuple[SureBar, ...]
    description: str


def sure_chart(text: Mapping[str, Any]) -> SureChart | None:
    """KL by how sure the original was; None for cards that do not have it."""
    buckets = [bucket for bucket in text.get("by_sureness", ()) if bucket["tokens"]]
    if not buckets:
        return None
    longest = max(bucket["kl_mean"] for bucket in buckets) or 1.0
    bars = tuple(
        SureBar(
            f"{100 * bucket['least']:.0f} to {100 * bucket['most']:.0f}% sure: {whole(bucket['tokens'])} tokens, "
            f"{percent(bucket['same_top1'])} the same next token",
            _SURE_LINE * line + 13, bucket["kl_mean"] / longest * _SURE_LONGEST, number(bucket["kl_mean"]),
        )
        for line, bucket in enumerate(buckets)
    )  # fmt: skip
    said = "; ".join(f"{bar.label}, KL {bar.words}" for bar in bars)
    return SureChart(_SURE_LINE * len(bars), _SURE_BAR, bars, f"{said}.")


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval. weak: it says little.  words: the same as people read it."""

    label: str
    value: float
    low: float
    high: float
    words: str
    weak: bool = False


@dataclass(frozen=True)
class ForestLine:
    """One estimate. y: of its label's foot.  at: of its middle; x, first, last: of the figure and its interval."""

    label: str
    words: str
    y: float
    at: float
    x: float
    first: float
    last: float
    weak: bool


@dataclass(frozen=True)
class ForestChart:
    """Estimates one below the other.  zero: where no difference is.  band: where noise alone may reach, from zero."""

    height: float
    foot: float
    zero: float
    band: float
    lines: tuple[ForestLine, ...]
    ticks: tuple[tuple[float, str], ...]
    description: str


def forest_chart(estimates: Sequence[Estimate], floor: float | None = None) -> ForestChart | None:
    """All estimates on one axis that has zero in it; None where there are none.

    floor: up to where a figure is noise.
    """
    if not estimates:
        return None
    least = min(0.0, *(one.low for one in estimates))
    most = max(0.0, floor or 0.0, *(one.high for one in estimates))
    if most == least:
        most = least + 1.0
    step = tick_step(least, most)
    first, last = math.floor(least / step), math.ceil(most / step)

    def across(value: float) -> float:
        share = (value / step - first) / (last - first)
        return 2 * _EDGE + share * (WIDTH - 4 * _EDGE)

    foot = _FOREST_LINE * len(estimates) + 2
    lines = tuple(
        ForestLine(
            _short(one.label), one.words, _FOREST_LINE * place + 13, _FOREST_LINE * place + 24, across(one.value),
            across(one.low), across(one.high), one.weak,
        )
        for place, one in enumerate(estimates)
    )  # fmt: skip
    signed = "+" if least < 0 else ""
    ticks = tuple((across(step * place), f"{step * place:{signed if place else ''}g}".replace("-", "−"))
                  for place in range(first, last + 1))  # fmt: skip
    said = "; ".join(f"{one.label}: {one.words}{' (says little)' if one.weak else ''}" for one in estimates)
    return ForestChart(
        foot + _FOREST_AXIS, foot, across(0.0), across(floor or 0.0), lines, ticks, f"{said}."
    )  # fmt: skip


def _short(label: str) -> str:
    """Without what is in brackets, and not longer than there is room beside the words."""
    label = label.partition(" (")[0]
    return label if len(label) <= _LABEL_LETTERS else f"{label[: _LABEL_LETTERS - 1]}…"


def tick_step(low: float, high: float) -> float:
    """The distance of at most six round numbers that reach from `low` to `high`."""
    power = 10.0 ** math.floor(math.log10((high - low) / _MOST_TICKS))
    steps = (power * factor for factor in (1, 2, 5, 10, 20))
    return next(step for step in steps if math.ceil(high / step) - math.floor(low / step) <= _MOST_TICKS)
