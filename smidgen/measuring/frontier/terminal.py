"""The comparison of several cuts on a terminal: a table, a small picture of letters, and what to take."""

import math
from collections.abc import Sequence

from smidgen.measuring.figures import number, percent, size
from smidgen.measuring.frontier import words
from smidgen.measuring.frontier.cards import ReadCard
from smidgen.measuring.frontier.compare import Comparison, score_name
from smidgen.measuring.frontier.page import letters

_WIDE, _HIGH = 56, 9  # characters of the picture


def lines(comparison: Comparison) -> list[str]:
    """All of it."""
    said = [words.headline(comparison), "", *_quality(comparison)]
    said += ["* on the frontier: no other is as small and loses as little", "", *_picture(comparison), ""]
    said += [*_asked_and_speed(comparison), *words.advice(comparison)]
    for group in (words.steps(comparison), words.beaten(comparison), words.scores(comparison)):
        said += ["", *group] if group else []
    notes = [*comparison.notes, *comparison.speeds.notes]
    return [*said, "", *notes] if notes else said


def _quality(comparison: Comparison) -> list[str]:
    """A row for each cut, on the text that decides."""
    rows = [["", f"on {comparison.text}", "size", "bits/weight", "KL", "same token", "bits/byte"]]
    for place, card in enumerate(comparison.cards):
        mark = "*" if comparison.beaten[place] is None else " "
        text = comparison.deciding[place]
        error = "" if text.standard_error is None else f" ± {number(text.standard_error, 2)}"
        row = [f"{mark} {letters(comparison)[place]}", card.name, size(card.bytes)]
        row += [number(card.bits_per_weight), f"{number(text.kl)}{error}", percent(text.same_top1)]
        rows.append([*row, number(text.bits, 4)])
    return _aligned(rows)


def _asked_and_speed(comparison: Comparison) -> list[str]:
    """Tasks, safety and speed, where they compare; nothing where none does."""
    speeds = comparison.speeds
    heads = ["", "", *map(score_name, comparison.scores)]
    heads += ["speed" if speeds.relative else "tokens/s", "memory"] if speeds.rates else []
    rows = [heads]
    for place, card in enumerate(comparison.cards):
        points = [f"{100 * scores[place].difference:+.1f} points" for scores in comparison.scores.values()]
        row = [f"  {letters(comparison)[place]}", card.name, *points]
        rows.append(row + (_speed(comparison, card) if speeds.rates else []))
    return [*_aligned(rows), ""] if len(heads) > 2 else []


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_padded(row, widths)).rstrip() for row in rows]


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names to the left, figures to the right."""
    return [
        cell.ljust(width) if column < 2 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _speed(comparison: Comparison, card: ReadCard) -> list[str]:
    rate, resident = comparison.speeds.rates.get(card.sha256), comparison.speeds.resident.get(card.sha256)
    times = " ×" if comparison.speeds.relative else ""
    return ["–" if rate is None else f"{number(rate.value)}{times}", "–" if resident is None else size(resident)]


def _picture(comparison: Comparison) -> list[str]:
    """Size along, loss up; loss in equal ratios where it is KL. A letter may hide another: the table has all."""
    losses = [comparison.loss(text) for text in comparison.deciding]
    heights = losses if comparison.by_bits else [math.log10(max(loss, 1e-6)) for loss in losses]
    rows = [[" "] * _WIDE for _ in range(_HIGH)]
    for letter, card, height in zip(letters(comparison), comparison.cards, heights, strict=True):
        sizes = [one.bytes for one in comparison.cards]
        rows[_HIGH - 1 - _place(height, heights, _HIGH)][_place(card.bytes, sizes, _WIDE)] = letter
    top, foot = number(max(losses)), number(min(losses))
    margin = max(len(top), len(foot))
    edge = [top, *[""] * (_HIGH - 2), foot]
    drawn = [f"{left:>{margin}} │ {''.join(row).rstrip()}" for left, row in zip(edge, rows, strict=True)]
    first, last = size(comparison.cards[0].bytes), size(comparison.cards[-1].bytes)
    name = "bits per byte" if comparison.by_bits else "KL, nats per token"
    return [
        f"{'':>{margin}}   {name} (lower is better)", *drawn, f"{'':>{margin}} └{'─' * (_WIDE + 1)}",
        f"{'':>{margin}}   {first}{last:>{_WIDE - len(first)}}",
    ]  # fmt: skip


def _place(value: float, values: Sequence[float], places: int) -> int:
    low, high = min(values), max(values)
    return 0 if high == low else round((value - low) / (high - low) * (places - 1))
