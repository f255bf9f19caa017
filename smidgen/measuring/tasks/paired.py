"""Two models on the same items: the difference of their scores, how sure it is, and which answers changed.

Equal accuracy hides changed answers, and the same items make differences surer than two separate intervals would say.
So items are paired. With b items that only the original had right and c that only the cut had right, of n:

- the difference is (c − b) / n;
- its 95% interval is Newcombe's hybrid score interval for paired proportions (Newcombe 1998, "Improved confidence
  intervals for the difference between binomial proportions based on paired data", Statistics in Medicine 17, method
  10), which stays honest where few or no answers changed;
- whether it could be chance is McNemar's exact test (McNemar 1947): b against c as throws of a fair coin.
"""

from collections.abc import Sequence
from math import comb, sqrt
from typing import TypedDict

_Z = 1.959963984540054  # of a 95% interval
FEWEST_ITEMS = 30
WIDEST = 0.10  # of a half interval that still says something


class Flips(TypedDict):
    """Items whose answer changed."""

    right_to_wrong: int
    wrong_to_right: int


class PairedScore(TypedDict):
    """original, cut: shares of right answers.  difference: cut − original.  interval: of it, 95%.
    p_value: that so unequal flips come by chance.  at_chance: whether the original is no better than guessing.
    note: why the figures say little; None where they do not."""

    original: float
    cut: float
    difference: float
    interval: list[float]
    items: int
    flips: Flips
    p_value: float
    at_chance: bool | None
    note: str | None


def compare_items(original: Sequence[bool], cut: Sequence[bool], chance: float | None = None) -> PairedScore:
    """Right and wrong answers of both models to the same items, in the same order; at least one.

    chance: the share that guessing gets right, None where guessing gets nothing.
    """
    items = len(original)
    both = sum(a and b for a, b in zip(original, cut, strict=True))
    lost = sum(original) - both
    gained = sum(cut) - both
    at_chance = None if chance is None else wilson_interval(sum(original), items)[0] <= chance
    interval = paired_interval(both, lost, gained, items)
    return PairedScore(
        original=sum(original) / items,
        cut=sum(cut) / items,
        difference=(gained - lost) / items,
        interval=list(interval),
        items=items,
        flips=Flips(right_to_wrong=lost, wrong_to_right=gained),
        p_value=mcnemar(lost, gained),
        at_chance=at_chance,
        note=_note(items, interval, at_chance),
    )


def _note(items: int, interval: tuple[float, float], at_chance: bool | None) -> str | None:
    if at_chance:
        return "the original is at the level of guessing, so a difference means nothing"
    if items < FEWEST_ITEMS or (interval[1] - interval[0]) / 2 > WIDEST:
        return f"too few items ({items}) to tell: the difference may be anything in the interval"
    return None


def wilson_interval(right: int, items: int) -> tuple[float, float]:
    """The 95% interval of one share (Wilson 1927)."""
    share = right / items
    middle = (share + _Z**2 / (2 * items)) / (1 + _Z**2 / items)
    half = _Z / (1 + _Z**2 / items) * sqrt(share * (1 - share) / items + _Z**2 / (4 * items**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_interval(both: int, lost: int, gained: int, items: int) -> tuple[float, float]:
    """The 95% interval of the difference (gained − lost) / items. both: items that both models had right."""
    neither = items - both - lost - gained
    first, second = (both + gained) / items, (both + lost) / items  # the cut's share and the original's
    low_1, high_1 = wilson_interval(both + gained, items)
    low_2, high_2 = wilson_interval(both + lost, items)
    correlation = _correlation(both, lost, gained, neither)
    difference = first - second
    below = (first - low_1) ** 2 - 2 * correlation * (first - low_1) * (high_2 - second) + (high_2 - second) ** 2
    above = (high_1 - first) ** 2 - 2 * correlation * (high_1 - first) * (second - low_2) + (second - low_2) ** 2
    return max(-1.0, difference - sqrt(max(0.0, below))), min(1.0, difference + sqrt(max(0.0, above)))


def _correlation(both: int, lost: int, gained: int, neither: int) -> float:
    """Between the two models' answers (phi), corrected for continuity where it is positive; 0 where it is unknown."""
    product = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    if product == 0:
        return 0.0
    above = both * neither - lost * gained
    if above > 0:
        above = max(0.0, above - (both + lost + gained + neither) / 2)
    return above / sqrt(product)


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided p-value that so unequal flips come by chance, exact."""
    flips = lost + gained
    tail = sum(comb(flips, k) for k in range(min(lost, gained) + 1)) / 2**flips if flips else 1.0
    return min(1.0, 2 * tail)
