"""The grids of blocks of 256 weights: k-quants and IQ4_XS.

Such a block holds 8 or 16 groups, whose scales (and offsets) are small integers times one float16 of the block, its
*frame*. The frame is chosen when the block is opened: every group is fitted with scales of any size, the largest of
them becomes the largest integer, and then, with levels and integers held, the frame is solved for by weighted least
squares. Of the frames before and after, each row keeps the one whose whole block loses less when it is rounded.

More frames (the largest integer for 0.7 to 0.92 of the largest scale) gained 0.3% when rounding and nothing when
compensating, so they are not tried.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from smidgen.numerics.block_types import BlockType
from smidgen.numerics.grid import Grid, Scales, as_float16, inverse_scale, signed_peak
from smidgen.shapes import Float

Frame = tuple[Tensor, ...]
_Fields = tuple[Float[Tensor, "*groups rows"], Float[Tensor, "*groups rows"] | None]

# How far offsets are moved from where they centre the levels on the range, in tenths of a step (or whole integers,
# where these are coarser).
_MOVES, _MOVE = (-2, -1, 0, 1, 2), 0.1


class _SuperGrid(Grid):
    """What both kinds share. factors: shares of the range that are proposed; some of them, when a block is opened."""

    def __init__(
        self, kind: BlockType, group: int, levels: Sequence[int], factors: Sequence[float], least_offset: float | None
    ) -> None:
        super().__init__(kind, group, levels, least_offset)
        self.factors = factors

    def open_block(self, weights: Float[Tensor, "block rows"], importance: Float[Tensor, "block _rows"]) -> Frame:
        """One float16 for scales and, in formats with offsets, one for these; [rows] each."""
        groups, counts = weights.unflatten(0, (-1, self.group)), importance.unflatten(0, (-1, self.group))
        free = self._fit_freely(groups, counts)
        first = self.frame_of(*free)
        levels, scales = self._rounded(groups, counts, free, first)
        second = self.refit_frame(groups, counts, levels, scales.stored, first)
        others = self._rounded(groups, counts, free, second)
        better = _loss(groups, counts, *others) < _loss(groups, counts, levels, scales)
        return tuple(torch.where(better, new, old) for new, old in zip(second, first, strict=True))

    def _fit_freely(self, groups: Tensor, counts: Tensor) -> _Fields:
        """Scale and offset of every group, [groups, rows], as if any number could be stored."""
        best: _Fields | None = None
        most = torch.full((len(groups), groups.shape[2]), -torch.inf)
        for factor in self.factors[1::3]:
            for start in self.spans(groups, factor):
                scale, offset, gain = self.refit(groups, counts, self._levels(groups, *start))
                better = gain > most
                most = torch.where(better, gain, most)
                best = (scale, offset) if best is None else _chosen(better, (scale, offset), best)
        assert best is not None
        return best

    def _rounded(self, groups: Tensor, counts: Tensor, free: _Fields, frame: Frame) -> tuple[Tensor, Scales]:
        """Levels, and what is stored of `free` in a frame; offsets are solved for once more."""
        scales = self.store(*free, frame)
        levels = self._levels(groups, scales.scale, scales.offset)
        if scales.offset is not None:
            left = levels * scales.scale.unsqueeze(-2) - groups
            offset = (counts * left).sum(-2) / counts.sum(-2)
            scales = self.store(scales.scale, offset.nan_to_num(0, 0, 0), frame)
        return levels, scales

    @abstractmethod
    def spans(self, groups: Float[Tensor, "*groups group rows"], factor: float) -> list[_Fields]:
        """Scales and offsets that spread the levels over a share `factor` of the range."""

    @abstractmethod
    def frame_of(self, scale: Tensor, offset: Tensor | None) -> Frame:
        """The frame in which the largest scale and offset of a block are the largest integers. [groups, rows]."""

    @abstractmethod
    def refit_frame(
        self, groups: Tensor, counts: Tensor, levels: Tensor, stored: tuple[Tensor, ...], frame: Frame
    ) -> Frame:
        """The frame that loses least with these levels and integers; `frame` where there is no such."""


class OffsetSuperGrid(_SuperGrid):
    """Q2_K, Q4_K and Q5_K: of each group a scale and an offset of `most` at most, times two float16 of the block."""

    def __init__(self, kind: BlockType, group: int, bits: int, most: int, factors: Sequence[float]) -> None:
        super().__init__(kind, group, range(2**bits), factors, least_offset=0.0)
        self.most = most

    def spans(self, groups: Float[Tensor, "*groups group rows"], factor: float) -> list[_Fields]:
        """Offsets are never negative, so the range always holds 0."""
        high, low = groups.amax(-2).clamp_min(0), groups.amin(-2).clamp_max(0)
        span = high - low
        return [(span * (factor / self.last), (-low - span * ((1 - factor) / 2)).clamp_min(0))]

    def frame_of(self, scale: Tensor, offset: Tensor | None) -> Frame:
        assert offset is not None
        return as_float16(scale.amax(0) / self.most), as_float16(offset.amax(0) / self.most)

    def refit_frame(
        self, groups: Tensor, counts: Tensor, levels: Tensor, stored: tuple[Tensor, ...], frame: Frame
    ) -> Frame:
        """Least squares for w ≈ unit · x − unit of offsets · y, where x is integer · level and y the offset's."""
        x, y = levels * stored[0].float().unsqueeze(-2), stored[1].float().unsqueeze(-2)
        weighted = counts * x
        xx, xy, xw = ((weighted * other).sum((0, 1)) for other in (x, y, groups))
        yy, yw = ((counts * y * other).sum((0, 1)) for other in (y, groups))
        determinant = xx * yy - xy * xy
        unit = (xw * yy - xy * yw) / determinant
        of_offsets = (xy * xw - xx * yw) / determinant
        sound = (determinant > 1e-6 * xx * yy) & (unit > 0) & (of_offsets >= 0)
        found = (as_float16(unit), as_float16(of_offsets))
        return tuple(torch.where(sound, new, old) for new, old in zip(found, frame, strict=True))

    def proposals(
        self, weights: Float[Tensor, "group rows"], frame: Frame
    ) -> tuple[Float[Tensor, "proposals rows"], Float[Tensor, "proposals rows"]]:
        coarsest, scales, offsets = frame[1].float(), [], []
        for factor in self.factors:
            ((scale, offset),) = self.spans(weights, factor)
            assert offset is not None
            move = torch.maximum(_MOVE * scale, coarsest)
            scales += [scale] * len(_MOVES)
            offsets += [offset + number * move for number in _MOVES]
        return torch.stack(scales), torch.stack(offsets)

    def store(self, scale: Tensor, offset: Tensor | None, frame: Frame) -> Scales:
        assert offset is not None
        unit, of_offsets = (field.float() for field in frame)
        scale_code = (scale * inverse_scale(unit)).round().clamp(0, self.most)
        offset_code = (offset * inverse_scale(of_offsets)).round().clamp(0, self.most)
        stored = (scale_code.to(torch.uint8), offset_code.to(torch.uint8))
        return Scales(unit * scale_code, of_offsets * offset_code, stored)


class SignedSuperGrid(_SuperGrid):
    """Q3_K, IQ4_XS and Q6_K: of each group a signed scale of `bits` bits, times one float16 of the block.

    Levels reach further below zero than above, so the sign of a scale decides which end of the weights gets more room;
    `ends` are the levels on which the largest weight may land. Integers, too, reach further below zero: the frame's
    sign lets the largest scale be the lowest integer.
    """

    def __init__(
        self, kind: BlockType, group: int, levels: Sequence[int], bits: int, factors: Sequence[float],
        ends: Sequence[int],
    ) -> None:  # fmt: skip
        super().__init__(kind, group, levels, factors, least_offset=None)
        self.least, self.ends = -(2 ** (bits - 1)), ends

    def spans(self, groups: Float[Tensor, "*groups group rows"], factor: float) -> list[_Fields]:
        peak = signed_peak(groups)
        return [(peak * (factor / end), None) for end in self.ends]

    def frame_of(self, scale: Tensor, offset: Tensor | None) -> Frame:
        return (as_float16(signed_peak(scale) / self.least),)

    def refit_frame(
        self, groups: Tensor, counts: Tensor, levels: Tensor, stored: tuple[Tensor, ...], frame: Frame
    ) -> Frame:
        """Least squares for w ≈ unit · x, where x is integer · level."""
        x = levels * stored[0].float().unsqueeze(-2)
        weighted = counts * x
        unit = (weighted * groups).sum((0, 1)) / (weighted * x).sum((0, 1))
        return (torch.where(unit.isfinite(), as_float16(unit), frame[0]),)

    def proposals(
        self, weights: Float[Tensor, "group rows"], frame: Frame
    ) -> tuple[Float[Tensor, "proposals rows"], None]:
        return torch.stack([scale for factor in self.factors for scale, _ in self.spans(weights, factor)]), None

    def store(self, scale: Tensor, offset: Tensor | None, frame: Frame) -> Scales:
        unit = frame[0].float()
        codes = (scale * inverse_scale(unit)).round().clamp(self.least, -self.least - 1)
        return Scales(unit * codes, None, (codes.to(torch.int8),))


def _loss(groups: Tensor, counts: Tensor, levels: Tensor, scales: Scales) -> Float[Tensor, " rows"]:
    """Σ v (w − scale · level + offset)² of whole blocks."""
    left = torch.addcmul(groups, levels, scales.scale.unsqueeze(-2), value=-1)
    if scales.offset is not None:
        left += scales.offset.unsqueeze(-2)
    return left.square_().mul_(counts).sum((0, 1))


def _chosen(better: Tensor, new: _Fields, old: _Fields) -> _Fields:
    offset = None if new[1] is None or old[1] is None else torch.where(better, new[1], old[1])
    return torch.where(better, new[0], old[0]), offset
