"""What a block of the types IQ2 and IQ3 stores, field by field: numbers ↔ bytes, without any choice.

A block of 256 weights has a float16 unit; a 4-bit factor f for every group of 16 or 32, whose scale is
unit · fraction · (2f + 1); the number of a codeword for every run of 8 or 4 weights (`numerics.codebooks`); and a
sign for every weight. Where signs take seven bits in eight weights, the file leaves the last of them out: it is such
that the minuses are even in number.

Layouts are ggml's (ggml-common.h); below, byte ranges count from behind the unit. `fields_of(pack_fields(fields))`
gives the same fields back, and so the other way round.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.codebooks import codebook
from smidgen.shapes import Float, Int, UInt8


@dataclass(frozen=True)
class CodewordFormat:
    """One of these types. group: weights that share a factor.  fraction: see above.  even: signs take seven bits."""

    kind: BlockType
    group: int
    fraction: float
    even: bool

    @property
    def run(self) -> int:
        """Weights of one codeword."""
        return codebook(self.kind).shape[1]


FORMATS: dict[BlockType, CodewordFormat] = {
    types.IQ2_XXS: CodewordFormat(types.IQ2_XXS, 32, 0.125, even=True),
    types.IQ2_XS: CodewordFormat(types.IQ2_XS, 16, 0.125, even=True),
    types.IQ2_S: CodewordFormat(types.IQ2_S, 16, 0.125, even=False),
    types.IQ3_XXS: CodewordFormat(types.IQ3_XXS, 32, 0.25, even=True),
    types.IQ3_S: CodewordFormat(types.IQ3_S, 32, 1.0, even=False),
}


@dataclass(frozen=True)
class Fields:
    """A matrix of such blocks.

    unit: exactly as stored, float16.  factors: 0 to 15.  words: numbers of codewords, int16.
    signs: of eight weights, bit i set where weight i has a minus.
    """

    unit: Float[Tensor, "rows blocks"]
    factors: UInt8[Tensor, "rows groups"]
    words: Int[Tensor, "rows runs"]
    signs: UInt8[Tensor, "rows octets"]


def sign_bits(minus: Tensor) -> UInt8[Tensor, "..."]:
    """Eight truth values (in the last dimension) to a byte, the first in the lowest bit."""
    return (minus.to(torch.uint8) << torch.arange(8, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)


def signs_of(bits: UInt8[Tensor, "rows octets"]) -> Float[Tensor, "rows cols"]:
    """+1 or −1 of every weight."""
    minus = bits[..., None] >> torch.arange(8, dtype=torch.uint8) & 1
    return 1 - 2 * minus.flatten(-2).float()


def pack_fields(kind: BlockType, fields: Fields) -> UInt8[Tensor, "rows bytes"]:
    """Bytes as the file holds them. Of types with seven bits for eight signs, the minuses must be even in number."""
    rows, blocks = fields.unit.shape
    by_block = (field.reshape(rows, blocks, -1) for field in (fields.factors, fields.words, fields.signs))
    unit = fields.unit.half().contiguous().view(torch.uint8).view(rows, blocks, 2)
    return torch.cat([unit, *_PACKERS[kind](*by_block)], dim=-1).flatten(1)


def fields_of(kind: BlockType, packed: UInt8[Tensor, "rows bytes"]) -> Fields:
    """The fields of packed rows. Raises KeyError for a type without codewords that can be written."""
    rows = len(packed)
    blocks = packed.reshape(rows, -1, kind.block_bytes)
    unit = blocks[..., :2].contiguous().view(torch.float16).flatten(1)
    factors, words, signs = _UNPACKERS[kind](blocks[..., 2:])
    return Fields(unit, factors.flatten(1).to(torch.uint8), words.flatten(1).to(torch.int16), signs.flatten(1))


def _bytes_of(numbers: Tensor, width: int) -> Tensor:
    """The lowest `width` bytes of integers, little-endian."""
    shifts = 8 * torch.arange(width)
    return (numbers.long()[..., None] >> shifts & 255).to(torch.uint8).flatten(-2)


def _numbers_of(stored: Tensor, width: int) -> Tensor:
    """The way back, int64."""
    return (stored.unflatten(-1, (-1, width)).long() << 8 * torch.arange(width)).sum(-1)


def _joined(parts: Tensor, each: int, bits: int) -> Tensor:
    """`each` small integers in one, the first in the lowest bits."""
    return (parts.long().unflatten(-1, (-1, each)) << bits * torch.arange(each)).sum(-1)


def _parted(numbers: Tensor, each: int, bits: int) -> Tensor:
    """The way back, int64."""
    return (numbers.long()[..., None] >> bits * torch.arange(each) & (1 << bits) - 1).flatten(-2)


def _with_eighth(sevens: Tensor) -> Tensor:
    """Seven signs with the eighth that makes the minuses even."""
    odd = _parted(sevens, 7, 1).unflatten(-1, (-1, 7)).sum(-1) & 1
    return (sevens | odd << 7).to(torch.uint8)


def _low_bytes(words: Tensor) -> Tensor:
    return (words & 255).to(torch.uint8)


def _signs_and_factors(signs: Tensor, factors: Tensor) -> Tensor:
    """Of 32 weights four times seven signs, and on top of them the factor: four bytes."""
    return _bytes_of(_joined(signs & 127, 4, 7) | factors.long() << 28, 4)


def _of_signs_and_factors(stored: Tensor) -> tuple[Tensor, Tensor]:
    numbers = _numbers_of(stored, 4)
    return _with_eighth(_parted(numbers, 4, 7)), numbers >> 28


def _pack_iq2_xxs(factors: Tensor, words: Tensor, signs: Tensor) -> list[Tensor]:
    """Of 32 weights: four codewords, a byte each, then signs and factor."""
    low, rest = _low_bytes(words), _signs_and_factors(signs, factors)
    return [torch.stack([low.unflatten(-1, (-1, 4)), rest.unflatten(-1, (-1, 4))], dim=-2).flatten(-3)]


def _unpack_iq2_xxs(stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    halves = stored.unflatten(-1, (-1, 2, 4))
    signs, factors = _of_signs_and_factors(halves[..., 1, :].flatten(-2))
    return factors, halves[..., 0, :].flatten(-2), signs


def _pack_iq2_xs(factors: Tensor, words: Tensor, signs: Tensor) -> list[Tensor]:
    """[0:64] of eight weights nine bits of codeword and seven of signs · [64:72] factors, two in a byte."""
    pairs = words.long() | (signs & 127).long() << 9
    return [_bytes_of(pairs, 2), _bytes_of(_joined(factors, 2, 4), 1)]


def _unpack_iq2_xs(stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pairs = _numbers_of(stored[..., :64], 2)
    return _parted(stored[..., 64:], 2, 4), pairs & 511, _with_eighth(pairs >> 9)


def _pack_iq2_s(factors: Tensor, words: Tensor, signs: Tensor) -> list[Tensor]:
    """[0:32] low bytes of codewords · [32:64] signs · [64:72] two high bits each · [72:80] factors, two a byte."""
    high = _bytes_of(_joined(words.long() >> 8, 4, 2), 1)
    return [_low_bytes(words), signs, high, _bytes_of(_joined(factors, 2, 4), 1)]


def _unpack_iq2_s(stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    words = stored[..., :32].long() | _parted(stored[..., 64:72], 4, 2) << 8
    return _parted(stored[..., 72:], 2, 4), words, stored[..., 32:64]


def _pack_iq3_xxs(factors: Tensor, words: Tensor, signs: Tensor) -> list[Tensor]:
    """[0:64] codewords of four weights, a byte each · [64:96] signs and factors of 32 weights."""
    return [_low_bytes(words), _signs_and_factors(signs, factors)]


def _unpack_iq3_xxs(stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    signs, factors = _of_signs_and_factors(stored[..., 64:])
    return factors, stored[..., :64], signs


def _pack_iq3_s(factors: Tensor, words: Tensor, signs: Tensor) -> list[Tensor]:
    """[0:64] low bytes of codewords · [64:72] their ninth bits · [72:104] signs · [104:108] factors, two in a byte."""
    ninth = _bytes_of(_joined(words.long() >> 8, 8, 1), 1)
    return [_low_bytes(words), ninth, signs, _bytes_of(_joined(factors, 2, 4), 1)]


def _unpack_iq3_s(stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    words = stored[..., :64].long() | _parted(stored[..., 64:72], 8, 1) << 8
    return _parted(stored[..., 104:], 2, 4), words, stored[..., 72:104]


_PACKERS: dict[BlockType, Callable[[Tensor, Tensor, Tensor], list[Tensor]]] = {
    types.IQ2_XXS: _pack_iq2_xxs,
    types.IQ2_XS: _pack_iq2_xs,
    types.IQ2_S: _pack_iq2_s,
    types.IQ3_XXS: _pack_iq3_xxs,
    types.IQ3_S: _pack_iq3_s,
}
_UNPACKERS: dict[BlockType, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]] = {
    types.IQ2_XXS: _unpack_iq2_xxs,
    types.IQ2_XS: _unpack_iq2_xs,
    types.IQ2_S: _unpack_iq2_s,
    types.IQ3_XXS: _unpack_iq3_xxs,
    types.IQ3_S: _unpack_iq3_s,
}
