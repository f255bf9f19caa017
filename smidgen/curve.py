"""A curve as a picture: one line over steps, as an SVG in a page or in a file of its own.

Its colours are seen on light and on dark ground; it has no script, and asks nothing of the network.
"""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from smidgen.atomic import write_whole

_WIDTH, _HEIGHT = 480, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 34, 24
_INK, _LINE, _RULE = "#7d8590", "#3b82c4", "#9aa3ad"
_MOST_STEPS = 5  # between the ticks of the vertical axis


def curve_svg(
    title: str, points: Sequence[tuple[float, float]], x_name: str, y_name: str, from_zero: bool,
    marked: float | None = None,
) -> str:  # fmt: skip
    """The points joined, one of them marked with its value.

    title: read aloud, and shown when pointed at.  from_zero: the vertical axis begins at 0, not near the lowest point.
    marked: where the marked point is across; None for the lowest point.
    Raises ValueError for no points at all, or one that is no finite number.
    """
    if not points or not all(math.isfinite(number) for point in points for number in point):
        raise ValueError("a curve needs points, and finite ones")
    ticks = _ticks(0.0 if from_zero else min(y for _, y in points), max(y for _, y in points))
    furthest = max(x for x, _ in points) or 1

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = point[0] / furthest * (_WIDTH - _LEFT - _RIGHT)
        up = (point[1] - ticks[0]) / (ticks[-1] - ticks[0]) * (_HEIGHT - _TOP - _BOTTOM)
        return _LEFT + across, _HEIGHT - _BOTTOM - up

    lines = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="11"><title>{escape(title)}</title>'
    ]
    for tick in ticks:
        _, y = place((0, tick))
        lines.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_RULE}" '
            f'stroke-opacity="0.35"/>{_text(_LEFT - 6, y + 4, f"{tick:.6g}", "end")}'
        )
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, points))
    lines.append(f'<polyline points="{drawn}" fill="none" stroke="{_LINE}" stroke-width="2"/>')
    for point in points:
        x, y = place(point)
        lines.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{_LINE}">'
            f"<title>{point[1]:.4f} after {point[0]:,.0f}</title></circle>"
        )
    chosen = min(points, key=lambda point: point[1] if marked is None else abs(point[0] - marked))
    x, y = place(chosen)
    lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="none" stroke="{_LINE}" stroke-width="1.5"/>')
    lines.append(_text(min(x, _WIDTH - _RIGHT - 20), y - 10, f"{chosen[1]:.4f}", "middle"))
    lines.append(_text(4, 12, y_name, "start"))
    below = _HEIGHT - _BOTTOM + 16
    lines += [_text(_LEFT, below, "0", "middle"), _text(_WIDTH - _RIGHT, below, f"{furthest:,.0f}", "end")]
    lines.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, below, x_name, "middle"))
    return "\n".join([*lines, "</svg>\n"])


def write_curve(
    path: Path, title: str, points: Sequence[tuple[float, float]], x_name: str, y_name: str, from_zero: bool,
    marked: float | None = None,
) -> None:  # fmt: skip
    """The same as a file."""
    drawn = curve_svg(title, points, x_name, y_name, from_zero, marked)
    write_whole(path, drawn.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_INK}">{escape(words)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose both."""
    if high <= low:
        high = low + (abs(low) or 1) * 0.1
    power = 10.0 ** math.floor(math.log10((high - low) / _MOST_STEPS))
    for step in (power, 2 * power, 5 * power, 10 * power):
        first, last = math.floor(low / step), math.ceil(high / step)
        if last - first <= _MOST_STEPS:
            break
    return [number * step for number in range(first, last + 1)]
