"""The values block formats can hold: every weight is `scale · level − offset`. The table of all, and the simple ones.

A *group* of neighbouring weights in a row shares one scale (and offset, where the format has one). In the simple
formats the group is the block and its scale a float16. In the k-quants (`numerics.super_grids`) a block of 256 holds 8
or 16 groups whose scales are small integers times one float16 of the block.

A `Grid` proposes candidate scales for a group (`numerics.grid` says how they are found). Candidates are always values
as the file will hold them: float16 or integer times float16, so what was searched is what is stored. Layouts and
arithmetic are those of ggml's dequantization (ggml-quants.c); `numerics.pack` writes the bytes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.grid import Grid, Scales, as_float16, signed_peak
from smidgen.numerics.portable import as_portable
from smidgen.numerics.super_grids import OffsetSuperGrid, SignedSuperGrid
from smidgen.shapes import Float

IQ4_NL_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

# Shares of the range that are proposed: 1 maps the largest weight onto the last level; below 1 clips it for finer
# steps, above 1 moves all levels a little. Chosen by what compensated matrices lost (LOG.md).
_COARSE = (1.12, 1.08, 1.04, 1.0, 0.96, 0.92, 0.88, 0.84)
_MEDIUM = (1.06, 1.03, 1.0, 0.97, 0.94, 0.91)
_FINE = (1.02, 1.01, 1.0, 0.99)
# Scales of 8 significant bits are 0.4 to 0.8% apart, so that few of them are near: all of these are tried.
_FINE_PORTABLE = (1.03, 1.025, 1.02, 1.015, 1.01, 1.005, 1.0, 0.995)
# The same in blocks of 256.
_OF_4_LEVELS = (1.0, 0.92, 0.84, 0.77, 0.7)
_OF_16_LEVELS = (1.02, 0.98, 0.94, 0.9, 0.86)
_OF_32_LEVELS = (1.02, 0.99, 0.96, 0.93, 0.9)
_OF_64_LEVELS = (1.05, 1.03, 1.02, 1.01, 1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.92)
_SIGNED = (1.16, 1.1, 1.05, 1.0, 0.95, 0.9, 0.84, 0.78)


class SymmetricGrid(Grid):
    """Simple formats with a float16 scale and no offset: Q4_0, Q5_0, Q8_0, IQ4_NL.

    Where the levels reach further below zero than above, the sign of the scale decides which end of the weights
    gets the extra level, so both signs are tried.
    """

    def __init__(self, kind: BlockType, levels: Sequence[int], factors: Sequence[float]) -> None:
        super().__init__(kind, 32, levels)
        self.ends = (self.first, self.last) if self.first != -self.last else (self.last,)
        self.factors = torch.tensor(factors, dtype=torch.float32)

    def proposals(
        self, weights: Float[Tensor, "group rows"], frame: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "proposals rows"], None]:
        peak = signed_peak(weights)
        full = torch.stack([peak / end for end in self.ends])  # the peak lands on the first or on the last level
        return (full[:, None] * self.factors[None, :, None]).flatten(0, 1), None

    def store(self, scale: Tensor, offset: Tensor | None, frame: tuple[Tensor, ...]) -> Scales:
        stored = self.as_stored(scale)
        return Scales(stored.float(), None, (stored,))


class PortableGrid(SymmetricGrid):
    """The same with scales that every framework holds (`numerics.portable`): none is negative, so the end that reaches
    further is always the lower one."""

    def as_stored(self, scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The nearest of 8 significant bits."""
        return as_portable(scale)

    def proposals(
        self, weights: Float[Tensor, "group rows"], frame: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "proposals rows"], None]:
        """Where the largest weight is positive, it lands on the last level, or is clipped."""
        scale, _ = super().proposals(weights, frame)
        return scale.abs_(), None


class OffsetGrid(Grid):
    """Simple formats with a float16 scale and a float16 offset: Q4_1, Q5_1 (stored with the sign turned)."""

    def __init__(self, kind: BlockType, bits: int, factors: Sequence[float]) -> None:
        super().__init__(kind, 32, range(2**bits), least_offset=-torch.inf)
        self.factors = torch.tensor(factors, dtype=torch.float32)[:, None]

    def proposals(
        self, weights: Float[Tensor, "group rows"], frame: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "proposals rows"], Float[Tensor, "proposals rows"]]:
        low, high = weights.amin(0), weights.amax(0)
        middle, span = (low + high) / 2, (high - low) / self.last
        scale = span * self.factors
        return scale, scale * (self.last / 2) - middle

    def store(self, scale: Tensor, offset: Tensor | None, frame: tuple[Tensor, ...]) -> Scales:
        assert offset is not None
        stored, minimum = as_float16(scale), as_float16(-offset)
        return Scales(stored.float(), -minimum.float(), (stored, minimum))


GRIDS: dict[BlockType, Grid] = {
    types.Q4_0: SymmetricGrid(types.Q4_0, range(-8, 8), _COARSE),
    types.Q4_1: OffsetGrid(types.Q4_1, 4, _COARSE),
    types.IQ4_NL: SymmetricGrid(types.IQ4_NL, IQ4_NL_LEVELS, _COARSE),
    types.Q5_0: SymmetricGrid(types.Q5_0, range(-16, 16), _MEDIUM),
    types.Q5_1: OffsetGrid(types.Q5_1, 5, _MEDIUM),
    types.Q8_0: SymmetricGrid(types.Q8_0, range(-127, 128), _FINE),
    types.PORTABLE_Q4_0: PortableGrid(types.PORTABLE_Q4_0, range(-8, 8), _COARSE),
    types.PORTABLE_Q8_0: PortableGrid(types.PORTABLE_Q8_0, range(-127, 128), _FINE_PORTABLE),
    types.Q2_K: OffsetSuperGrid(types.Q2_K, 16, 2, 15, _OF_4_LEVELS),
    types.Q3_K: SignedSuperGrid(types.Q3_K, 16, range(-4, 4), 6, _SIGNED, ends=(-4, 3)),
    types.IQ4_XS: SignedSuperGrid(types.IQ4_XS, 32, IQ4_NL_LEVELS, 6, _SIGNED, ends=(-127, 113)),
    types.Q4_K: OffsetSuperGrid(types.Q4_K, 32, 4, 63, _OF_16_LEVELS),
    types.Q5_K: OffsetSuperGrid(types.Q5_K, 32, 5, 63, _OF_32_LEVELS),
    types.Q6_K: SignedSuperGrid(types.Q6_K, 16, range(-32, 32), 8, _OF_64_LEVELS, ends=(-32,)),
}
