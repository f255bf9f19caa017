"""Second moments of what flows into each linear layer: H = E[x xᵀ], the metric of every layer-wise quantizer.

For a linear layer y = W x and a change ΔW, the mean squared change of output r is (ΔW H ΔWᵀ)ᵣᵣ; so H is all that error
compensation, scale search and pruning by reconstruction need of the calibration data (Hassibi & Stork 1992; GPTQ,
arXiv:2210.17323, eq. 1: there 2XXᵀ).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from smidgen.model.decoder import Block
from smidgen.shapes import Float

#: Linear layers of a block, in the order in which data meets them, and the one whose input each shares.
INPUT_OF = {
    "attention.query": "attention.query",
    "attention.key": "attention.query",
    "attention.value": "attention.query",
    "attention.output": "attention.output",
    "feed_forward.gate": "feed_forward.gate",
    "feed_forward.up": "feed_forward.gate",
    "feed_forward.down": "feed_forward.down",
}


class SecondMoment:
    """Running mean of x xᵀ over tokens."""

    def __init__(self, width: int) -> None:
        self.total: Float[Tensor, "in in"] = torch.zeros(width, width)
        self.tokens = 0

    def add(self, x: Float[Tensor, "... in"]) -> None:
        """Take in more tokens."""
        flat = x.reshape(-1, x.shape[-1])
        self.total.addmm_(flat.T, flat)
        self.tokens += len(flat)

    def mean(self) -> Float[Tensor, "in in"]:
        """E[x xᵀ] so far."""
        return self.total / self.tokens


@contextmanager
def watch_inputs(block: Block) -> Iterator[dict[str, SecondMoment]]:
    """While the context is open, every forward pass of `block` adds to the moments of its linear layers' inputs.

    Yields one moment for each distinct input, under the name of the first layer that reads it (values of `INPUT_OF`).
    """
    moments: dict[str, SecondMoment] = {}
    handles = []

    def watch(name: str, linear: nn.Linear) -> None:
        moment = moments[name] = SecondMoment(linear.in_features)
        handles.append(linear.register_forward_pre_hook(lambda _, inputs: moment.add(inputs[0].detach())))

    for name in dict.fromkeys(INPUT_OF.values()):
        watch(name, linear_of(block, name))
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()


def linear_of(block: Block, name: str) -> nn.Linear:
    """The linear layer called `name` in `INPUT_OF`."""
    linear = block.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return linear
