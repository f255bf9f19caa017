"""The gradient of some rows of a matrix, window by window: how their errors add up from token to token.

With gᵣ = ∂(−log p)/∂yᵣ for labels drawn from the model, the Fisher information of the weights of row r is

    Fᵣ = E[v vᵀ] over windows,    v = Σₜ gᵣₜ xₜ,

so a change Δ of the row costs ½ Σ (Δ·v)² / T nats a token, the sum over windows of T tokens in all. Tokens of different
windows never meet. Those of one do, above all where attention gathers what was written at many positions: token by
token, with E[gᵣ²] E[w (Δ·x)²] / E[w] in the place of Δ Fᵣ Δᵀ, compensated values of SmolLM2 seem to cost 0.6 times what
they do (LOG.md).

Cost: 2 · tokens · rows · inputs operations. Memory: windows · rows · inputs numbers in bfloat16.
"""

import torch
from torch import Tensor

from smidgen.numerics.precision import quick_products
from smidgen.shapes import Float, Int

_ROWS = 96
_WINDOWS = 32  # as many as are kept, from the beginning of the text


class RowGradients:
    """Of a matrix, growing by whole windows. The first of them say which rows matter, and so which are looked at.

    drawn: which, and shares with which a sum over them estimates the sum over all rows (`draw_rows`).
    """

    def __init__(self) -> None:
        self.drawn: tuple[Int[Tensor, " drawn"], Float[Tensor, " drawn"]] = (torch.zeros(0).long(), torch.zeros(0))
        self._windows: list[Float[Tensor, "drawn in"]] = []
        self._tokens = 0

    def add(self, x: Float[Tensor, "tokens in"], gradient: Float[Tensor, "tokens out"], length: int) -> None:
        """Take in more windows.  length: tokens of each."""
        if not self._windows:
            self.drawn = draw_rows(gradient.float().square().sum(0))
        rows, _ = self.drawn
        for inputs, outputs in zip(x.split(length), gradient.split(length), strict=True):
            if len(self._windows) < _WINDOWS:
                with quick_products():
                    self._windows.append((outputs[:, rows].T.float() @ inputs.float()).bfloat16())
                self._tokens += length

    @property
    def windows(self) -> int:
        """How many are kept."""
        return len(self._windows)

    def cost(self, error: Float[Tensor, "drawn span"], first: int = 0) -> float:
        """Σᵣ Δ Fᵣ Δᵀ over all rows, for an error of those drawn in the columns from `first` on."""
        columns = slice(first, first + error.shape[1])
        sums = torch.stack([torch.linalg.vecdot(v[:, columns].float(), error) for v in self._windows])
        return float(self.drawn[1] @ sums.square().sum(0)) / max(self._tokens, 1)


def draw_rows(
    importance: Float[Tensor, " out"], count: int = _ROWS
) -> tuple[Int[Tensor, " drawn"], Float[Tensor, " drawn"]]:
    """Rows of a matrix, in order, and shares with which a sum over them estimates the sum over all rows.

    At equal steps of the running sum of importance, so rows are drawn in proportion to it, and of every stretch of the
    matrix; one that is more than a step may come twice. A tenth of the sum is the same for all rows, so that none
    counts for much more than its share.
    """
    total = importance.double().sum().clamp_min(1e-30)
    probability = 0.9 * importance.double() / total + 0.1 / len(importance)
    probability /= probability.sum()  # of nothing but zeros the tenth is all there is
    steps = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = torch.searchsorted(probability.cumsum(0), steps).clamp_max(len(importance) - 1)
    return drawn, (1 / (probability[drawn] * count)).float()
