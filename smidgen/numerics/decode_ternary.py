"""Decodes the types of very few levels: weights of models that were trained to have two, three or four.

    weight = scale · {-1, 1}          Q1_0
    weight = scale · {-1, 0, 1}       TQ1_0 (five to a byte, base 3), TQ2_0 (four to a byte; 2 can be written too)
    weight = scale · {-1, 0, 1, 2}    Q2_0

One float16 scale d for a block. Layouts are in the docstrings, byte ranges in Python's sense.

Source: the block structs and dequantize_row functions of ggml.
"""

import torch
from torch import Tensor

from smidgen.numerics.unpack import bits_in_order, half, pairs_in_order, pairs_of_bits

_POWERS_OF_THREE = torch.tensor((1, 3, 9, 27, 81), dtype=torch.uint8).unsqueeze(1)


def decode_q1_0(blocks: Tensor) -> Tensor:
    """[0:2] d · [2:18] 128 bits in order: set for d, not set for -d."""
    return bits_in_order(blocks[:, 2:]).float().mul_(2).sub_(1).mul_(half(blocks, 0))


def decode_q2_0(blocks: Tensor) -> Tensor:
    """[0:2] d · [2:18] 64 two-bit numbers in order, offset by 1."""
    return pairs_in_order(blocks[:, 2:]).float().sub_(1).mul_(half(blocks, 0))


def decode_tq1_0(blocks: Tensor) -> Tensor:
    """[0:32] and [32:48] five base-3 digits to a byte · [48:52] four to a byte · [52:54] d; offset by 1."""
    digits = torch.cat(
        (_base_three(blocks[:, :32], 5), _base_three(blocks[:, 32:48], 5), _base_three(blocks[:, 48:52], 4)), dim=1
    )
    return digits.float().sub_(1).mul_(half(blocks, 52))


def decode_tq2_0(blocks: Tensor) -> Tensor:
    """[0:64] two-bit numbers, offset by 1 · [64:66] d."""
    return pairs_of_bits(blocks[:, :64]).float().sub_(1).mul_(half(blocks, 64))


def _base_three(packed: Tensor, digits: int) -> Tensor:
    """Digits in base 3, uint8 [blocks, digits * bytes]: all the first digits, then all the second, …

    A byte is a fraction of 256, rounded up. Its first digit is what of 3 · byte goes beyond 256, and multiplying by
    3 (modulo 256) moves the next one to the front. 3 · byte ≥ 256 from 86 on, ≥ 512 from 171 on.
    """
    moved = packed.unsqueeze(1) * _POWERS_OF_THREE[:digits]
    return moved.gt(85).to(torch.uint8).add_(moved.gt(170)).flatten(1)
