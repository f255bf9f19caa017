"""Small numbers out of packed bytes, for whoever decodes blocks.

Low bits of neighbours rarely share a byte in GGUF: byte j holds weights j and j + 16 (or j + 32, …), so that a CPU can
unpack a whole register with one mask and one shift. Everything here takes uint8 [blocks, bytes] and stays as narrow
as the numbers are.
"""

import torch
from torch import Tensor

BIT_MASKS = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8)  # masks are faster than shifts here


def half(blocks: Tensor, start: int) -> Tensor:
    """The float16 at byte `start` (even) of each block, as float32 [blocks, 1]."""
    column = start // 2
    return blocks.view(torch.float16)[:, column : column + 1].float()


def nibbles(low_high: Tensor, span: int) -> Tensor:
    """Four-bit numbers, uint8 [blocks, 2 * bytes]: a run of `span` bytes holds `span` low halves, then as many high."""
    runs = low_high.unflatten(1, (-1, 1, span))
    return torch.cat((runs & 15, runs >> 4), dim=2).flatten(1)


def nibbles_in_order(low_high: Tensor) -> Tensor:
    """Four-bit numbers, uint8 [blocks, 2 * bytes], where neighbours do share a byte, the first in its low half."""
    return torch.stack((low_high & 15, low_high >> 4), dim=2).flatten(1)


def pairs_of_bits(fours: Tensor) -> Tensor:
    """Two-bit numbers, uint8 [blocks, 4 * bytes]: each run of 32 bytes holds 32 lowest pairs, then 32 of the next, …"""
    runs = fours.unflatten(1, (-1, 1, 32))
    return torch.cat((runs & 3, runs >> 2 & 3, runs >> 4 & 3, runs >> 6), dim=2).flatten(1)


def pairs_in_order(fours: Tensor) -> Tensor:
    """Two-bit numbers, uint8 [blocks, 4 * bytes], four neighbours to a byte, the first in its lowest bits."""
    return torch.stack((fours & 3, fours >> 2 & 3, fours >> 4 & 3, fours >> 6), dim=2).flatten(1)


def bit_planes(planes: Tensor) -> Tensor:
    """Single bits, uint8 [blocks, 8 * bytes]: all the lowest bits first, then all the second, …"""
    return (planes.unsqueeze(1) & BIT_MASKS.unsqueeze(1)).ne_(0).flatten(1)


def bits_in_order(bits: Tensor) -> Tensor:
    """Single bits, uint8 [blocks, 8 * bytes]: number j is bit j % 8 of byte j // 8."""
    return (bits.unsqueeze(2) & BIT_MASKS).ne_(0).flatten(1)


def words(blocks: Tensor, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Bytes `start` to `stop` of each block as little-endian integers of a wider type, in a copy."""
    return blocks[:, start:stop].clone(memory_format=torch.contiguous_format).view(dtype)


def table_values(indices: Tensor, table: tuple[int, ...]) -> Tensor:
    """Entries of a small table for uint8 indices below its length, as float32 of the same shape."""
    entries = torch.tensor(table, dtype=torch.float32)
    return entries.index_select(0, indices.flatten().int()).view(indices.shape)


def scale_sub_blocks(q: Tensor, scales: Tensor, minimums: Tensor | None = None) -> Tensor:
    """scale · q (- minimum) with one scale for each equal run: q [blocks, weights], scales [blocks, runs]."""
    weights = q.float().unflatten(1, (scales.shape[1], -1)).mul_(scales.unsqueeze(2))
    if minimums is not None:
        weights.sub_(minimums.unsqueeze(2))
    return weights.flatten(1)
