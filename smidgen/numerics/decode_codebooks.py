"""Decodes the IQ types whose weights are entries of a codebook, in runs of four or eight.

    weight = scale · sign · magnitude       IQ2_XXS, IQ2_XS, IQ2_S (runs of 8), IQ3_XXS, IQ3_S (runs of 4)
    weight = scale · (entry ± 1/8)          IQ1_S, IQ1_M (runs of 8)

All have super-blocks of 256 weights with one float16 d, and small sub-scales s of 3 or 4 bits: scale = d · (s + ½) / 4
for IQ2, d · (s + ½) / 2 for IQ3_XXS, d · (2 s + 1) for IQ3_S and IQ1. Every product fits float32 without rounding.
`numerics.codebooks` has the tables. Layouts are in the docstrings, byte ranges in Python's sense; what is called a
word is little-endian.

Source: the block structs and dequantize_row functions of ggml. Cost: a table look-up for each run and one for its
signs, both on whole runs (4 or 8 bytes at a time); about one and a half bytes a weight beside the float32 result.
"""

from functools import cache

import torch
from torch import Tensor

from smidgen.numerics import block_types
from smidgen.numerics.codebooks import SIGNS, codebook
from smidgen.numerics.unpack import (
    BIT_MASKS,
    bits_in_order,
    half,
    nibbles_in_order,
    pairs_in_order,
    scale_sub_blocks,
    words,
)

# How a whole run is copied at once: as one integer.
_AS_ONE = {4: torch.int32, 8: torch.int64}

_FOUR_SHIFTS_OF_SEVEN = torch.tensor((0, 7, 14, 21), dtype=torch.int32)
_FOUR_SHIFTS_OF_THREE = torch.tensor((0, 3, 6, 9), dtype=torch.int32)


def decode_iq2_xxs(blocks: Tensor) -> Tensor:
    """[0:2] d · [2:66] for each 32 weights: four indices, then a word of four seven-bit signs and, on top, s."""
    for_signs = words(blocks, 2, 66, torch.int32)[:, 1::2]
    indices = blocks[:, 2:66].unflatten(1, (8, 8))[:, :, :4].flatten(1)
    runs = _runs(codebook(block_types.IQ2_XXS), indices)
    return _signed(runs, _four_signs(for_signs), half(blocks, 0) * _top_scales(for_signs) * 0.25)


def decode_iq2_xs(blocks: Tensor) -> Tensor:
    """[0:2] d · [2:66] a word of 16 bits for each run: nine of index, seven of signs · [66:74] sixteen s of 4 bits."""
    pairs = words(blocks, 2, 66, torch.int16).int()
    runs = _runs(codebook(block_types.IQ2_XS), pairs & 511)
    return _signed(runs, _runs(SIGNS, pairs >> 9 & 127), half(blocks, 0) * _half_steps(blocks[:, 66:74]) * 0.25)


def decode_iq2_s(blocks: Tensor) -> Tensor:
    """[0:2] d · [2:34] low bytes of indices · [34:66] signs · [66:74] high two bits, in order · [74:82] sixteen s."""
    runs = _runs(codebook(block_types.IQ2_S), _with_high(blocks[:, 2:34], pairs_in_order(blocks[:, 66:74])))
    return _signed(runs, _runs(_all_signs(), blocks[:, 34:66]), half(blocks, 0) * _half_steps(blocks[:, 74:82]) * 0.25)


def decode_iq3_xxs(blocks: Tensor) -> Tensor:
    """[0:2] d · [2:66] indices · [66:98] for each 32 weights a word of four seven-bit signs and, on top, s."""
    for_signs = words(blocks, 66, 98, torch.int32)
    runs = _runs(codebook(block_types.IQ3_XXS), blocks[:, 2:66])
    return _signed(runs, _four_signs(for_signs), half(blocks, 0) * _top_scales(for_signs) * 0.5)


def decode_iq3_s(blocks: Tensor) -> Tensor:
    """[0:2] d · [2:66] low bytes of indices · [66:74] ninth bits, in order · [74:106] signs · [106:110] eight s."""
    runs = _runs(codebook(block_types.IQ3_S), _with_high(blocks[:, 2:66], bits_in_order(blocks[:, 66:74])))
    scales = half(blocks, 0) * (nibbles_in_order(blocks[:, 106:110]) * 2 + 1)
    return _signed(runs, _runs(_all_signs(), blocks[:, 74:106]), scales)


def decode_iq1_s(blocks: Tensor) -> Tensor:
    """[0:2] d · [2:34] low bytes of indices · [34:50] for each 32 weights a word: four times three high bits, s, sign.

    The sign (the top bit) is that of the eighth: set for minus.
    """
    fields = words(blocks, 34, 50, torch.int16).int()
    high = (fields.unsqueeze(2) >> _FOUR_SHIFTS_OF_THREE & 7) | (fields >> 15 & 1).unsqueeze(2) << 3
    scales = half(blocks, 0) * ((fields >> 12 & 7) * 2 + 1) * 0.125
    return scale_sub_blocks(_runs(_eighths(), _with_high(blocks[:, 2:34], high.flatten(1))), scales)


def decode_iq1_m(blocks: Tensor) -> Tensor:
    """[0:32] low bytes of indices · [32:48] for each run three high bits and the eighth's sign · [48:56] scales.

    The scales are four words of 16 bits: four s of three bits each, and on top four bits of d, its lowest first.
    """
    fields = words(blocks, 48, 56, torch.int16).int()
    d = ((fields >> 12 & 15) << torch.tensor((0, 4, 8, 12), dtype=torch.int32)).sum(dim=1, keepdim=True)
    steps = (fields.unsqueeze(2) >> _FOUR_SHIFTS_OF_THREE & 7).flatten(1) * 2 + 1
    scales = d.to(torch.int16).view(torch.float16).float() * steps * 0.125
    high = nibbles_in_order(blocks[:, 32:48])
    return scale_sub_blocks(_runs(_eighths(), _with_high(blocks[:, :32], high)), scales)


@cache
def _all_signs() -> Tensor:
    """Every pattern of eight signs, int8 [256, 8]: bit i of the number is sign i, 1 for minus."""
    minus = torch.arange(256, dtype=torch.uint8).unsqueeze(1) & BIT_MASKS
    return torch.where(minus != 0, -1, 1).to(torch.int8)


@cache
def _eighths() -> Tensor:
    """The codebook of IQ1 in eighths, int8 [4096, 8]: first all entries with an eighth more, then with one less."""
    entries = codebook(block_types.IQ1_S) * 8
    return torch.cat((entries + 1, entries - 1))


def _runs(table: Tensor, numbers: Tensor) -> Tensor:
    """The table's entries with these numbers, end to end: int8 [blocks, numbers * run] from [blocks, numbers]."""
    run = table.shape[1]
    found = table.view(_AS_ONE[run]).flatten().index_select(0, numbers.flatten().int())
    return found.view(torch.int8).view(len(numbers), numbers.shape[1] * run)


def _with_high(low: Tensor, high: Tensor) -> Tensor:
    """Indices of more than eight bits, int32."""
    return low.int().add_(high, alpha=256)


def _four_signs(fields: Tensor) -> Tensor:
    """The signs of 32 weights from each word: four numbers of seven bits, from the lowest."""
    return _runs(SIGNS, (fields.unsqueeze(2) >> _FOUR_SHIFTS_OF_SEVEN & 127).flatten(1))


def _top_scales(fields: Tensor) -> Tensor:
    """s + ½ of each word, s being its four highest bits."""
    return (fields >> 28 & 15) + 0.5


def _half_steps(packed: Tensor) -> Tensor:
    """s + ½ for two s of four bits to a byte."""
    return nibbles_in_order(packed) + 0.5


def _signed(magnitudes: Tensor, signs: Tensor, scales: Tensor) -> Tensor:
    return scale_sub_blocks(magnitudes.mul_(signs), scales)
