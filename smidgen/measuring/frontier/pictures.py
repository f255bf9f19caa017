"""The pictures of a comparison, geometry only: each cut as a point, its size along, one of its figures up.

The template draws them as SVG in units of CSS pixels, narrow enough for a phone at full size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from smidgen.measuring.figures import number, size
from smidgen.measuring.report_charts import tick_step

WIDTH, HEIGHT = 342, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 14, 26
_ROOM, _DOT, _LETTER = 0.07, 5.0, 9.0  # beside the outermost points, as a share; sizes in pixels
_LEAST = 1e-6  # of a logarithmic axis
_PLACES = ((0, -9), (11, 4), (-11, 4), (0, 17), (11, -8), (-11, -8))  # of a letter, seen from its point
_BESIDE = (*_PLACES[1:3], *_PLACES[4:])  # where a bar is above and below
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_WORDS = 64.0  # width of the words at a rule


@dataclass(frozen=True)
class Point:
    """One cut. low, high: ends of the bar.  best: on the frontier of this picture.  about: when pointed at."""

    letter: str
    bytes: int
    value: float
    low: float | None
    high: float | None
    best: bool
    about: str


@dataclass(frozen=True)
class Dot:
    """Where a point is drawn. bar: y of its ends."""

    point: Point
    x: float
    y: float
    bar: tuple[float, float] | None
    letter_x: float
    letter_y: float


@dataclass(frozen=True)
class Rule:
    """A line across the picture. x, anchor: where its words stand, and which end of them is there."""

    y: float
    words: str
    x: float
    anchor: str


@dataclass(frozen=True)
class Plot:
    """rule: a line at a figure of the original.  path: through the points of the frontier."""

    title: str
    about: str
    dots: tuple[Dot, ...]
    path: str
    along: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    rule: Rule | None


class _Axis:
    """From figures to pixels. Logarithmic where all figures are far apart."""

    def __init__(self, values: Sequence[float], ends: tuple[float, float], logarithmic: bool) -> None:
        self._log, self._ends = logarithmic, ends
        low, high = (self._of(end(values)) for end in (min, max))
        room = (high - low or abs(low) or 1.0) * _ROOM
        self._low, self._high = low - room, high + room

    def __call__(self, value: float) -> float:
        share = (self._of(value) - self._low) / (self._high - self._low)
        first, last = self._ends
        return first + (last - first) * min(1.0, max(0.0, share))

    def _of(self, value: float) -> float:
        return math.log10(max(value, _LEAST)) if self._log else value

    def ticks(self, unit: float = 1.0) -> list[tuple[float, str]]:
        """Round figures within its ends, and how they are written, in units of `unit`."""
        if self._log:
            return [(value, f"{value:g}" if value >= 1e-4 else f"{value:.0e}") for value in self._powers()]
        step = tick_step(self._low, self._high)
        places = range(math.ceil(self._low / step), math.floor(self._high / step) + 1)
        digits = max(0, -math.floor(math.log10(step / unit) + 1e-9))
        return [(place * step, f"{place * step / unit:.{digits}f}") for place in places]

    def _powers(self) -> list[float]:
        """1 of each power, with 2 and 5 or more of each where these are few."""
        powers = range(math.floor(self._low), math.ceil(self._high) + 1)
        decades = self._high - self._low
        figures = (1,) if decades > 3 else (1, 2, 5) if decades > 0.7 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
        found = [figure * 10.0**power for power in powers for figure in figures]
        return [value for value in found if self._low <= math.log10(value) <= self._high]


def plot(
    title: str, points: Sequence[Point], *, logarithmic: bool = False, rule: tuple[float, str] | None = None
) -> Plot:
    """Sizes along, figures up. rule: a figure of the original, and what to call it; it is always within the picture."""
    values = [value for point in points for value in (point.value, point.low, point.high) if value is not None]
    if logarithmic:
        least = min((value for value in values if value > 0), default=_LEAST)
        values = [max(value, least) for value in values]
    values += [rule[0]] if rule else []
    along = _Axis([point.bytes for point in points], (LEFT, WIDTH - RIGHT), False)
    up = _Axis(values, (HEIGHT - BOTTOM, TOP), logarithmic)
    dots: list[Dot] = []
    places = [(along(point.bytes), up(point.value)) for point in points]
    for point, (x, y) in zip(points, places, strict=True):
        bar = None if point.low is None or point.high is None else (up(point.low), up(point.high))
        dots.append(Dot(point, x, y, bar, *_letter(x, y, bar, places, dots)))
    factor, name = next((factor, name) for factor, name in _UNITS if points[-1].bytes >= factor)
    return Plot(
        title, _about(title, points), tuple(dots), _path(dots),
        tuple((along(tick), f"{words} {name}") for tick, words in along.ticks(factor) if tick > 0),
        tuple((up(tick), words) for tick, words in up.ticks()),
        None if rule is None else _rule(up(rule[0]), rule[1], dots),
    )  # fmt: skip


def _rule(y: float, words: str, dots: Sequence[Dot]) -> Rule:
    """Its words stand at the right, at the left where points are there, and over the line where there is room."""
    near = [dot.x for dot in dots if abs(dot.y - y) < 2 * _LETTER or (dot.bar and dot.bar[1] - 4 < y < dot.bar[0] + 4)]
    left = any(x > WIDTH - RIGHT - _WORDS for x in near) and not any(x < LEFT + _WORDS for x in near)
    return Rule(y, words, LEFT + 2 if left else WIDTH - RIGHT, "start" if left else "end")


def _letter(
    x: float, y: float, bar: tuple[float, float] | None, points: Sequence[tuple[float, float]], drawn: Sequence[Dot]
) -> tuple[float, float]:
    """The first place beside a point that is on no other point or letter; the first of all where none is."""
    offered = _BESIDE if bar is not None and abs(bar[1] - bar[0]) > 3 * _DOT else _PLACES
    for across, down in offered:
        place = x + across, y + down
        middle = place[1] - _LETTER / 2 + 1
        free = all(
            math.hypot(place[0] - one, middle - other) > _DOT + 4 for one, other in points if (one, other) != (x, y)
        )
        taken = any(math.hypot(place[0] - dot.letter_x, place[1] - dot.letter_y) < _LETTER for dot in drawn)
        if free and not taken and LEFT < place[0] < WIDTH - 4 and TOP - 6 < middle < HEIGHT - BOTTOM:
            return place
    return x + offered[0][0], y + offered[0][1]


def _path(dots: Sequence[Dot]) -> str:
    """From each point of the frontier to the next: along first, since only its own size reaches its figure."""
    best = sorted((dot.x, dot.y) for dot in dots if dot.point.best)
    if len(best) < 2:
        return ""
    steps = [f"M {best[0][0]:.1f} {best[0][1]:.1f}"]
    return " ".join(steps + [f"H {x:.1f} V {y:.1f}" for x, y in best[1:]])


def _about(title: str, points: Sequence[Point]) -> str:
    """The picture in words."""
    said = "; ".join(
        f"{point.letter}: {size(point.bytes)}, {number(point.value)}{', on the frontier' if point.best else ''}"
        for point in points
    )
    return f"{title}, by size. {said}. The same is in the table."
