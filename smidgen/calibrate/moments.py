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

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from smidgen.model.decoder import Block
from smidgen.shapes import Float

#: Linear layers of a block, in the order in which data meets them.
LINEARS = (
    "attention.query", "attention.key", "attention.value", "attention.output",
    "feed_forward.gate", "feed_forward.up", "feed_forward.down",
)  # fmt: skip


class SecondMoment:
    """Running weighted mean of x xᵀ over tokens."""

    def __init__(self, width: int) -> None:
        self.total: Float[Tensor, "in in"] = torch.zeros(width, width)
        self.weight = 0.0

    def add(self, x: Float[Tensor, "tokens in"], weights: Float[Tensor, " tokens"]) -> None:
        """Take in more tokens."""
        self.total.addmm_((x * weights[:, None]).T, x)
        self.weight += float(weights.double().sum())

    def mean(self) -> Float[Tensor, "in in"]:
        """E[w x xᵀ] / E[w] so far."""
        return self.total / max(self.weight, 1e-30)


@contextmanager
def watch_inputs(
    block: Block, token_weights: Mapping[str, Float[Tensor, " tokens"]]
) -> Iterator[dict[str, SecondMoment]]:
    """While the context is open, every forward pass of `block` adds to the moments of its linear layers' inputs.

    token_weights: for each of `LINEARS`, a weight for every token in the order in which they will pass.
    """
    moments: dict[str, SecondMoment] = {}
    handles = []

    def watch(name: str, linear: nn.Linear) -> None:
        moment, weights, seen = SecondMoment(linear.in_features), token_weights[name], 0
        moments[name] = moment

        def passing(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            nonlocal seen
            x = inputs[0].detach().flatten(0, -2)
            moment.add(x, weights[seen : seen + len(x)])
            seen += len(x)

        handles.append(linear.register_forward_pre_hook(passing))

    for name in LINEARS:
        watch(name, linear_of(block, name))
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()


def linear_of(block: Block, name: str) -> nn.Linear:
    """The linear layer called `name` in `LINEARS`."""
    linear = block.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return linear
