"""Rows as the engine rounds them while it runs: one pass, no search, in Q8_0 or Q4_0.

A group of 32 numbers x shares a scale d, which is stored in float16, while codes are taken with the exact one:

    Q8_0: d = max|x| / 127,  code = round(x / d), halves to even       Q4_0: d = m / -8,  code = min(15, ⌊x / d + 8.5⌋)

where m is the number of the largest magnitude, with its sign; what is read again is code · d and (code − 8) · d. So
does ggml with what it writes into a cache of keys and values. Weights get better: quantization/ searches.

`rotated` is the Walsh-Hadamard transform (Sylvester's, orthonormal, its own inverse): it spreads a few large numbers
over their neighbours before a group is rounded, as QuaRot (Ashkboos et al. 2024, arXiv:2404.00456) does.
"""

import torch
from torch import Tensor

from smidgen.numerics.block_types import Q4_0, Q8_0, BlockType
from smidgen.shapes import Float

_LARGEST_CODE = {Q8_0: 127, Q4_0: -8}


def rounded(x: Float[Tensor, "*rest width"], kind: BlockType) -> Float[Tensor, "*rest width"]:
    """What is read again of rows that were stored as `kind`, Q8_0 or Q4_0; ValueError where they do not fit."""
    levels, scale = levels_and_scale(x, kind)
    return (levels * scale.float()).flatten(-2)


def levels_and_scale(
    x: Float[Tensor, "*rest width"], kind: BlockType
) -> tuple[Float[Tensor, "*rest groups group"], Float[Tensor, "*rest groups 1"]]:
    """What is stored of rows as `kind`: whole numbers, around 0, and the scale of each group in float16.

    Raises ValueError where the rows do not fit.
    """
    if not kind.fits(x.shape[-1]):
        raise ValueError(f"{kind.name} needs rows divisible by {kind.block}, got {x.shape[-1]}")
    groups = x.unflatten(-1, (-1, kind.block))
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scale = (largest.abs() if kind is Q8_0 else largest) / _LARGEST_CODE[kind]
    steps = torch.where(scale == 0, 0, groups / scale)
    levels = steps.round() if kind is Q8_0 else (steps + 8.5).floor().clamp(max=15) - 8
    return levels, scale.half()


def rotated(x: Float[Tensor, "*rest width"], size: int) -> Float[Tensor, "*rest width"]:
    """Each stretch of `size` numbers, a power of two, times the orthonormal Hadamard matrix. Twice: as before."""
    shape, step = x.shape, 1
    x = x.unflatten(-1, (-1, size))
    while step < size:
        pairs = x.unflatten(-1, (-1, 2, step))
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        x = torch.stack([first + second, first - second], dim=-2).flatten(-3)
        step *= 2
    return (x / size**0.5).reshape(shape)
