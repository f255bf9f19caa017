"""Decodes the types whose weights are four-bit floats (one sign, two exponent and one mantissa bit: ±0, ½, 1 … 6).

MXFP4 scales 32 of them by a power of two (E8M0, one byte), NVFP4 16 of them by a small float (E4M3 without a sign).
As ggml does, the table holds twice the values, and each scale is half of what its byte says.

A model in NVFP4 usually has one more scale for each tensor, in a tensor of its own; that is not this file's matter.

Source: the OCP Microscaling Formats specification 1.0 (MXFP4); the block structs and dequantize_row functions of ggml.
"""

from functools import cache

import torch
from torch import Tensor

from smidgen.numerics.unpack import nibbles, scale_sub_blocks, table_values

TWICE_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # -0 is 0


def decode_mxfp4(blocks: Tensor) -> Tensor:
    """[0] exponent of the scale, 2 ** (byte - 127) · [1:17] nibbles."""
    scales = _half_e8m0().index_select(0, blocks[:, 0].int()).unsqueeze(1)
    return table_values(nibbles(blocks[:, 1:], 16), TWICE_E2M1).mul_(scales)


def decode_nvfp4(blocks: Tensor) -> Tensor:
    """[0:4] scales of 16 weights each · [4:36] nibbles, in runs of eight bytes."""
    scales = _half_e4m3().index_select(0, blocks[:, :4].flatten().int()).view(-1, 4)
    return scale_sub_blocks(table_values(nibbles(blocks[:, 4:], 8), TWICE_E2M1), scales)


@cache
def _half_e8m0() -> Tensor:
    """Half of 2 ** (byte - 127) for each byte, float32 [256]. As ggml has it, 255 (which would be NaN) is one more."""
    return torch.ldexp(torch.ones(256), torch.arange(-128, 128))


@cache
def _half_e4m3() -> Tensor:
    """Half the value of each byte as E4M3 (exponent bias 7), float32 [256]. The top bit is not looked at.

    As ggml has it, 127 (which would be NaN) is 0, and 255 is not.
    """
    codes = torch.arange(256)
    exponents, mantissas = codes >> 3 & 15, (codes & 7).float()
    normal = torch.ldexp(1 + mantissas / 8, exponents - 8)
    values = torch.where(exponents == 0, mantissas * 2.0**-10, normal)
    values[127] = 0
    return values
