"""A quantized matrix taken apart: codes, and the scales as the file stores them. The way back gives the same bytes.

Every weight is

    weight = scale · level + shift        scale = unit · factor,  shift = ± shift unit · shift factor

with `level` what the weight's code stands for. *Units* are float16 numbers of a block; *factors* are the small integers
that k-quants have for each group of a block (1 elsewhere: there a block is one group). All weights that a matrix can
have with given scales are its lattice. Who changes codes or units and stores units in float16 stays on what the file
can hold, so that what was computed with and what is read back are the same numbers.

Nothing is taken out bit by bit here. Levels are what `decode` makes of a block with all scales set to 1 and all shifts
to 0, factors what it makes of a block whose levels and units are 1.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.numerics.grid import inverse_scale
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.pack import pack_rows
from smidgen.shapes import Float, Integer, UInt8

_EDGE = 0.49  # of a step: how far from the middle of its cell a weight may lie


@dataclass(frozen=True)
class _Place:
    """Where a block holds its scales.

    scale, shift: first byte of the float16 unit; shift None where there is none, `sign` what it counts with.
    factors: byte range of the groups' integers.
    """

    scale: int
    shift: int | None = None
    sign: int = 1
    factors: tuple[int, int] | None = None


_PLACES: dict[BlockType, _Place] = {
    types.Q4_0: _Place(0),
    types.Q4_1: _Place(0, 2),
    types.IQ4_NL: _Place(0),
    types.Q5_0: _Place(0),
    types.Q5_1: _Place(0, 2),
    types.Q8_0: _Place(0),
    types.Q2_K: _Place(80, 82, -1, (0, 16)),
    types.Q3_K: _Place(108, factors=(96, 108)),
    types.IQ4_XS: _Place(0, factors=(2, 8)),
    types.Q4_K: _Place(0, 2, -1, (4, 16)),
    types.Q5_K: _Place(0, 2, -1, (4, 16)),
    types.Q6_K: _Place(208, factors=(192, 208)),
}


@dataclass(frozen=True)
class Lattice:
    """A matrix of one block format.

    codes: index of each weight's level.  unit, shift_unit: of the blocks, exactly as stored (float16).
    factors, shift_factors: integers of the groups. None where the format has no such thing.
    """

    kind: BlockType
    codes: UInt8[Tensor, "rows cols"]
    unit: Float[Tensor, "rows blocks"]
    shift_unit: Float[Tensor, "rows blocks"] | None
    factors: Integer[Tensor, "rows groups"] | None
    shift_factors: Integer[Tensor, "rows groups"] | None

    @classmethod
    def of(cls, packed: UInt8[Tensor, "rows bytes"], kind: BlockType) -> "Lattice":
        """Take packed rows apart. Raises KeyError for a type that `cut` does not write."""
        place, rows = _PLACES[kind.stored], len(packed)
        blocks = packed.reshape(-1, kind.block_bytes).clone()
        unit = _float16(blocks, place.scale).reshape(rows, -1)
        shift_unit = None if place.shift is None else _float16(blocks, place.shift).reshape(rows, -1)
        factors = shift_factors = None
        if place.factors is not None:
            ones, integers = _ones(kind), slice(*place.factors)
            factors = _factors(blocks, kind, ones, integers).reshape(rows, -1)
            if place.shift is not None:
                shift_factors = _factors(blocks, kind, _only_shifts(kind), integers).reshape(rows, -1)
            blocks[:, integers] = ones[integers]
        blocks[:, place.scale : place.scale + 2] = _float16_bytes(1)
        if place.shift is not None:
            blocks[:, place.shift : place.shift + 2] = 0
        codes = GRIDS[kind].codes(decode(blocks.reshape(rows, -1), kind))
        return cls(kind, codes, unit, shift_unit, factors, shift_factors)

    def pack(self) -> UInt8[Tensor, "rows bytes"]:
        """Bytes as the file holds them."""
        units = [unit for unit in (self.unit, self.shift_unit) if unit is not None]
        if self.factors is None:
            return pack_rows(self.kind, self.codes, units, [])
        factors = [field for field in (self.factors, self.shift_factors) if field is not None]
        return pack_rows(self.kind, self.codes, factors, units)

    @property
    def group(self) -> int:
        """Weights that share a scale."""
        return GRIDS[self.kind].group

    @property
    def sign(self) -> int:
        """What shifts count with: 1 or −1."""
        return _PLACES[self.kind.stored].sign

    def scale(self) -> Float[Tensor, "rows groups"]:
        """Of every group, float32."""
        return _spread(self.unit.float(), self.factors)

    def shift(self) -> Float[Tensor, "rows groups"] | None:
        """Of every group, float32, with its sign."""
        if self.shift_unit is None:
            return None
        return _spread(self.shift_unit.float(), self.shift_factors).mul_(self.sign)

    def by_unit(
        self, slopes: Float[Tensor, "rows groups"], shift_slopes: Float[Tensor, "rows groups"] | None
    ) -> tuple[Float[Tensor, "rows blocks"], Float[Tensor, "rows blocks"] | None]:
        """Chain rule: slopes of something by every scale and shift → by every unit and shift unit."""
        units = self.unit.shape[1]
        unit_slopes = _gather(slopes, self.factors, units)
        if shift_slopes is None:
            return unit_slopes, None
        return unit_slopes, _gather(shift_slopes, self.shift_factors, units).mul_(self.sign)

    def levels(self) -> Float[Tensor, "rows cols"]:
        """What the codes stand for."""
        grid = GRIDS[self.kind]
        if grid.uniform:
            return self.codes.float().add_(grid.first)
        return grid.levels.index_select(0, self.codes.flatten().int()).view(self.codes.shape)

    def weights(self) -> Float[Tensor, "rows cols"]:
        """The matrix; bit for bit what `decode` makes of `pack`."""
        values = self.levels().unflatten(1, (-1, self.group)).mul_(self.scale()[:, :, None])
        shift = self.shift()
        if shift is not None:
            values.add_(shift[:, :, None])
        return values.flatten(1)

    def with_places(self, places: Float[Tensor, "rows cols"]) -> "Lattice":
        """The same scales with the codes nearest to `places`, which count in codes: 2.3 lies between 2 and 3."""
        last = len(GRIDS[self.kind].levels) - 1
        return replace(self, codes=places.round().clamp_(0, last).to(torch.uint8))

    def places(self, weights: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        """Where other weights lie between the codes: in the cell of their code if they belong there, else at its edge.

        So `with_places(places(w))` has the same codes whatever w is, and w only says which of them are easily moved.
        """
        grid, levels = GRIDS[self.kind], self.levels()
        found = weights.unflatten(1, (-1, self.group))
        shift = self.shift()
        found = found.clone() if shift is None else found - shift[:, :, None]
        scale = self.scale()[:, :, None]
        offset = found.mul_(inverse_scale(scale)).sub_(levels.view(found.shape)).mul_(scale != 0).flatten(1)
        if not grid.uniform:
            steps = grid.levels.diff()
            codes = self.codes.int()
            above = torch.cat([steps, steps[-1:]])[codes]
            below = torch.cat([steps[:1], steps])[codes]
            offset /= torch.where(offset > 0, above, below)
        return offset.clamp_(-_EDGE, _EDGE).add_(self.codes)

    def nearest(self, weights: Float[Tensor, "rows cols"]) -> "Lattice":
        """The same scales with the codes that come nearest to other weights."""
        grid, shift, scale = GRIDS[self.kind], self.shift(), self.scale()[:, :, None]
        left = weights.unflatten(1, (-1, self.group))
        left = (left.clone() if shift is None else left - shift[:, :, None]).contiguous()
        levels = torch.empty_like(left)
        grid.take_nearest(left, scale, grid.steps(scale), levels)
        return replace(self, codes=grid.codes(levels.flatten(1)))


@cache
def _ones(kind: BlockType) -> UInt8[Tensor, " bytes"]:
    """A block of a k-quant whose levels, units and factors are 1 and whose shifts are 0."""
    grid, place = GRIDS[kind], _PLACES[kind]
    factors = torch.ones(1, kind.block // grid.group, dtype=torch.uint8)
    unit = torch.ones(1, 1, dtype=torch.float16)
    shifted = place.shift is not None
    fields, units = ([factors, 0 * factors], [unit, 0 * unit]) if shifted else ([factors], [unit])
    return pack_rows(kind, grid.codes(torch.ones(1, kind.block)), fields, units)[0]


@cache
def _only_shifts(kind: BlockType) -> UInt8[Tensor, " bytes"]:
    """The same with a unit of 0, and a shift unit that adds its factors."""
    place, block = _PLACES[kind], _ones(kind).clone()
    assert place.shift is not None
    block[place.scale : place.scale + 2] = 0
    block[place.shift : place.shift + 2] = _float16_bytes(place.sign)
    return block


def _factors(blocks: Tensor, kind: BlockType, ones: Tensor, integers: slice) -> Integer[Tensor, "blocks groups"]:
    """The integers of `blocks`, as they come out of other blocks that are as good as 1."""
    filled = ones.repeat(len(blocks), 1)
    filled[:, integers] = blocks[:, integers]
    found = decode(filled, kind)[:, :: GRIDS[kind].group]
    return found.to(torch.uint8 if _PLACES[kind].shift is not None else torch.int8)


def _float16_bytes(value: int) -> UInt8[Tensor, "2"]:
    return torch.tensor([value], dtype=torch.float16).view(torch.uint8)


def _float16(blocks: Tensor, start: int) -> Tensor:
    return blocks[:, start : start + 2].flatten().clone().view(torch.float16)


def _spread(unit: Float[Tensor, "rows blocks"], factors: Tensor | None) -> Float[Tensor, "rows groups"]:
    """Units to groups."""
    if factors is None:
        return unit.clone()
    return unit.repeat_interleave(factors.shape[1] // unit.shape[1], dim=1).mul_(factors)


def _gather(slopes: Float[Tensor, "rows groups"], factors: Tensor | None, units: int) -> Float[Tensor, "rows blocks"]:
    """Slopes by groups to slopes by units."""
    if factors is None:
        return slopes
    return (slopes * factors).unflatten(1, (units, -1)).sum(2)
