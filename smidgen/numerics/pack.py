"""Codes and scales to the bytes of GGUF blocks: the inverse of `numerics.decode`, without any choice left to make.

Input is transposed as in `numerics.grids`: codes [columns, rows], scales one `Scales` per group in column order. Block
layouts are ggml's (ggml-common.h); `decode(pack(...))` gives back exactly scale·level − offset.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.shapes import UInt8

Fields = Sequence[tuple[Tensor, ...]]


def pack(
    kind: BlockType, codes: UInt8[Tensor, "cols rows"], scales: Fields, frames: Fields
) -> UInt8[Tensor, "rows bytes"]:
    """Bytes of all rows.

    codes: index of the level of each weight, counted from the lowest level.
    scales: per group, the stored fields [rows]; frames: per block, what its groups share (empty tuples where nothing).
    """
    return pack_rows(kind, codes.T, _stack(scales), _stack(frames))


def pack_rows(
    kind: BlockType, codes: UInt8[Tensor, "rows cols"], scales: Sequence[Tensor], frame: Sequence[Tensor]
) -> UInt8[Tensor, "rows bytes"]:
    """The same for rows as the file has them: fields of groups are [rows, groups], those of blocks [rows, blocks]."""
    blocks = codes.unflatten(1, (-1, kind.block))  # [rows, blocks, block]
    by_block = [field.unflatten(1, (blocks.shape[1], -1)) for field in scales]  # [rows, blocks, groups in a block]
    return _PACKERS[kind.stored](blocks, by_block, list(frame)).flatten(1).contiguous()


def _stack(fields: Fields) -> list[Tensor]:
    """A list of tuples of [rows] to one [rows, len(list)] tensor per tuple entry."""
    return [torch.stack(column, dim=1) for column in zip(*fields, strict=True)]


def _float16_bytes(values: Tensor) -> Tensor:
    """[rows, blocks] float16 to [rows, blocks, 2] bytes, little-endian."""
    return values.contiguous().view(torch.uint8).unflatten(-1, (-1, 2))


def _nibbles(codes: Tensor) -> Tensor:
    """Two halves of a span into one byte each: first half in the low four bits."""
    low, high = (codes & 15).chunk(2, dim=-1)
    return low | (high << 4)


def _fifth_bits(codes: Tensor) -> Tensor:
    """Bit 4 of 32 codes as four bytes, code j in bit j."""
    bits = (codes >> 4).unflatten(-1, (4, 8)).int()
    return (bits << torch.arange(8)).sum(-1).to(torch.uint8)


def _pack_4_bit(blocks: Tensor, scales: list[Tensor], frame: list[Tensor]) -> Tensor:
    """Q4_0, Q4_1, IQ4_NL: float16 fields, then 16 bytes of nibbles (weights j and j+16)."""
    heads = [_float16_bytes(field[..., 0]) for field in scales]
    return torch.cat([*heads, _nibbles(blocks)], dim=-1)


def _pack_5_bit(blocks: Tensor, scales: list[Tensor], frame: list[Tensor]) -> Tensor:
    """Q5_0, Q5_1: float16 fields, the fifth bits of 32 weights, then their nibbles."""
    heads = [_float16_bytes(field[..., 0]) for field in scales]
    return torch.cat([*heads, _fifth_bits(blocks), _nibbles(blocks)], dim=-1)


def _pack_8_bit(blocks: Tensor, scales: list[Tensor], frame: list[Tensor]) -> Tensor:
    """Q8_0: float16 scale, then 32 signed bytes; code 0 is level −127."""
    signed = blocks - 127  # wraps around in uint8, which is two's complement
    return torch.cat([_float16_bytes(scales[0][..., 0]), signed], dim=-1)


def _two_bits(codes: Tensor) -> Tensor:
    """The lowest two bits of 256 codes in 64 bytes: byte j of a half of 128 holds codes j, j + 32, j + 64, j + 96."""
    quarters = (codes & 3).unflatten(-1, (2, 4, 32)).int()
    return (quarters << torch.tensor([0, 2, 4, 6])[:, None]).sum(-2).to(torch.uint8).flatten(-2)


def _bit_planes(bits: Tensor) -> Tensor:
    """256 numbers of one bit in 32 bytes, whose bit k is for the k-th run of 32."""
    runs = bits.unflatten(-1, (8, 32)).int()
    return (runs << torch.arange(8)[:, None]).sum(-2).to(torch.uint8)


def _six_bit_fields(scale: Tensor, offset: Tensor) -> Tensor:
    """Eight 6-bit scales and eight 6-bit offsets in 12 bytes.

    Bytes 0-3 and 4-7 hold the first four of each, with the top two bits of the last four on top; bytes 8-11
    hold the low nibbles of the last four scales and offsets.
    """
    first = scale[..., :4] | ((scale[..., 4:] >> 4) << 6)
    second = offset[..., :4] | ((offset[..., 4:] >> 4) << 6)
    third = (scale[..., 4:] & 15) | ((offset[..., 4:] & 15) << 4)
    return torch.cat([first, second, third], dim=-1)


def _pack_q2_k(blocks: Tensor, scales: list[Tensor], frame: list[Tensor]) -> Tensor:
    """Q2_K: 16 bytes of scales (low half) and offsets, 64 bytes of two-bit codes, two float16 units."""
    fields = scales[0] | (scales[1] << 4)
    return torch.cat([fields, _two_bits(blocks), _float16_bytes(frame[0]), _float16_bytes(frame[1])], dim=-1)


def _pack_q3_k(blocks: Tensor, scales: list[Tensor], frame: list[Tensor]) -> Tensor:
    """Q3_K: 32 bytes of third bits, 64 of the lower two, 12 of sixteen six-bit scales counted from -32, a unit.

    Scales: two nibbles to a byte (j and j + 8), then the top two bits of scales j, j + 4, j + 8 and j + 12 to a byte.
    """
    six = (scales[0] + 32).to(torch.uint8)
    tops = (six >> 4).unflatten(-1, (4, 4)).int()
    tops = (tops << torch.tensor([0, 2, 4, 6])[:, None]).sum(-2).to(torch.uint8)
    fields = [_nibbles(six), tops, _float16_bytes(frame[0])]
    return torch.cat([_bit_planes(blocks >> 2), _two_bits(blocks), *fields], dim=-1)


def _pack_iq4_xs(blocks: Tensor, scales: list[Tensor], frame: list[Tensor]) -> Tensor:
    """IQ4_XS: a unit, the top two bits of eight six-bit scales counted from -32 (four to a byte), their low nibbles
    (neighbours to a byte), 128 bytes of nibbles, 32 weights to 16 bytes."""
    six = (scales[0] + 32).to(torch.uint8)
    tops = (six >> 4).unflatten(-1, (2, 4)).int()
    tops = (tops << torch.tensor([0, 2, 4, 6])).sum(-1).to(torch.uint8)
    nibbles = (six[..., 0::2] & 15) | ((six[..., 1::2] & 15) << 4)
    codes = _nibbles(blocks.unflatten(-1, (8, 32))).flatten(-2)
    return torch.cat([_float16_bytes(frame[0]), tops, nibbles, codes], dim=-1)


def _super_head(scales: list[Tensor], frame: list[Tensor]) -> list[Tensor]:
    return [_float16_bytes(frame[0]), _float16_bytes(frame[1]), _six_bit_fields(scales[0], scales[1])]


def _pack_q4_k(blocks: Tensor, scales: list[Tensor], frame: list[Tensor]) -> Tensor:
    """Q4_K: two float16 units, 12 bytes of 6-bit fields, 128 bytes of nibbles, 64 weights to 32 bytes."""
    return torch.cat([*_super_head(scales, frame), _nibbles(blocks.unflatten(-1, (4, 64))).flatten(-2)], dim=-1)


def _pack_q5_k(blocks: Tensor, scales: list[Tensor], frame: list[Tensor]) -> Tensor:
    """Q5_K: as Q4_K, with 32 bytes before the nibbles whose bit k is the fifth bit of the k-th run of 32 weights."""
    nibbles = _nibbles(blocks.unflatten(-1, (4, 64))).flatten(-2)
    return torch.cat([*_super_head(scales, frame), _bit_planes(blocks >> 4), nibbles], dim=-1)


def _pack_q6_k(blocks: Tensor, scales: list[Tensor], frame: list[Tensor]) -> Tensor:
    """Q6_K: per half of 128, nibbles of quarters (0, 2) and (1, 3) and two-bit tops of all four; then scales, unit."""
    quarters = blocks.unflatten(-1, (2, 4, 32))  # [rows, blocks, half, quarter, 32]
    low = (quarters[..., :2, :] & 15) | ((quarters[..., 2:, :] & 15) << 4)
    shifts = torch.tensor([0, 2, 4, 6])[:, None]
    high = ((quarters >> 4).int() << shifts).sum(-2).to(torch.uint8)
    return torch.cat(
        [low.flatten(-3), high.flatten(-2), scales[0].contiguous().view(torch.uint8), _float16_bytes(frame[0])], dim=-1
    )


_PACKERS: dict[BlockType, Callable[[Tensor, list[Tensor], list[Tensor]], Tensor]] = {
    types.Q4_0: _pack_4_bit,
    types.Q4_1: _pack_4_bit,
    types.IQ4_NL: _pack_4_bit,
    types.Q5_0: _pack_5_bit,
    types.Q5_1: _pack_5_bit,
    types.Q8_0: _pack_8_bit,
    types.Q2_K: _pack_q2_k,
    types.Q3_K: _pack_q3_k,
    types.IQ4_XS: _pack_iq4_xs,
    types.Q4_K: _pack_q4_k,
    types.Q5_K: _pack_q5_k,
    types.Q6_K: _pack_q6_k,
}
