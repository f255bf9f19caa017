"""Rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864) in the half-split layout.

Feature j of the first half of a head and feature j of the second half form a pair, which position p turns by the
angle p / scale · base^(-2j / head). (The paper pairs neighbours; Hugging Face weights are stored for this layout.)
Dividing positions by `scale` is linear position interpolation (Chen et al. 2023, https://arxiv.org/abs/2306.15595).
"""

import torch
from torch import Tensor

from smidgen.model.config import LayerConfig
from smidgen.shapes import Float


def rotary_tables(
    layer: LayerConfig, start: int, length: int, device: torch.device
) -> tuple[Float[Tensor, "position head"], Float[Tensor, "position head"]]:
    """Cosines and sines for positions start … start+length-1, float32; both halves hold the same angles."""
    pairs = torch.arange(0, layer.head_dim, 2, dtype=torch.float32, device=device)
    frequencies = 1.0 / layer.rope_base ** (pairs / layer.head_dim)
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device) / layer.rope_scale
    angles = torch.outer(positions, frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(
    x: Float[Tensor, "batch heads position head"],
    cosines: Float[Tensor, "position head"],
    sines: Float[Tensor, "position head"],
) -> Float[Tensor, "batch heads position head"]:
    """Turns every feature pair of every head by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines
