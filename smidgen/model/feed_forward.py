"""The gated feed-forward network, and the mixture of several of which each token takes a few.

Gated: down(activation(gate·x) ⊙ up·x), Shazeer 2020, https://arxiv.org/abs/2002.05202. Mixture: a router scores the
experts for each token, the best few work, and their outputs are mixed by the softmax of their scores (Mixtral, Jiang et
al. 2024, https://arxiv.org/abs/2401.04088, section 2.1).

Activation sparsity, as Gemma 3n has it ("statistical top-k" of You et al. 2025, https://arxiv.org/abs/2506.06644): of
the numbers that leave the gate's matrix only the largest stay, by what they exceed mean + Φ⁻¹(share) · deviation.
"""

from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.nn import functional

from smidgen.model.config import Activation, LayerConfig
from smidgen.model.linear import BlankLinear
from smidgen.model.norms import divided_by_rms
from smidgen.shapes import Float, Int


class FeedForward(nn.Module):
    """Gated feed-forward network: down(activation(gate·x) ⊙ up·x)."""

    def __init__(self, layer: LayerConfig, hidden: int, width: int) -> None:
        super().__init__()
        self.gate = BlankLinear(hidden, width)
        self.up = BlankLinear(hidden, width)
        self.down = BlankLinear(width, hidden)
        self.activation: Activation = layer.activation
        self.deviations = NormalDist().inv_cdf(layer.sparsity) if layer.sparsity else None

    def forward(self, x: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
        """Same shape as `x`."""
        return self.down(self.gated(x))

    def gated(self, x: Float[Tensor, "... hidden"]) -> Float[Tensor, "... ffn_width"]:
        """What the last layer reads."""
        gate = self.gate(x)
        if self.deviations is not None:
            bound = gate.mean(-1, keepdim=True) + self.deviations * gate.std(-1, keepdim=True, correction=0)
            gate = functional.relu(gate - bound)
        return activated(gate, self.activation) * self.up(x)


def activated(x: Float[Tensor, "..."], activation: Activation) -> Float[Tensor, "..."]:
    """The function of each number by itself that a layer has."""
    return functional.silu(x) if activation == "silu" else functional.gelu(x, approximate="tanh")


class Scale(nn.Module):
    """Multiplies the last dimension by `weight`. Created uninitialised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """Same shape as `x`."""
        return x * self.weight


class Experts(nn.Module):
    """A router, and feed-forward networks numbered from 0.

    Beside a feed-forward network (Gemma 4) the router reads what is divided by its root mean square and times a learned
    scale over √hidden, and each expert's share has a factor of its own.
    """

    def __init__(self, layer: LayerConfig, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.used, self.epsilon = layer.experts_used, epsilon
        self.router = BlankLinear(hidden, layer.experts)
        self.router_scale = Scale(hidden) if layer.expert_width else None
        self.output_scale = Scale(layer.experts) if layer.expert_width else None
        width = layer.expert_width or layer.ffn_width
        self.networks = [FeedForward(layer, hidden, width) for _ in range(layer.experts)]
        for number, network in enumerate(self.networks):
            self.add_module(str(number), network)

    def route(
        self, x: Float[Tensor, "tokens hidden"]
    ) -> tuple[Float[Tensor, "tokens used"], Int[Tensor, "tokens used"]]:
        """The share that each chosen expert has in a token's output, and which experts they are, the best first."""
        if self.router_scale is not None:
            x = self.router_scale(divided_by_rms(x, self.epsilon)) * x.shape[-1] ** -0.5
        scores, chosen = self.router(x).float().topk(self.used, dim=-1)
        shares = scores.softmax(dim=-1)
        if self.output_scale is not None:
            shares = shares * self.output_scale.weight[chosen]
        return shares.to(x.dtype), chosen

    def forward(
        self, x: Float[Tensor, "... hidden"], routed: Float[Tensor, "... hidden"] | None = None
    ) -> Float[Tensor, "... hidden"]:
        """Same shape as `x`. routed: what the router reads, where that is something else."""
        tokens = x.flatten(0, -2)
        shares, chosen = self.route(tokens if routed is None else routed.flatten(0, -2))
        mixed = torch.zeros_like(tokens)
        for number, network in enumerate(self.networks):
            token, place = (chosen == number).nonzero(as_tuple=True)
            if len(token):
                mixed = mixed.index_add(0, token, (network(tokens[token]) * shares[token, place, None]).to(mixed.dtype))
        return mixed.view(x.shape)
