"""Whether other programs were in the way while an engine was timed.

A rate says something about a model only where the engine had the processors that it asked for. Its threads wait for
each other some hundred times for every token, so that one which has to wait for a processor holds up all: with a third
of two processors a model decodes at a tenth of its speed, not at a third (seen here). Such a rate is nonsense, and is
left out. Where less was missing the rate is kept, and marked.

Three signs, each by itself:
share    processor time that the engine's threads had / that they had or waited for. Linux counts both. Elsewhere
         processor time / (wall time · threads), which is lower also where a thread has nothing to do.
others   how much of the processors that we may use other programs had. With two logical processors on one core these
         slow us without a wait that is counted.
spread   (quickest − slowest) / median of the rounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypedDict

from smidgen.engines.machine import load_average

MARKED_SHARE, LEFT_OUT_SHARE = 0.9, 0.5  # below which rates are marked, and left out
MARKED_SHARE_BY_WALL = 0.75  # where waiting is not counted
MARKED_OTHERS, MARKED_SPREAD = 0.25, 0.3  # above which they are marked
LEAST_S = 0.2  # of timed work, so that what starts and ends it does not count


class Busy(TypedDict):
    """How busy the machine was, medians of the rounds.  share, others, spread: see above; None where not known.

    load: threads that wanted to compute, over the last minute.  sentence: what to say beside the rates; None if calm.
    """

    share: float | None
    others: float | None
    spread: float | None
    load: float | None
    sentence: str | None


@dataclass(frozen=True)
class Effort:
    """Seconds that something took.

    wall: on the clock.  cpu: of processor time, the engine's.  waited: of its threads, for a processor.
    others: of processor time, of all other programs.  processors: how many there are for all.
    None where the system does not tell.
    """

    wall: float
    cpu: float
    waited: float | None
    others: float | None
    processors: int

    def __add__(self, other: "Effort") -> "Effort":
        def both(one: float | None, two: float | None) -> float | None:
            return None if one is None or two is None else one + two

        return Effort(
            self.wall + other.wall, self.cpu + other.cpu, both(self.waited, other.waited),
            both(self.others, other.others), self.processors,
        )  # fmt: skip

    def share(self, threads: int) -> float | None:
        """Of the processor time that the engine wanted, how much it had; None where it worked too little to tell."""
        if self.wall < LEAST_S:
            return None
        if self.waited is not None:
            return self.cpu / (self.cpu + self.waited) if self.cpu > 0 else 0.0
        return min(1.0, self.cpu / (self.wall * threads))

    def others_share(self) -> float | None:
        """Of all processors, how much other programs had."""
        if self.others is None or self.wall < LEAST_S:
            return None
        return min(1.0, max(0.0, self.others / (self.wall * self.processors)))


def judge(rounds: Sequence[Effort], threads: int, rates: Sequence[float]) -> Busy:
    """How busy the machine was.  rates: those whose spread tells, one for each round; none where they do not."""
    share = _median([effort.share(threads) for effort in rounds])
    others = _median([effort.others_share() for effort in rounds])
    spread = spread_of(rates)
    counted = any(effort.waited is not None for effort in rounds)
    return Busy(
        share=share, others=others, spread=spread, load=load_average(),
        sentence=_sentence(share, others, spread, MARKED_SHARE if counted else MARKED_SHARE_BY_WALL),
    )  # fmt: skip


def spread_of(rates: Sequence[float]) -> float | None:
    """(quickest − slowest) / median; None where there was but one round."""
    return (max(rates) - min(rates)) / median(rates) if len(rates) > 1 else None


def disturbed(rates: Sequence[float]) -> bool:
    """Whether rounds of the same work differ by more than an idle machine makes them."""
    spread = spread_of(rates)
    return spread is not None and spread > MARKED_SPREAD


def worse(one: Busy, other: Busy) -> Busy:
    """The one with less of the processors; of the same work with the same signs, the one with something to say."""
    if one["share"] is None or other["share"] is None:
        return one if other["share"] is None else other
    return (
        one
        if (one["sentence"] is not None, -one["share"]) >= (other["sentence"] is not None, -other["share"])
        else other
    )


def is_nonsense(busy: Busy) -> bool:
    """Whether rates that were measured then say nothing about the model."""
    return busy["share"] is not None and busy["share"] < LEFT_OUT_SHARE


def why_left_out(busy: Busy) -> str:
    """The reason that stands in the place of the rates."""
    return (
        f"the machine was too busy: llama.cpp got {_percent(busy['share'])} of the processor time that it asked for"
        f"{_who(busy['others'])}; measure again when less runs beside it, or with fewer threads"
    )


def _sentence(share: float | None, others: float | None, spread: float | None, least_share: float) -> str | None:
    """What was wrong, the worst sign only."""
    if share is not None and share < least_share:
        return (
            f"The machine was busy: llama.cpp got {_percent(share)} of the processor time that it asked for"
            f"{_who(others)}. On an idle machine it is quicker."
        )
    if others is not None and others > MARKED_OTHERS:
        return f"The machine was busy: other programs had {_percent(others)} of the processors. Idle it may be quicker."
    if spread is not None and spread > MARKED_SPREAD:
        return f"The rounds differ by {_percent(spread)}: something disturbed the measurement, and it may be slow."
    return None


def _who(others: float | None) -> str:
    return f", other programs had {_percent(others)} of the processors" if others is not None and others > 0.1 else ""


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _percent(share: float | None) -> str:
    return "an unknown part" if share is None else f"{share:.0%}"
