"""KL against bytes as a picture: a panel for each model, a line for each maker, a bar for each 95% interval.

Its colours are seen on light and on dark ground. Other engines' files are hollow diamonds with their names: they are
not read by llama.cpp, or not of the same bytes, so no line joins them.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.equal_bytes import HEALED, LLAMA_CPP, OTHER, SMIDGEN, Model, Point

_PANEL, _HEIGHT, _LEGEND = 360, 330, 30
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 30, 40
_INK, _RULE = "#7d8590", "#9aa3ad"
_COLOURS = {LLAMA_CPP: "#d1782f", SMIDGEN: "#3b82c4", HEALED: "#2f9e62", OTHER: "#9a6fc4"}
_NAME = 50  # room for a name beside its mark
_SPARE = 0.06  # of the width, left and right of the outermost points
_TICKS = (1, 2, 5)  # times powers of ten


def picture(models: Sequence[Model]) -> str:
    """An SVG with all models side by side. Raises ValueError for none."""
    if not models:
        raise ValueError("a picture needs a model")
    width, height = _PANEL * len(models), _HEIGHT + _LEGEND
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="system-ui, sans-serif" font-size="11">'
        "<title>KL divergence against bytes: smidgen, llama.cpp and other engines</title>"
    ]
    lines += _legend(models)
    for number, model in enumerate(models):
        lines += [f'<g transform="translate({number * _PANEL},{_LEGEND})">', *_Panel(model).drawn(), "</g>"]
    return "\n".join([*lines, "</svg>\n"])


def _legend(models: Sequence[Model]) -> Iterator[str]:
    x = _LEFT
    for maker, colour in _COLOURS.items():
        if any(model.of(maker) for model in models):
            yield _mark(maker, x, 14)
            yield _text(x + 10, 18, "start", maker, colour)
            x += 34 + 7 * len(maker)


class _Panel:
    """One model: bytes across, KL upwards on a scale of powers."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._ticks = _powers([bound for point in model.points for bound in (*point.interval, point.kl)])
        sizes = [point.nbytes for point in model.points]
        spare = max(_SPARE * (max(sizes) - min(sizes)), 0.01 * max(sizes))
        self._sizes = min(sizes) - spare, max(sizes) + spare

    def drawn(self) -> Iterator[str]:
        """Its parts."""
        yield _text(_LEFT, 14, "start", f"{self._model.name}: KL, nats a token")
        for tick in self._ticks:
            y = self._up(tick)
            yield (f'<line x1="{_LEFT}" x2="{_PANEL - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_RULE}" '
                   'stroke-opacity="0.35"/>')  # fmt: skip
            yield _text(_LEFT - 6, y + 4, "end", f"{tick:g}")
        wanted = {point.wanted: point.nbytes for point in self._model.of(LLAMA_CPP)}
        for nbytes in wanted.values():
            x, below = self._across(nbytes), _HEIGHT - _BOTTOM
            yield _text(x, below + 15, "middle", f"{nbytes / 1e6:.0f} MB")
            yield _text(x, below + 29, "middle", f"{self._model.bits(nbytes):.1f} bits")
        for maker in _COLOURS:
            yield from self._series(maker, self._model.of(maker))

    def _series(self, maker: str, points: Sequence[Point]) -> Iterator[str]:
        colour = _COLOURS[maker]
        places = [(self._across(point.nbytes), self._up(point.kl)) for point in points]
        if maker != OTHER and len(points) > 1:
            joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            yield f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for number, (point, (x, y)) in enumerate(zip(points, places, strict=True)):
            low, high = (self._up(bound) for bound in point.interval)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>'
            said = f"{maker} {point.name}: {point.nbytes:,} bytes, KL {point.kl:.4f}"
            yield _mark(maker, x, y, said)
            if maker == OTHER:
                yield _text(*_beside(x, y, number), point.name.rpartition(" ")[2], colour)

    def _across(self, nbytes: int) -> float:
        low, high = self._sizes
        return _LEFT + (nbytes - low) / (high - low) * (_PANEL - _LEFT - _RIGHT)

    def _up(self, kl: float) -> float:
        low, high = math.log(self._ticks[0]), math.log(self._ticks[-1])
        return _HEIGHT - _BOTTOM - (math.log(kl) - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def _beside(x: float, y: float, number: int) -> tuple[float, float, str]:
    """Where a name stands, and its anchor: above and below in turn, since neighbours in size are often close."""
    above = number % 2 == 0
    if above and x < _PANEL - _RIGHT - _NAME:
        return x + 7, y - 3, "start"
    return x - 7, y - 5 if above else y + 10, "end"


def _mark(maker: str, x: float, y: float, said: str = "") -> str:
    title = f"<title>{escape(said)}</title>" if said else ""
    colour = _COLOURS[maker]
    if maker == OTHER:
        corners = f"{x:.1f},{y - 5:.1f} {x + 5:.1f},{y:.1f} {x:.1f},{y + 5:.1f} {x - 5:.1f},{y:.1f}"
        return f'<polygon points="{corners}" fill="none" stroke="{colour}" stroke-width="1.5">{title}</polygon>'
    if maker == LLAMA_CPP:
        return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" fill="{colour}">{title}</rect>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">{title}</circle>'


def _text(x: float, y: float, anchor: str, words: str, colour: str = _INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def _powers(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten: the last at or below the lowest value to the first at or above the highest."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    ticks = [digit * 10.0**power for power in range(first, last + 1) for digit in _TICKS]
    begin = max(place for place, tick in enumerate(ticks) if tick <= min(values) * (1 + 1e-9))
    end = min(place for place, tick in enumerate(ticks) if tick >= max(values) * (1 - 1e-9))
    return ticks[begin : max(end, begin + 1) + 1]
