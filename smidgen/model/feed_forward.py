"""The gated feed-forward network, and the mixture of several of which each token takes a few.

Gated: down(activation(gate·x) ⊙ up·x), Shazeer 2020, https://arxiv.org/abs/2002.05202. Mixture: a router scores the
experts for each token, the best few work, and their outputs are mixed by the softmax of their scores (Mixtral, Jiang et
al. 2024, https://arxiv.org/abs/2401.04088, section 2.1).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from smidgen.model.config import LayerConfig
from smidgen.model.linear import BlankLinear
from smidgen.shapes import Float, Int


class FeedForward(nn.Module):
    """Gated feed-forward network: down(activation(gate·x) ⊙ up·x)."""

    def __init__(self, layer: LayerConfig, hidden: int) -> None:
        super().__init__()
        self.gate = BlankLinear(hidden, layer.ffn_width)
        self.up = BlankLinear(hidden, layer.ffn_width)
        self.down = BlankLinear(layer.ffn_width, hidden)
        self.activation = layer.activation

    def forward(self, x: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
        """Same shape as `x`."""
        return self.down(self.gated(x))

    def gated(self, x: Float[Tensor, "... hidden"]) -> Float[Tensor, "... ffn_width"]:
        """What the last layer reads."""
        gate = self.gate(x)
        active = functional.silu(gate) if self.activation == "silu" else functional.gelu(gate, approximate="tanh")
        return active * self.up(x)


class Experts(nn.Module):
    """A router, and feed-forward networks numbered from 0."""

    def __init__(self, layer: LayerConfig, hidden: int) -> None:
        super().__init__()
        self.used = layer.experts_used
        self.router = BlankLinear(hidden, layer.experts)
        self.networks = [FeedForward(layer, hidden) for _ in range(layer.experts)]
        for number, network in enumerate(self.networks):
            self.add_module(str(number), network)

    def route(
        self, x: Float[Tensor, "tokens hidden"]
    ) -> tuple[Float[Tensor, "tokens used"], Int[Tensor, "tokens used"]]:
        """The share that each chosen expert has in a token's output, and which experts they are, the best first."""
        scores, chosen = self.router(x).float().topk(self.used, dim=-1)
        return scores.softmax(dim=-1).to(x.dtype), chosen

    def forward(self, x: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
        """Same shape as `x`."""
        tokens = x.flatten(0, -2)
        shares, chosen = self.route(tokens)
        mixed = torch.zeros_like(tokens)
        for number, network in enumerate(self.networks):
            token, place = (chosen == number).nonzero(as_tuple=True)
            if len(token):
                mixed = mixed.index_add(0, token, (network(tokens[token]) * shares[token, place, None]).to(mixed.dtype))
        return mixed.view(x.shape)
