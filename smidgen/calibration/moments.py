"""Second moments of what flows into each linear layer: H = E[x xᵀ], the metric of every layer-wise quantizer.

For a linear layer y = W x and a change ΔW, the mean squared change of output r is (ΔW H ΔWᵀ)ᵣᵣ; so H is all that error
compensation, scale search and pruning by reconstruction need of the calibration data (Hassibi & Stork 1992; GPTQ,
arXiv:2210.17323, eq. 1: there 2XXᵀ).

Not every token matters alike. A few, the first above all, have activations hundreds of times larger than the others
(Sun et al. 2024, arXiv:2402.17762), which the norms after them take out again; unweighted they rule H. So each token
counts by how much the prediction depends on this layer's output there, w = mean over outputs of g², g = ∂(−log p)/∂y:

    H = E[w x xᵀ] / E[w]

This is the guided objective of Kim et al. 2025 (GuidedQuant, arXiv:2505.07004, eq. 6) with one group of outputs.
"""

from functools import partial

import torch
from torch import Tensor, nn

from smidgen.model.decoder import Block
from smidgen.numerics.cores import on_all_cores
from smidgen.numerics.precision import quick_products
from smidgen.shapes import Float

_STRIP = 256  # rows of the upper triangle that one core adds to at once


class SecondMoment:
    """Running weighted mean of x xᵀ over tokens."""

    def __init__(self, width: int) -> None:
        self.total: Float[Tensor, "in in"] = torch.zeros(width, width)  # the lower triangle stays empty until the end
        self.weight = 0.0

    def add(self, x: Float[Tensor, "tokens in"], weights: Float[Tensor, " tokens"]) -> None:
        """Take in more tokens. The order in which they add up is the same for every number of threads."""
        x = x * weights.sqrt()[:, None]
        with quick_products():
            on_all_cores(partial(self._add_strip, x), range(0, len(self.total), _STRIP))
        self.weight += float(weights.double().sum())

    def _add_strip(self, x: Float[Tensor, "tokens in"], start: int) -> None:
        strip = slice(start, start + _STRIP)
        self.total[strip, start:].addmm_(x[:, strip].T, x[:, start:])

    def mean(self) -> Float[Tensor, "in in"]:
        """E[w x xᵀ] / E[w], in the memory of the sum: no more tokens can be added."""
        self.total.div_(max(self.weight, 1e-30))
        for start in range(0, len(self.total), _STRIP):
            corner, end = self.total[start : start + _STRIP, start : start + _STRIP], start + _STRIP
            corner.copy_(corner.triu() + corner.triu(1).T)
            self.total[end:, start:end] = self.total[start:end, end:].T
        self.weight = 1.0
        return self.total


def linear_of(block: Block, name: str) -> nn.Linear:
    """The linear layer called `name` in `model.parameters.block_linears`."""
    linear = block.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return linear
