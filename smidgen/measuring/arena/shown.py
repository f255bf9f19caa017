"""A ranking as people read it on a terminal of 80 columns."""

from collections.abc import Iterable, Mapping
from textwrap import fill
from typing import Any

from smidgen.measuring.arena.words import (
    anchor_words,
    headline,
    interval_words,
    judge_lines,
    points,
    reasons,
    shown_name,
    verdict,
    votes_lines,
)
from smidgen.measuring.figures import whole

_WIDTH, _NAME, _BAR = 80, 25, 18
_MOST_IN_TABLE = 9  # models whose win rates fit side by side
_MOST_NEIGHBOURS = 12


def describe(ranking: Mapping[str, Any]) -> str:
    """Scores with their intervals, how often who won against whom, what is not told apart, and where it is from."""
    parts = (
        _wrapped([headline(ranking)]),
        _scores(ranking),
        _wrapped(reasons(ranking), "  "),
        _win_rates(ranking),
        _neighbours(ranking),
        _wrapped(judge_lines(ranking.get("judge")), "  "),
        _wrapped([*votes_lines(ranking), f"400 points are odds of ten to one; {anchor_words(ranking)}."]),
    )
    return "\n\n".join(part for part in parts if part)


def _wrapped(lines: Iterable[str], indent: str = "") -> str:
    return "\n".join(fill(line, _WIDTH, subsequent_indent=indent) for line in lines)


def _scores(ranking: Mapping[str, Any]) -> str:
    models = ranking["models"]
    ends = [end for one in models for end in (one["score"], *one["interval"]) if end is not None]
    low, high = min(ends), max(ends)
    lines = [f"      {'model':<{_NAME}} {'score':>6}  {'95% interval':<15} {'':<{_BAR}} votes"]
    for one in models:
        rank = "" if one["rank"] is None else str(one["rank"])
        score = "?" if one["score"] is None else points(one["score"])
        bar = _bar(one, low, high)
        name, interval = _name(one["model"]), interval_words(one)
        lines.append(f"{rank:>4}  {name:<{_NAME}} {score:>6}  {interval:<15} {bar} {whole(one['votes']):>5}")
    return "\n".join(lines)


def _bar(one: Mapping[str, Any], low: float, high: float) -> str:
    """The interval on the scale of all, the score as a dot in it; an arrow where it has no end."""

    def column(value: float) -> int:
        return round((value - low) / ((high - low) or 1.0) * (_BAR - 1))

    begin, end = one["interval"]
    if begin is None and end is None:
        begin = end = one["score"]
    if begin is None and end is None:
        return " " * _BAR
    first, last = 0 if begin is None else column(begin), _BAR - 1 if end is None else column(end)
    cells = [" "] * first + ["─"] * (last - first + 1) + [" "] * (_BAR - 1 - last)
    if one["score"] is not None:
        cells[column(one["score"])] = "●"
    if begin is None:
        cells[first] = "◂"
    if end is None:
        cells[last] = "▸"
    return "".join(cells)


def _win_rates(ranking: Mapping[str, Any]) -> str:
    """Who won how often against whom, by rank; left out where it is too wide."""
    models, rates = ranking["models"], ranking["win_rates"]
    if len(models) > _MOST_IN_TABLE:
        return "How often each won against each: see win_rates in --json."
    lines = ["Won against (ties are half a win):"]
    lines.append(f"      {'':<{_NAME}}" + "".join(f"{number:>5}" for number in range(1, len(models) + 1)))
    for number, (one, row) in enumerate(zip(models, rates, strict=True), 1):
        cells = "".join(f"{'-' if rate is None else f'{rate:.0%}':>5}" for rate in row)
        lines.append(f"{number:>4}  {_name(one['model']):<{_NAME}}{cells}")
    return "\n".join(lines)


def _neighbours(ranking: Mapping[str, Any]) -> str:
    """Each model and the next, by their ranks."""
    ranked = [(number, pair) for number, pair in enumerate(ranking["neighbours"], 1) if pair["told_apart"] is not None]
    if not ranked:
        return ""
    power = ranking["power"]
    sure = f"{power['confidence']:.0%} confidence, {power['power']:.0%} power"
    lines = ["Neighbours, and how many more votes between them it takes to tell them apart", f"({sure}, if the "]
    lines[-1] += "difference is as it seems):"
    for number, pair in ranked[:_MOST_NEIGHBOURS]:
        low, high = (points(end, signed=True) for end in pair["interval"])
        difference = f"{points(pair['difference'], signed=True):>5} ({low} to {high})"
        lines.append(f"{number:>4} over {number + 1:<4} {difference:<22} {verdict(pair)}")
    if len(ranked) > _MOST_NEIGHBOURS:
        lines.append(f"      and {len(ranked) - _MOST_NEIGHBOURS} more pairs: see neighbours in --json.")
    return "\n".join(lines)


def _name(name: str) -> str:
    shown = shown_name(name)
    return shown if len(shown) <= _NAME else f"{shown[: _NAME - 1]}…"
