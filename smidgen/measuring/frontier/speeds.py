"""Speed and memory of several cuts, where they were measured alike.

A machine is not equally quick at all times, so tokens per second of two measurements do not compare. In each of them
the original took turns with the cut. So cuts are compared by how many times as fast as the original they write, where
the original's speed is on all of the cards.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smidgen.measuring.figures import number
from smidgen.measuring.frontier.cards import ReadCard, Speed


@dataclass(frozen=True)
class Rate:
    """How fast a cut writes, with the least and the most that its rounds allow."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Speeds:
    """rates: by the cut's sha256, of those that compare; times the original's where `relative`, else tokens a second.

    resident: bytes in memory while it writes, likewise.  how: on which machine.  notes: what was left out, and why.
    """

    rates: dict[str, Rate]
    resident: dict[str, int]
    relative: bool
    how: str
    notes: tuple[str, ...]

    def data(self, card: ReadCard) -> dict[str, Any] | None:
        """Of one cut, for `--json`; None where it does not compare with the others."""
        if card.sha256 not in self.rates or card.speed is None:
            return None
        return {
            "times_the_original" if self.relative else "compared_tokens_per_s": self.rates[card.sha256].value,
            "decode_tokens_per_s": card.speed.rate, "resident_bytes": card.speed.resident,
            "machine": card.speed.machine, "threads": card.speed.threads, "engine": card.speed.engine,
        }  # fmt: skip


def compare_speeds(cards: Sequence[ReadCard]) -> Speeds:
    """The largest group of cuts that were measured with the same machine, engine and threads, if it has two."""
    usable = [(card, card.speed) for card in cards if card.speed is not None and not card.speed.busy]
    notes = [
        f"The speed of {card.name} is left out: " + ("the machine was busy." if card.speed else f"{card.no_speed}.")
        for card in cards
        if card.speed is None or card.speed.busy
    ]
    if not usable:
        return Speeds({}, {}, False, "", tuple(notes))
    how = Counter(_how(speed) for _, speed in usable).most_common(1)[0][0]
    alike = [(card, speed) for card, speed in usable if _how(speed) == how]
    notes += [
        f"The speed of {card.name} is left out: measured with {_how(speed)}, not {how}."
        for card, speed in usable
        if _how(speed) != how
    ]
    if len(alike) < 2:
        return Speeds({}, {}, False, "", tuple(notes))
    originals = [speed.original_rate for _, speed in alike]
    relative = all(originals)
    rates = {card.sha256: _rate(speed, relative) for card, speed in alike}
    resident = {card.sha256: speed.resident for card, speed in alike if speed.resident}
    return Speeds(
        rates, resident, relative, how, (*notes, _about_moods([rate for rate in originals if rate], relative))
    )


def _how(speed: Speed) -> str:
    return f"{speed.engine} on {speed.threads} thread{'' if speed.threads == 1 else 's'} of {speed.machine}"


def _rate(speed: Speed, relative: bool) -> Rate:
    """The range of a ratio is from the slowest cut over the quickest original to the opposite."""
    low, high = speed.spread or (None, None)
    if not relative or not speed.original_rate:
        return Rate(speed.rate, low, high)
    if low is None or high is None or speed.original_spread is None or not speed.original_spread[0]:
        return Rate(speed.rate / speed.original_rate, None, None)
    slowest, quickest = speed.original_spread
    return Rate(speed.rate / speed.original_rate, low / quickest, high / slowest)


def _about_moods(originals: Sequence[float], relative: bool) -> str:
    if not relative:
        return (
            "Speeds are as measured, each cut at its own time: the original's are not on all of the cards, so a cut "
            "may be quicker only because it met a quicker hour of the machine."
        )
    slowest, quickest = min(originals), max(originals)
    spread = (
        "" if quickest < 1.1 * slowest else f" (the original itself ran at {number(slowest)} to {number(quickest)})"
    )
    return (
        "Speed is how many times as fast as the original a cut writes, since both took turns: tokens a second of "
        f"different hours do not compare{spread}. Bars go from the slowest to the quickest round."
    )
