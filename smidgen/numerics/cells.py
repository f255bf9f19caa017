"""What a stored number may have been before it was rounded to what its type can hold: its cell.

A type with a grid stores `scale · level + shift` (see `lattice`). What lies nearer to this level than to its neighbours
was rounded to it, so a cell reaches half-way to the neighbours. The first and the last level also took what lay beyond
them. 16- and 32-bit numbers are rounded to their last bit.

Cells are drawn a little wider than that, since quantizers do not all round to the nearest level: some choose the levels
by one scale and store another, some weigh the columns and let a large weight lie outside.
"""

import torch
from torch import Tensor

from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.lattice import Lattice
from smidgen.shapes import Float, UInt8

_SLACK = 0.1  # of a step, on either side
_BEYOND = 2.0  # steps beyond the first and the last level
_LOST = 2.0**-18  # a scale that is stored as 0 may have been so large: float16 ends there, times a factor of k-quants
_LAST = 2.0**-24  # of 16-bit numbers near 0
_LAST_BIT = {types.F16: 2.0**-10, types.BF16: 2.0**-7, types.F32: 2.0**-23}  # relative


def has_cells(kind: BlockType) -> bool:
    """Whether this is known of a type. It is not for codebooks, where a run of weights is rounded together."""
    return kind in _LAST_BIT or kind in GRIDS


def cells(
    packed: UInt8[Tensor, "rows bytes"], kind: BlockType
) -> tuple[Float[Tensor, "rows cols"], Float[Tensor, "rows cols"]]:
    """Lower and upper end of every number's cell. Raises KeyError for a type of which none are known."""
    if kind in _LAST_BIT:
        values = decode(packed, kind)
        half = values.abs() * ((0.5 + _SLACK) * _LAST_BIT[kind]) + _LAST
        return values - half, values + half
    lattice, levels = Lattice.of(packed, kind), GRIDS[kind].levels
    steps, middles = levels.diff(), (levels[1:] + levels[:-1]) / 2
    below = torch.cat([levels[:1] - _BEYOND * steps[0], middles - _SLACK * steps])
    above = torch.cat([middles + _SLACK * steps, levels[-1:] + _BEYOND * steps[-1]])
    codes, scale, shift = lattice.codes.int(), lattice.scale(), lattice.shift()
    ends = [table[codes].unflatten(1, (-1, lattice.group)) * scale[:, :, None] for table in (below, above)]
    unit = lattice.unit.float().abs().repeat_interleave(scale.shape[1] // lattice.unit.shape[1], dim=1)
    lost = levels.abs().max() * torch.where(scale == 0, torch.maximum(unit / 2, torch.tensor(_LOST)), 0)[:, :, None]
    low, high = torch.minimum(*ends) - lost, torch.maximum(*ends) + lost  # a scale may be negative
    if shift is not None:
        low, high = low + shift[:, :, None], high + shift[:, :, None]
    return low.flatten(1), high.flatten(1)
