"""Alternating updates: several copies of the residual stream, of which each layer computes on one (Gemma 3n).

AltUp (Baykal et al. 2023, https://arxiv.org/abs/2301.13310), algorithm 1: before a layer every stream is predicted from
all of them, x̂_i = x_i + Σ_j p_ij x_j; the layer computes on the active prediction; then every prediction is corrected
by what the layer found there, x_i = x̂_i + (1 + c_i) (y − x̂_active). In Gemma 3n p and c are not constants: a small
router reads the active stream and mixes them. Streams are the dimension before the last.
"""

import torch
from torch import Tensor, nn

from smidgen.model.config import LayerConfig
from smidgen.model.feed_forward import Scale
from smidgen.model.linear import BlankLinear
from smidgen.model.norms import RMSNorm
from smidgen.shapes import Float

_LEAST_SQUARE = 1e-5  # of a stream's numbers, on average, when it is brought to another's magnitude


class AlternatingUpdates(nn.Module):
    """What one layer does with the streams before and after it computes. Created uninitialised."""

    def __init__(self, layer: LayerConfig, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.active, self.count = layer.active_stream, layer.streams
        self.router_norm = RMSNorm(hidden, epsilon)
        self.router = BlankLinear(hidden, self.count)
        self.predict = BlankLinear(self.count, self.count**2)
        self.correct = BlankLinear(self.count, self.count)
        self.output_scale = Scale(hidden)

    def _routed(self, x: Float[Tensor, "... hidden"]) -> Float[Tensor, "... streams"]:
        return torch.tanh(self.router(self.router_norm(x) / x.shape[-1]))

    def predicted(self, x: Float[Tensor, "... streams hidden"]) -> Float[Tensor, "... streams hidden"]:
        """Every stream, from all of them."""
        mixing = self.predict(self._routed(x[..., self.active, :])).unflatten(-1, (self.count, self.count))
        return x + mixing @ x

    def corrected(
        self, predicted: Float[Tensor, "... streams hidden"], computed: Float[Tensor, "... hidden"]
    ) -> Float[Tensor, "... streams hidden"]:
        """Every stream, from its prediction and what the layer made of the active one."""
        shares = 1 + self.correct(self._routed(computed))
        news = computed - predicted[..., self.active, :]
        return predicted + shares[..., None] * news[..., None, :]


def spread(x: Float[Tensor, "... hidden"], projections: nn.ModuleList) -> Float[Tensor, "... streams hidden"]:
    """What enters the first layer: the embedding, and projections of it at its magnitude."""
    return torch.stack([x, *(_as_large_as(x, projection(x)) for projection in projections)], dim=-2)


def gathered(x: Float[Tensor, "... streams hidden"], projections: nn.ModuleList) -> Float[Tensor, "... hidden"]:
    """What leaves the last layer: the mean of the first stream and of projections of the others at its magnitude."""
    first = x[..., 0, :]
    others = (projection(x[..., place + 1, :]) for place, projection in enumerate(projections))
    return torch.stack([first, *(_as_large_as(first, other) for other in others)]).mean(0)


def _as_large_as(wanted: Float[Tensor, "... hidden"], x: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
    target = wanted.square().mean(-1, keepdim=True).sqrt()
    return x * target / x.square().mean(-1, keepdim=True).clamp(min=_LEAST_SQUARE).sqrt()
