"""The values a block format can hold, as grids: every weight is `scale · level − offset`.

A *group* of neighbouring weights in a row shares one scale (and offset, where the format has one). In the
simple formats the group is the block and its scale a float16. In the k-quants a block of 256 holds 8 or
16 groups whose scales are small integers times one float16 of the block, the *frame*: it is chosen when the block
is opened, the integers group by group.

A `Grid` proposes candidate scales for a group; whoever rounds (see `quantization.compensate`) tries them all and keeps
the best. Candidates are always values as the file will hold them: float16 or integer times float16, so what
was searched is what is stored. Layouts and arithmetic are those of ggml's dequantization (ggml-quants.c);
`numerics.pack` writes the bytes.

Everything here is transposed: weights come as [group, rows] with the rows contiguous, because rows
are independent and every operation runs over all of them at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.shapes import Float, UInt8

IQ4_NL_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

# Range factors tried for each group: 1 maps the largest weight onto the last level; below 1 clips it for finer steps,
# above 1 moves all levels a little. Chosen by what compensated matrices lost (LOG.md).
_COARSE = (1.12, 1.08, 1.04, 1.0, 0.96, 0.92, 0.88, 0.84)
_MEDIUM = (1.06, 1.03, 1.0, 0.97, 0.94, 0.91)
_FINE = (1.02, 1.01, 1.0, 0.99)
_SCALE_BITS_6 = 63


@dataclass(frozen=True)
class Scales:
    """Scales of one group for all rows, or of several candidates for all rows.

    scale, offset: effective float32 values, offset None where the format has none.
    stored: the fields as the file holds them, each shaped like `scale`: (scale,) or (scale, offset), float16 in the
    simple formats, small integers in the k-quants.
    """

    scale: Float[Tensor, "*candidates rows"]
    offset: Float[Tensor, "*candidates rows"] | None
    stored: tuple[Tensor, ...]

    def pick(self, best: Tensor) -> "Scales":
        """From [candidates, rows], the candidate numbered `best[row]` of each row."""

        def chosen(field: Tensor) -> Tensor:
            return field.gather(0, best[None])[0]

        offset = None if self.offset is None else chosen(self.offset)
        return Scales(chosen(self.scale), offset, tuple(chosen(field) for field in self.stored))


class Grid(ABC):
    """One block format as a grid.

    kind: the format.  group: weights that share a scale.  levels: what a code stands for, in units of the scale.
    """

    def __init__(self, kind: BlockType, group: int, levels: Sequence[int]) -> None:
        self.kind, self.group = kind, group
        self.levels = torch.tensor(levels, dtype=torch.float32)
        self.first, self.last = float(levels[0]), float(levels[-1])
        self.uniform = len(levels) == self.last - self.first + 1
        # For levels that are not evenly spaced: the nearest level of every half step from the first to the last. Levels
        # are integers, so borders between them fall on half steps, and looking up beats searching many times over.
        midpoints = (self.levels[1:] + self.levels[:-1]) / 2
        half_steps = torch.arange(2 * self.first, 2 * self.last + 1) / 2
        self._nearest = self.levels[torch.bucketize(half_steps + 0.25, midpoints)]
        self._origin = torch.tensor(-2 * self.first)
        self._codes = torch.searchsorted(self.levels, torch.arange(self.first, self.last + 1)).to(torch.uint8)

    def open_block(self, weights: Float[Tensor, "block rows"]) -> tuple[Tensor, ...]:
        """Choose what the groups of a block share; for simple formats nothing."""
        return ()

    @abstractmethod
    def candidates(self, weights: Float[Tensor, "group rows"], frame: tuple[Tensor, ...]) -> Scales:
        """Scales worth trying for a group, [candidates, rows]."""

    def steps(self, scale: Tensor) -> Tensor:
        """What `take_nearest` multiplies weights with; 0 where the scale is 0 (all weights then decode to −offset)."""
        return inverse_scale(scale) if self.uniform else 2 * inverse_scale(scale)

    def take_nearest(self, weights: Tensor, scale: Tensor, steps: Tensor, levels: Tensor) -> None:
        """Round: nearest levels go to `levels`, and `weights` (with the offset added) become what is left of them.

        weights, levels: [*group, candidates, rows], contiguous.  scale, steps: [candidates, rows].
        """
        if self.uniform:
            torch.mul(weights, steps, out=levels).round_().clamp_(self.first, self.last)
        else:
            place = torch.addcmul(self._origin, weights, steps, out=levels).clamp_(0, len(self._nearest) - 1).int()
            torch.index_select(self._nearest, 0, place.view(-1), out=levels.view(-1))
        weights.addcmul_(levels, scale, value=-1)

    def codes(self, level: Tensor) -> UInt8[Tensor, "..."]:
        """Index of each level, counted from the lowest."""
        place = level - self.first
        if self.uniform:
            return place.to(torch.uint8)
        return self._codes.index_select(0, place.flatten().long()).view(level.shape)


def inverse_scale(scale: Tensor) -> Tensor:
    """1/scale, and 0 for scales that are 0 (or so small that the reciprocal overflows)."""
    inverse = 1 / scale
    return torch.where(torch.isfinite(inverse), inverse, torch.zeros_like(inverse))


def _as_float16(values: Tensor) -> Tensor:
    return values.clamp(-65504.0, 65504.0).to(torch.float16)


def _signed_peak(weights: Float[Tensor, "group rows"]) -> Float[Tensor, " rows"]:
    """The weight of largest magnitude in each row, with its sign."""
    high, low = weights.amax(0), weights.amin(0)
    return torch.where(high >= -low, high, low)


class SymmetricGrid(Grid):
    """Simple formats with a float16 scale and no offset: Q4_0, Q5_0, Q8_0, IQ4_NL.

    Where the levels reach further below zero than above, the sign of the scale decides which end of the weights
    gets the extra level, so both signs are tried.
    """

    def __init__(self, kind: BlockType, levels: Sequence[int], factors: Sequence[float]) -> None:
        super().__init__(kind, 32, levels)
        self.ends = (self.first, self.last) if self.first != -self.last else (self.last,)
        self.factors = torch.tensor(factors, dtype=torch.float32)

    def candidates(self, weights: Float[Tensor, "group rows"], frame: tuple[Tensor, ...]) -> Scales:
        peak = _signed_peak(weights)
        full = torch.stack([peak / end for end in self.ends])  # the peak lands on the first or on the last level
        stored = _as_float16((full[:, None] * self.factors[None, :, None]).flatten(0, 1))
        return Scales(stored.float(), None, (stored,))


class OffsetGrid(Grid):
    """Simple formats with a float16 scale and a float16 offset: Q4_1, Q5_1 (stored with the sign turned)."""

    def __init__(self, kind: BlockType, bits: int, factors: Sequence[float]) -> None:
        super().__init__(kind, 32, range(2**bits))
        self.factors = factors

    def candidates(self, weights: Float[Tensor, "group rows"], frame: tuple[Tensor, ...]) -> Scales:
        low, high = weights.amin(0), weights.amax(0)
        middle, span = (low + high) / 2, (high - low) / self.last
        stored_scale, stored_low = [], []
        for factor in self.factors:
            stored_scale.append(_as_float16(span * factor))
            stored_low.append(_as_float16(middle - span * (factor * self.last / 2)))
        scale, minimum = torch.stack(stored_scale), torch.stack(stored_low)
        return Scales(scale.float(), -minimum.float(), (scale, minimum))


class OffsetSuperGrid(Grid):
    """Q4_K and Q5_K: per group of 32 a 6-bit scale and a 6-bit offset, in units of two float16 of the block."""

    def __init__(self, kind: BlockType, bits: int) -> None:
        super().__init__(kind, 32, range(2**bits))
        self.factors = (1.03, 0.98, 0.93, 0.88)

    def _ideal(self, weights: Float[Tensor, "*groups group rows"], factor: float) -> tuple[Tensor, Tensor]:
        """Scale and offset (≥ 0) that span a share `factor` of the range of each group."""
        high = weights.amax(-2).clamp_min(0)
        low = weights.amin(-2).clamp_max(0)
        span = (high - low) * factor
        return span / self.last, (-low - (high - low) * (1 - factor) / 2).clamp_min(0)

    def open_block(self, weights: Float[Tensor, "block rows"]) -> tuple[Tensor, ...]:
        scale, offset = self._ideal(weights.unflatten(0, (-1, self.group)), 1.0)
        unit_scale = _as_float16(scale.amax(0) / _SCALE_BITS_6)
        unit_offset = _as_float16(offset.amax(0) / _SCALE_BITS_6)
        return unit_scale, unit_offset

    def candidates(self, weights: Float[Tensor, "group rows"], frame: tuple[Tensor, ...]) -> Scales:
        unit_scale, unit_offset = (field.float() for field in frame)
        per_scale, per_offset = inverse_scale(unit_scale), inverse_scale(unit_offset)
        scale_codes, offset_codes = [], []
        for factor in self.factors:
            scale, offset = self._ideal(weights, factor)
            scale_code = (scale * per_scale).round().clamp(0, _SCALE_BITS_6)
            for shift in (0, 1):
                scale_codes.append(scale_code)
                offset_codes.append(((offset * per_offset).round() + shift).clamp(0, _SCALE_BITS_6))
        scale_code, offset_code = torch.stack(scale_codes), torch.stack(offset_codes)
        stored = (scale_code.to(torch.uint8), offset_code.to(torch.uint8))
        return Scales(unit_scale * scale_code, unit_offset * offset_code, stored)


class SymmetricSuperGrid(Grid):
    """Q6_K: per group of 16 an 8-bit signed scale, in units of one float16 of the block."""

    def __init__(self, kind: BlockType, bits: int) -> None:
        super().__init__(kind, 16, range(-(2 ** (bits - 1)), 2 ** (bits - 1)))
        self.factors = (1.04, 1.02, 1.0, 0.98, 0.96, 0.94)

    def open_block(self, weights: Float[Tensor, "block rows"]) -> tuple[Tensor, ...]:
        largest = weights.abs().amax(0) / -self.first
        return (_as_float16(largest / 127),)

    def candidates(self, weights: Float[Tensor, "group rows"], frame: tuple[Tensor, ...]) -> Scales:
        unit = frame[0].float()
        full = _signed_peak(weights) / self.first * inverse_scale(unit)
        codes = torch.stack([(full * factor).round().clamp(-128, 127) for factor in self.factors])
        return Scales(unit * codes, None, (codes.to(torch.int8),))


GRIDS: dict[BlockType, Grid] = {
    types.Q4_0: SymmetricGrid(types.Q4_0, range(-8, 8), _COARSE),
    types.Q4_1: OffsetGrid(types.Q4_1, 4, _COARSE),
    types.IQ4_NL: SymmetricGrid(types.IQ4_NL, IQ4_NL_LEVELS, _COARSE),
    types.Q5_0: SymmetricGrid(types.Q5_0, range(-16, 16), _MEDIUM),
    types.Q5_1: OffsetGrid(types.Q5_1, 5, _MEDIUM),
    types.Q8_0: SymmetricGrid(types.Q8_0, range(-127, 128), _FINE),
    types.Q4_K: OffsetSuperGrid(types.Q4_K, 4),
    types.Q5_K: OffsetSuperGrid(types.Q5_K, 5),
    types.Q6_K: SymmetricSuperGrid(types.Q6_K, 6),
}
