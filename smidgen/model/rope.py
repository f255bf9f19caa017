"""Rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864) in the half-split layout.

Feature j of the first half of the turning features and feature j of their second half form a pair, which position p
turns by the angle p · base^(-2j / width) / divisor_j. (The paper pairs neighbours; Hugging Face weights are stored for
this layout.) Features beyond `width` stay as they are: partial rotary embedding (Black et al. 2022,
https://arxiv.org/abs/2204.06745, section 2.1.1).
"""

import torch
from torch import Tensor

from smidgen.model.config import Rotary
from smidgen.shapes import Float


def rotary_tables(
    rotary: Rotary, start: int, length: int, device: torch.device
) -> tuple[Float[Tensor, "position turning"], Float[Tensor, "position turning"]]:
    """Cosines and sines for positions start … start+length-1, float32; both halves hold the same angles."""
    pairs = torch.arange(0, rotary.width, 2, dtype=torch.float32, device=device)
    periods = rotary.base ** (pairs / rotary.width)
    magnitude = 1.0
    if rotary.scaling is not None:
        divisors = rotary.scaling.divisors(rotary.base, rotary.width, start + length)
        periods = periods * torch.tensor(divisors, dtype=torch.float32, device=device)
        magnitude = rotary.scaling.magnitude
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device)
    angles = torch.outer(positions, 1.0 / periods).repeat(1, 2)
    return angles.cos() * magnitude, angles.sin() * magnitude


def rotate(
    x: Float[Tensor, "batch heads position head"],
    cosines: Float[Tensor, "position turning"],
    sines: Float[Tensor, "position turning"],
) -> Float[Tensor, "batch heads position head"]:
    """Turn every pair of the first `turning` features by its position's angle."""
    width = cosines.shape[1]
    turning, still = x[..., :width], x[..., width:]
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cosines + torch.cat((-second, first), dim=-1) * sines
    turned = turned.to(x.dtype)
    return turned if width == x.shape[-1] else torch.cat((turned, still), dim=-1)
