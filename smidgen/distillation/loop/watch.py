"""How good a trainee is, while it is trained and in the end, on rows that no step learns from.

The state that is kept is chosen on some of them, and others say how good it is (`text.held_out`). What two states
differ by is told with its noise: rows differ more from each other than a row does from before to after, so the
difference is taken row by row, and its standard error is that of a ratio of sums over n rows (Cochran 1977, Sampling
Techniques, equation 6.13),

    D = Σ (aᵢ − bᵢ) / Σ wᵢ,     s² = n / (n − 1) · Σ (aᵢ − bᵢ − D wᵢ)² / (Σ wᵢ)²

with aᵢ and bᵢ the sums of a row's losses after and before, and wᵢ how many tokens of it count.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from smidgen.distillation.students.trainee import Objective, Trainee
from smidgen.distillation.text.batch import Batch
from smidgen.distillation.text.held_out import FEWEST_TO_CHOOSE, HeldOut
from smidgen.model.decoder import Decoder

#: Which state of a training is kept: the best of those measured, or the last.
Keep = Literal["best", "last"]

#: Standard errors that 19 of 20 differences lie within, by degrees of freedom (Student 1908).
_SURE = {1: 12.7, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 10: 2.23, 11: 2.20, 12: 2.18}
_SURE_OF_MANY = 2.1


@dataclass(frozen=True)
class Losses:
    """Of rows.  sums: of the losses in each, nats.  weights: of its tokens."""

    sums: tuple[float, ...]
    weights: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Nats per token."""
        return math.fsum(self.sums) / math.fsum(self.weights)

    def noise(self, before: "Losses") -> float | None:
        """Standard error of the difference between two means over the same rows; None for a single row."""
        rows, weight = len(self.sums), math.fsum(self.weights)
        if rows < 2:
            return None
        change = self.mean - before.mean
        pairs = zip(self.sums, before.sums, self.weights, strict=True)
        squares = math.fsum((after - was - change * own) ** 2 for after, was, own in pairs)
        return math.sqrt(rows / (rows - 1) * squares) / weight


@torch.no_grad()
def losses_of(decoder: Decoder, objective: Objective, rows: Sequence[Batch]) -> Losses:
    """What an objective says of a decoder, for each row."""
    device, training = next(decoder.parameters()).device, decoder.training
    decoder.eval()
    sums = tuple(float(objective(decoder, batch.to(device))[0]) for batch in rows)
    decoder.train(training)
    return Losses(sums, tuple(batch.weight() for batch in rows))


@dataclass(frozen=True)
class Watch:
    """Asked before the first step, after every `every`, and at the end.

    evaluate: lower is better.  every: steps; 0 for at both ends alone.  patience: stop after so many evaluations
    without a new best; 0 for never.  keep: whose tensors are put back at the end.
    report: what chooses nothing, asked at both ends alone; None where nothing is chosen, so that what `evaluate` said
    first and last can be reported itself.  why: what the state that is kept has before others, to follow its step.
    """

    evaluate: Callable[[], Losses]
    every: int = 0
    patience: int = 0
    keep: Keep = "best"
    report: Callable[[], Losses] | None = None
    why: str = ""


@dataclass(frozen=True)
class Measured:
    """What a training is measured on, and by.  keep: which state is wanted; where no best one can be told, the last is
    kept."""

    held_out: HeldOut
    objective: Objective
    keep: Keep = "best"

    @property
    def chooses(self) -> bool:
        """Whether the best state is kept."""
        return self.keep == "best" and self.held_out.can_choose

    @property
    def reporting(self) -> list[Batch]:
        """Rows that choose nothing."""
        return self.held_out.report if self.chooses else self.held_out.rows

    def _why(self) -> str:
        if self.keep == "last":
            return "the last one, as asked for"
        if self.chooses:
            return "the best on other held-out text"
        tokens = round(sum(batch.weight() for batch in self.held_out.choose))
        return (
            f"the last one: {tokens} held-out tokens would choose another, and fewer than {FEWEST_TO_CHOOSE} choose by "
            "chance"
        )

    def watch(self, trainee: Trainee, every: int, patience: int = 0) -> Watch | None:
        """For a training; None where nothing is held out."""
        if not self.held_out.rows:
            return None

        def evaluate(rows: Sequence[Batch]) -> Losses:
            return losses_of(trainee.decoder, self.objective, rows)

        if not self.chooses:
            return Watch(lambda: evaluate(self.reporting), every, keep="last", why=self._why())
        choose, report = self.held_out.choose, self.reporting
        return Watch(lambda: evaluate(choose), every, patience, report=lambda: evaluate(report), why=self._why())


@dataclass(frozen=True)
class Change:
    """What a training has changed on rows that chose nothing.

    before, after: nats per token.  noise: standard error of their difference, over so many `rows`; None where it cannot
    be told.
    """

    before: float
    after: float
    noise: float | None
    rows: int = 0

    @classmethod
    def between(cls, before: Losses, after: Losses) -> "Change":
        """Of the same rows."""
        return cls(before.mean, after.mean, after.noise(before), len(after.sums))

    @property
    def is_worse(self) -> bool:
        """By more than chance, as far as that can be told."""
        return self.after - self.before > self._chance

    def __str__(self) -> str:
        """`2.3131 before, 2.2010 after (0.1121 ± 0.0034 lower)`."""
        told, difference = f"{self.before:.4f} before, {self.after:.4f} after", abs(self.after - self.before)
        if self.noise is None:
            return told
        if not difference:
            return f"{told} (no difference)"
        where = "lower" if self.after < self.before else "higher"
        unsure = ", which may be chance" if difference <= self._chance else ""
        return f"{told} ({difference:.4f} ± {self.noise:.4f} {where} over {self.rows} rows{unsure})"

    @property
    def _chance(self) -> float:
        """What the difference may be by chance, in one of twenty cases: Student's t, which few rows make large."""
        return _SURE.get(self.rows - 1, _SURE_OF_MANY) * (self.noise or 0.0)
