"""Root mean square normalisation (Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from smidgen.shapes import Float


def divided_by_rms(x: Float[Tensor, "... width"], epsilon: float) -> Float[Tensor, "... width"]:
    """`x` over the root mean square of its last dimension, computed in float32: the norm without a weight."""
    return functional.rms_norm(x.float(), x.shape[-1:], None, epsilon).to(x.dtype)


class RMSNorm(nn.Module):
    """Divides by the root mean square of the last dimension, then multiplies by `weight`, in float32.

    `weight` is the plain multiplier: Gemma's "1 + w" is folded in where a file is read. Created uninitialised.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """Same shape and dtype as `x`."""
        normal = functional.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.epsilon)
        return normal.to(x.dtype)
