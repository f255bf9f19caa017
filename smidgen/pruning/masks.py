"""Which weights of a matrix become zero, and how those that stay make up for it. Tensors in, tensors out.

A pattern is a share of all weights ("50%"), or N:M ("2:4"): of every M neighbours in a row at most N are not zero.
For one row w of a linear layer with inputs x:

- magnitude: the smallest |w| go, over the whole matrix, or in each group of M. Needs no data. (Han et al. 2015,
  arXiv:1506.02626.)
- Wanda: the smallest |wᵢ|·‖xᵢ‖ go, row by row, or in each group of M. (Sun et al. 2023, arXiv:2306.11695, eq. 1.)
- SparseGPT: columns are settled from left to right. Setting wᵢ to zero costs wᵢ²/[H⁻¹]ᵢᵢ where H = E[x xᵀ] of the
  columns not yet settled (Optimal Brain Surgeon), and the columns after it take over what they can of its work: with
  UᵀU = H⁻¹ (`numerics.factor`) the cost is e² for e = wᵢ/Uᵢᵢ, and w ← w − e·Uᵢ,:. Which weights go is decided for 128
  columns at a time, row by row, by the values that they have by then, for N:M group by group. (Frantar & Alistarh
  2023, arXiv:2301.00774, algorithm 1.)

Where we differ from the paper's algorithm 1: every row has the same number of zeros, as Wanda's have, and every 128
columns their part of it. There the rows of a matrix compete, and small rows lose nearly all: that lowers the squared
error of the layer's outputs and harms the model (LOG.md).

Cost of SparseGPT: rows · columns² multiply-adds for the pushes between runs of 128 columns, as matrix products, and
rows · columns · 64 inside them. No loop over rows.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.errors import SmidgenError, printable
from smidgen.numerics.precision import quick_products
from smidgen.shapes import Bool, Float

_RUN = 128  # columns whose zeros are chosen together (the paper's Bₛ)
_IN_ORDER = 8  # columns of a run that push errors one by one; onto those behind them, by a product
_LONGEST_GROUP = 64
_SHARE = re.compile(r"(\d{1,3}(?:\.\d+)?)%|(0?\.\d+)", re.ASCII)
_GROUPS = re.compile(r"(\d{1,2}):(\d{1,2})", re.ASCII)


@dataclass(frozen=True)
class Pattern:
    """How many weights become zero, and among which they are chosen.

    zeros: as a share of all weights, between 0 and 1.  group: M of N:M; None where any weights may go.
    """

    zeros: float
    group: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """From `50%`, `0.5` (both: half of all weights), `2:4` or `4:8` (so many of so many neighbours stay).

        Raises SmidgenError for anything else.
        """
        share, groups = _SHARE.fullmatch(text.strip()), _GROUPS.fullmatch(text.strip())
        if share is not None:
            zeros = float(share[1]) / 100 if share[1] else float(share[2])
            if 0 < zeros < 1:
                return cls(zeros)
            raise SmidgenError(
                f"A sparsity of {text.strip()} leaves all weights or none; give one between, such as 50%."
            )
        if groups is not None:
            kept, group = int(groups[1]), int(groups[2])
            if 0 < kept < group <= _LONGEST_GROUP:
                return cls(1 - kept / group, group)
            raise SmidgenError(
                f"{text.strip()} is no N:M, N weights kept of M, 0 < N < M ≤ {_LONGEST_GROUP}; give one such as 2:4."
            )
        raise SmidgenError(
            f"Sparsity {printable(text)!r} is neither a share such as 50% nor a pattern such as 2:4; give one of these."
        )

    def __str__(self) -> str:
        """As `parse` reads it."""
        if self.group is None:
            return f"{100 * self.zeros:.6g}%"
        return f"{self.group - self.count(self.group)}:{self.group}"

    def count(self, weights: int) -> int:
        """Zeros among so many weights."""
        return round(self.zeros * weights)


def magnitude(weight: Float[Tensor, "out in"], pattern: Pattern) -> Float[Tensor, "out in"]:
    """The smallest weights set to zero."""
    sizes = weight.abs()
    return weight.masked_fill(_lowest_of(sizes if pattern.group else sizes.view(1, -1), pattern).view_as(weight), 0)


def wanda(weight: Float[Tensor, "out in"], energy: Float[Tensor, " in"], pattern: Pattern) -> Float[Tensor, "out in"]:
    """The weights that carry least set to zero.  energy: E[x²] of each input."""
    return weight.masked_fill(_lowest_of(weight.abs() * energy.sqrt(), pattern), 0)


def sparsegpt(weight: Float[Tensor, "out in"], U: Float[Tensor, "in in"], pattern: Pattern) -> Float[Tensor, "out in"]:
    """The weights that are missed least set to zero, the others moved to make up for them.

    U: `numerics.factor.inverse_factor` of E[x xᵀ].  Memory: one copy of the matrix.
    """
    W = weight.T.clone(memory_format=torch.contiguous_format)  # of one row, the transpose would be the same memory
    columns = len(W)
    run = _RUN - _RUN % (pattern.group or 1)
    for first in range(0, columns, run):
        last = min(first + run, columns)
        zeros = pattern.count(last) - pattern.count(first)
        errors = _settle(W[first:last], U[first:last, first:last], pattern, zeros)
        with quick_products():
            W[last:].addmm_(U[first:last, last:].T, errors, alpha=-1)
    return W.T.contiguous()


def _settle(
    W: Float[Tensor, "run out"], U: Float[Tensor, "run run"], pattern: Pattern, zeros: int
) -> Float[Tensor, "run out"]:
    """Set `zeros` weights of each row to zero in some columns, in place; the errors e left for the columns after."""
    diagonal = U.diagonal()[:, None]
    errors, gone = torch.empty_like(W), torch.empty_like(W, dtype=torch.bool)
    if pattern.group is None:
        gone = _lowest((W / diagonal).abs().T, zeros).T
    step = _IN_ORDER if pattern.group is None else pattern.group * max(1, _IN_ORDER // pattern.group)
    for first in range(0, len(W), step):
        last = min(first + step, len(W))
        for i in range(first, last):
            if pattern.group is not None and i % pattern.group == 0:
                group = slice(i, i + pattern.group)
                gone[group] = _lowest((W[group] / diagonal[group]).abs().T, pattern.count(pattern.group)).T
            errors[i] = W[i] * gone[i] / diagonal[i]
            W[i].masked_fill_(gone[i], 0)
            W[i + 1 : last].addr_(U[i, i + 1 : last], errors[i], alpha=-1)
        W[last:].addmm_(U[first:last, last:].T, errors[first:last], alpha=-1)
    return errors


def _lowest_of(scores: Float[Tensor, "rows in"], pattern: Pattern) -> Bool[Tensor, "rows in"]:
    """Where the lowest scores of each row are, or of each group of M."""
    among = scores if pattern.group is None else scores.reshape(-1, pattern.group)
    return _lowest(among, pattern.count(among.shape[1])).view_as(scores)


def _lowest(scores: Float[Tensor, "rows cols"], count: int) -> Bool[Tensor, "rows cols"]:
    """Where the `count` lowest scores of each row are."""
    chosen = scores.topk(count, dim=1, largest=False, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True)
