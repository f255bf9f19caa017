"""Turns packed GGUF blocks back into float32 weights, bit for bit as llama.cpp's reference (and PyPI's `gguf`) does.

(One freedom: a NaN stays a NaN, but which of the many NaN bit patterns comes out is left to the CPU.)

A GGUF row is a run of blocks; a block is 32 to 256 weights that share scales. The types in this file are one of

    weight = scale · q              symmetric:  Q4_0, Q5_0, Q8_0, Q3_K, Q6_K, IQ4_NL, IQ4_XS
    weight = scale · q + minimum    affine:     Q4_1, Q5_1
    weight = scale · q - minimum    affine:     Q2_K, Q4_K, Q5_K

with q a small integer (for IQ4: an entry of a table of 16). The K and IQ4_XS types ("super-blocks" of 256 weights)
store float16 factors d (and dmin) per block and small integer scales per sub-block: scale = d · integer, rounded to
float32 before it meets q. That order of roundings is the reference's, and is what makes the results equal.

Each function below takes whole blocks, uint8 [blocks, block_bytes], and returns float32 [blocks, weights]. Its
docstring is the layout, byte ranges in Python's sense. Types of fewer bits are in files beside this one:
`decode_codebooks` (IQ1, IQ2, IQ3), `decode_ternary` (TQ1_0, TQ2_0, Q1_0, Q2_0) and `decode_fp4` (MXFP4, NVFP4).

Source: the block structs and dequantize_row functions of ggml (ggml-common.h, ggml-quants.c). Cost: a few passes over
memory; nothing wider than the float32 result is allocated, so decode large matrices in chunks of rows.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from smidgen.numerics import block_types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode_codebooks import (
    decode_iq1_m,
    decode_iq1_s,
    decode_iq2_s,
    decode_iq2_xs,
    decode_iq2_xxs,
    decode_iq3_s,
    decode_iq3_xxs,
)
from smidgen.numerics.decode_fp4 import decode_mxfp4, decode_nvfp4
from smidgen.numerics.decode_ternary import decode_q1_0, decode_q2_0, decode_tq1_0, decode_tq2_0
from smidgen.numerics.unpack import (
    bit_planes,
    bits_in_order,
    half,
    nibbles,
    nibbles_in_order,
    pairs_of_bits,
    scale_sub_blocks,
    table_values,
)
from smidgen.shapes import Float, UInt8

BlockDecoder = Callable[[Tensor], Tensor]

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def decode(packed: UInt8[Tensor, "rows bytes"], kind: BlockType) -> Float[Tensor, "rows cols"]:
    """Decode rows of one stored type to float32.

    packed: rows as they lie in the file; each a whole number of blocks (ValueError otherwise). Never written to.
    Raises KeyError for a type that is not in `block_types.READABLE`.
    """
    if packed.dtype != torch.uint8 or packed.dim() != 2 or packed.shape[1] % kind.block_bytes:
        found = f"{packed.dtype} {list(packed.shape)}"
        raise ValueError(f"{kind.name} needs uint8 rows of a multiple of {kind.block_bytes} bytes, got {found}")
    rows, row_bytes = packed.shape
    blocks = packed.reshape(-1, kind.block_bytes)
    if blocks.storage_offset() % 4:  # floats are viewed in place, which needs them at multiples of their size
        blocks = blocks.clone()
    return DECODERS[kind.stored.name](blocks).reshape(rows, row_bytes // kind.block_bytes * kind.block)


def as_bytes_tensor(packed: np.ndarray) -> UInt8[Tensor, "rows bytes"]:
    """The same bytes as a tensor, without a copy. The file's map is read-only: writing to the result would crash."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(packed)


def _decode_f32(blocks: Tensor) -> Tensor:
    """[0:4] the weight."""
    return blocks.view(torch.float32).clone()


def _decode_f16(blocks: Tensor) -> Tensor:
    """[0:2] the weight as IEEE half."""
    return blocks.view(torch.float16).float()


def _decode_bf16(blocks: Tensor) -> Tensor:
    """[0:2] the upper half of the float32."""
    return blocks.view(torch.bfloat16).float()


def _decode_q4_0(blocks: Tensor) -> Tensor:
    """[0:2] scale d · [2:18] nibbles, offset by 8."""
    q = nibbles(blocks[:, 2:], 16).float().sub_(8)
    return q.mul_(half(blocks, 0))


def _decode_q4_1(blocks: Tensor) -> Tensor:
    """[0:2] scale d · [2:4] minimum m · [4:20] nibbles."""
    q = nibbles(blocks[:, 4:], 16).float()
    return q.mul_(half(blocks, 0)).add_(half(blocks, 2))


def _decode_q5_0(blocks: Tensor) -> Tensor:
    """[0:2] scale d · [2:6] fifth bits · [6:22] nibbles; offset by 16."""
    q = nibbles(blocks[:, 6:], 16).add_(bits_in_order(blocks[:, 2:6]), alpha=16).float().sub_(16)
    return q.mul_(half(blocks, 0))


def _decode_q5_1(blocks: Tensor) -> Tensor:
    """[0:2] scale d · [2:4] minimum m · [4:8] fifth bits · [8:24] nibbles."""
    q = nibbles(blocks[:, 8:], 16).add_(bits_in_order(blocks[:, 4:8]), alpha=16).float()
    return q.mul_(half(blocks, 0)).add_(half(blocks, 2))


def _decode_q8_0(blocks: Tensor) -> Tensor:
    """[0:2] scale d · [2:34] signed bytes."""
    return blocks[:, 2:].view(torch.int8).float().mul_(half(blocks, 0))


def _decode_q2_k(blocks: Tensor) -> Tensor:
    """[0:16] per 16 weights: scale (low half), minimum (high half) · [16:80] two-bit q · [80:82] d · [82:84] dmin."""
    scales = half(blocks, 80) * (blocks[:, :16] & 15)
    minimums = half(blocks, 82) * (blocks[:, :16] >> 4)
    return scale_sub_blocks(pairs_of_bits(blocks[:, 16:80]), scales, minimums)


def _decode_q3_k(blocks: Tensor) -> Tensor:
    """[0:32] third bits · [32:96] low two bits · [96:108] sixteen six-bit scales, offset by 32 · [108:110] d.

    A third bit that is *not* set takes 4 away: q runs from -4 to 3.
    Scales: bytes 0-7 hold the low four bits of scales 0-7 and 8-15; bytes 8-11 hold the high two bits of scales
    0-3, 4-7, 8-11 and 12-15, from the lowest pair of bits up.
    """
    high = blocks[:, 104:108]
    six_bits = nibbles(blocks[:, 96:104], 8).add_(
        torch.cat((high & 3, high >> 2 & 3, high >> 4 & 3, high >> 6), dim=1), alpha=16
    )
    q = pairs_of_bits(blocks[:, 32:96]).add_(bit_planes(blocks[:, :32]), alpha=4).float().sub_(4)
    return scale_sub_blocks(q, half(blocks, 108) * six_bits.float().sub_(32))


def _decode_q4_k(blocks: Tensor) -> Tensor:
    """[0:2] d · [2:4] dmin · [4:16] eight six-bit scales and minimums · [16:144] nibbles."""
    scales, minimums = six_bit_scales(blocks[:, 4:16])
    return scale_sub_blocks(nibbles(blocks[:, 16:], 32), half(blocks, 0) * scales, half(blocks, 2) * minimums)


def _decode_q5_k(blocks: Tensor) -> Tensor:
    """[0:2] d · [2:4] dmin · [4:16] eight six-bit scales and minimums · [16:48] fifth bits · [48:176] nibbles."""
    scales, minimums = six_bit_scales(blocks[:, 4:16])
    q = nibbles(blocks[:, 48:], 32).add_(bit_planes(blocks[:, 16:48]), alpha=16)
    return scale_sub_blocks(q, half(blocks, 0) * scales, half(blocks, 2) * minimums)


def _decode_q6_k(blocks: Tensor) -> Tensor:
    """[0:128] low four bits · [128:192] high two bits · [192:208] sixteen signed scales · [208:210] d; offset by 32."""
    q = nibbles(blocks[:, :128], 64).add_(pairs_of_bits(blocks[:, 128:192]), alpha=16).float().sub_(32)
    return scale_sub_blocks(q, half(blocks, 208) * blocks[:, 192:208].view(torch.int8))


def _decode_iq4_nl(blocks: Tensor) -> Tensor:
    """[0:2] scale d · [2:18] nibbles, each an index into IQ4_VALUES."""
    return table_values(nibbles(blocks[:, 2:], 16), IQ4_VALUES).mul_(half(blocks, 0))


def _decode_iq4_xs(blocks: Tensor) -> Tensor:
    """[0:2] d · [2:4] high two bits and [4:8] low four bits of eight scales, offset by 32 · [8:136] nibbles (table)."""
    shifts = torch.tensor((0, 2, 4, 6), dtype=torch.uint8)
    high = (blocks[:, 2:4].unsqueeze(2) >> shifts & 3).flatten(1)
    scales = nibbles_in_order(blocks[:, 4:8]).add_(high, alpha=16).float().sub_(32)
    return scale_sub_blocks(table_values(nibbles(blocks[:, 8:], 16), IQ4_VALUES), half(blocks, 0) * scales)


def six_bit_scales(twelve: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight minimums, uint8 [blocks, 8] each, from the 12 bytes of Q4_K and Q5_K.

    Bytes 0-3 hold scales 0-3 and 4-7 hold minimums 0-3, in their low six bits. Bytes 8-11 hold the low four bits of
    scales 4-7 (low halves) and of minimums 4-7 (high halves), whose high two bits are on top of bytes 0-3 and 4-7.
    """
    first, second, third = twelve[:, 0:4], twelve[:, 4:8], twelve[:, 8:12]
    scales = torch.cat((first & 63, third & 15 | first >> 6 << 4), dim=1)
    minimums = torch.cat((second & 63, third >> 4 | second >> 6 << 4), dim=1)
    return scales, minimums


DECODERS: dict[str, BlockDecoder] = {
    block_types.F32.name: _decode_f32,
    block_types.F16.name: _decode_f16,
    block_types.BF16.name: _decode_bf16,
    block_types.Q4_0.name: _decode_q4_0,
    block_types.Q4_1.name: _decode_q4_1,
    block_types.Q5_0.name: _decode_q5_0,
    block_types.Q5_1.name: _decode_q5_1,
    block_types.Q8_0.name: _decode_q8_0,
    block_types.Q2_K.name: _decode_q2_k,
    block_types.Q3_K.name: _decode_q3_k,
    block_types.Q4_K.name: _decode_q4_k,
    block_types.Q5_K.name: _decode_q5_k,
    block_types.Q6_K.name: _decode_q6_k,
    block_types.IQ4_NL.name: _decode_iq4_nl,
    block_types.IQ4_XS.name: _decode_iq4_xs,
    block_types.IQ1_S.name: decode_iq1_s,
    block_types.IQ1_M.name: decode_iq1_m,
    block_types.IQ2_XXS.name: decode_iq2_xxs,
    block_types.IQ2_XS.name: decode_iq2_xs,
    block_types.IQ2_S.name: decode_iq2_s,
    block_types.IQ3_XXS.name: decode_iq3_xxs,
    block_types.IQ3_S.name: decode_iq3_s,
    block_types.TQ1_0.name: decode_tq1_0,
    block_types.TQ2_0.name: decode_tq2_0,
    block_types.Q1_0.name: decode_q1_0,
    block_types.Q2_0.name: decode_q2_0,
    block_types.MXFP4.name: decode_mxfp4,
    block_types.NVFP4.name: decode_nvfp4,
}
