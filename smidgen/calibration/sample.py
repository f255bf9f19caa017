"""What a text says about the inputs of a matrix, in two parts: tokens to fit to, and tokens to judge by.

Whoever fits a matrix to a second moment H = E[w x xᵀ] has always done well on that same H, and the better the fewer
tokens it was taken from. What is gained on text that nobody fitted to is another matter: with about as many tokens as
columns, compensated matrices were worse than plainly rounded ones there (LOG.md). So a part of the tokens is kept
aside. They fit nothing; they decide what is done: how far H is trusted, and whether to compensate at all.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.calibration.moments import SecondMoment
from smidgen.shapes import Bool, Float

_EVERY = 8  # so many-th window judges
_MOST = 2048  # tokens that judge: enough to tell, and they are kept as they are, not as a moment
FEWEST_JUDGES = 16  # below that nothing can be said, and nothing is fitted

# How far H is trusted, in every method that inverts it: `numerics.factor.inverse_factor` has what they are (LOG.md).
SHRINKAGES = (0.5, 0.8)  # tried in this order, until those that judge say that one is better than fitting nothing
DAMPING = 0.001


def kept_aside(windows: int, length: int, every: int) -> Bool[Tensor, "windows position"]:
    """Every so many-th window, or, where there are too few windows, the like part of each at its end."""
    if windows >= every:
        chosen = (torch.arange(windows) % every == every - 1)[:, None]
    else:
        chosen = torch.arange(length) >= length - length // every
    return chosen.expand(windows, length)


def judging(windows: int, length: int) -> Bool[Tensor, "windows position"]:
    """The tokens of a calibration text that judge: an eighth, of a long text fewer."""
    return kept_aside(windows, length, max(_EVERY, -(-windows * length // _MOST)))


@dataclass(frozen=True)
class Sample:
    """The inputs of a matrix, as far as its errors go.

    moment: H = E[w x xᵀ] / E[w] of the tokens to fit to.
    judges: rows √(w/Σw)·x of those that judge, so that ‖judges · Δᵀ‖² = E[w (Δ·x)²] / E[w] for an error Δ of a row.
    tokens, effective: how many H was taken from, and how many equal ones would say as much, (Σw)² / Σw².
    """

    moment: Float[Tensor, "in in"]
    judges: Float[Tensor, "judges in"]
    tokens: int
    effective: float

    @property
    def can_judge(self) -> bool:
        """Whether there are tokens enough to tell a good fit from a bad one."""
        return len(self.judges) >= FEWEST_JUDGES

    def damage(self, error: Float[Tensor, "out in"]) -> Float[Tensor, " out"]:
        """E[w (ΔW x)²] / E[w] of each output, on the tokens that judge; where none do, on those that were fitted to."""
        if len(self.judges):
            return (self.judges @ error.T).square_().sum(0)
        return (error @ self.moment).mul_(error).sum(1)


class Gathering:
    """A sample that grows by runs of tokens.  spans: equal runs of columns whose moments are taken apart, often one."""

    def __init__(self, width: int, spans: int = 1) -> None:
        self._moments = [SecondMoment(width // spans) for _ in range(spans)]
        self._judges: list[Float[Tensor, "judges in"]] = [torch.zeros(0, width)]  # an expert may see no token at all
        self._weight, self._tokens, self._fitted, self._squares = 0.0, 0, 0.0, 0.0

    def add(
        self, x: Float[Tensor, "tokens in"], weights: Float[Tensor, " tokens"], judging: Bool[Tensor, " tokens"]
    ) -> None:
        """Take in more tokens, some of which judge."""
        fitting = ~judging
        own, fitted = x[fitting], weights[fitting]
        for moment, columns in zip(self._moments, own.split(own.shape[1] // len(self._moments), 1), strict=True):
            moment.add(columns, fitted)
        self._tokens += len(fitted)
        self._fitted += float(fitted.double().sum())
        self._squares += float(fitted.double().square().sum())
        self._judges.append(x[judging] * weights[judging].sqrt()[:, None])
        self._weight += float(weights[judging].double().sum())

    def samples(self) -> list[Sample]:
        """One for each run of columns. In the memory of the sums: no more tokens can be added."""
        judges = torch.cat(self._judges).mul_(max(self._weight, 1e-30) ** -0.5)
        effective = self._fitted**2 / max(self._squares, 1e-300)
        runs = judges.split(judges.shape[1] // len(self._moments), 1)
        return [
            Sample(moment.mean(), run, self._tokens, effective) for moment, run in zip(self._moments, runs, strict=True)
        ]

    def sample(self) -> Sample:
        """The only one."""
        (sample,) = self.samples()
        return sample
