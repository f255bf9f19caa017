"""What a text says about the outputs of a matrix: how errors of different outputs add up, or make up for each other.

The Fisher information of a linear layer is close to a Kronecker product, F ≈ E[g gᵀ] ⊗ H (K-FAC, Martens & Grosse 2015,
arXiv:1503.05671, section 3; g as in `calibration.gradients`). E[g gᵀ] of a wide matrix would be as large as many
matrices, so it is taken in runs of outputs, and what connects two runs is left out.

A low rank in its place (a random projection, then the method of Nyström) takes less room and time, but with 256
columns it lost half of what feedback across rows wins (LOG.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.calibration.moments import SecondMoment
from smidgen.shapes import Float

_LONGEST = 2304  # outputs of a run
_STEP = 64  # runs are whole multiples of it


@dataclass(frozen=True)
class OutputMoment:
    """E[g gᵀ] in runs of outputs, in units of the mean of its diagonal."""

    runs: Sequence[Float[Tensor, "_run _run"]]

    def diagonal(self) -> Float[Tensor, " out"]:
        """E[gᵣ²] of each output."""
        return torch.cat([run.diagonal() for run in self.runs])

    def loss(self, wrong: Float[Tensor, "tokens out"]) -> float:
        """Σ over tokens of yᵀ E[g gᵀ] y for the errors y of all outputs."""
        parts = wrong.split([len(run) for run in self.runs], dim=1)
        return sum(float(_squares(part, run).sum()) for part, run in zip(parts, self.runs, strict=True))


def _squares(wrong: Float[Tensor, "tokens run"], moment: Float[Tensor, "run run"]) -> Float[Tensor, " tokens"]:
    """Of each token, in float64. A sum over all at once would depend on the number of threads."""
    return (wrong @ moment).mul_(wrong).sum(1, dtype=torch.float64)


class OutputGathering:
    """The moment of a matrix's outputs while tokens come in."""

    def __init__(self, outputs: int) -> None:
        self._sizes = run_sizes(outputs)
        self._moments = [SecondMoment(size) for size in self._sizes]

    def add(self, gradient: Float[Tensor, "tokens out"]) -> None:
        """Take in more tokens."""
        gradient = gradient.float()
        every = gradient.new_ones(len(gradient))
        for moment, part in zip(self._moments, gradient.split(self._sizes, dim=1), strict=True):
            moment.add(part, every)

    def moment(self) -> OutputMoment | None:
        """Of all tokens so far, in the memory of the sums: no more can be added. None where no gradient came."""
        runs = [moment.mean() for moment in self._moments]
        unit = sum(float(run.diagonal().double().sum()) for run in runs) / sum(self._sizes)
        return OutputMoment([run.div_(unit) for run in runs]) if unit > 0 else None


def run_sizes(outputs: int) -> list[int]:
    """As few runs as can be, of about equal length."""
    count = -(-outputs // _LONGEST)
    size = -(-outputs // (count * _STEP)) * _STEP
    return [min(size, outputs - start) for start in range(0, outputs, size)]
