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
from smidgen.numerics.grid import Grid, Scales, Sums, as_float16, inverse_scale, signed_peak
from smidgen.numerics.scratch import scratch
from smidgen.shapes import Float

Frame = tuple[Tensor, ...]
_Fields = tuple[Float[Tensor, "*groups rows"], Float[Tensor, "*groups rows"] | None]

# How far offsets are moved from where they centre the levels on the range, in tenths of a step (or whole integers,
# where these are coarser).
_MOVES, _MOVE = torch.arange(-2.0, 3.0), 0.1
_ROWS = 256  # whose blocks are opened together: what stays in the cache of a core


class _SuperGrid(Grid):
    """What both kinds share. factors: shares of the range that are proposed; some of them, when a block is opened."""

    def __init__(
        self, kind: BlockType, group: int, levels: Sequence[int], factors: Sequence[float], least_offset: float | None
    ) -> None:
        super().__init__(kind, group, levels, least_offset)
        self.factors = torch.tensor(factors, dtype=torch.float32)

    def open_block(self, weights: Float[Tensor, "block rows"], importance: Float[Tensor, "block _rows"]) -> Frame:
        """One float16 for scales and, in formats with offsets, one for these; [rows] each."""
        groups, counts = weights.unflatten(0, (-1, self.group)), importance.unflatten(0, (-1, self.group))
        parts = groups.split(_ROWS, dim=2)
        ours = counts.split(_ROWS, dim=2) if counts.shape[2] > 1 else [counts] * len(parts)
        frames = [self._open(part, own) for part, own in zip(parts, ours, strict=True)]
        return frames[0] if len(frames) == 1 else tuple(map(torch.cat, zip(*frames, strict=True)))

    def _open(self, groups: Tensor, counts: Tensor) -> Frame:
        free = self._fit_freely(groups, counts)
        first = self.frame_of(*free)
        levels, scales = self._rounded(groups, counts, free, first)
        loss = _loss(groups, counts, levels, scales)
        second = self.refit_frame(groups, counts, levels, scales.stored, first)
        better = _loss(groups, counts, *self._rounded(groups, counts, free, second)) < loss
        return tuple(torch.where(better, new, old) for new, old in zip(second, first, strict=True))

    def _fit_freely(self, groups: Tensor, counts: Tensor) -> _Fields:
        """Scale and offset of every group, [groups, rows], as if any number could be stored."""
        scales, offsets = self.spans(groups, self.factors[1::3])
        best: _Fields | None = None
        most = torch.full(groups[:, 0].shape, -torch.inf)
        for start in range(len(scales)):
            levels = self._levels(groups, scales[start], None if offsets is None else offsets[start])
            scale, offset, gain = self.solve(Sums.of(groups, counts, levels, offsets is not None))
            better = gain > most
            most = torch.where(better, gain, most)
            best = (scale, offset) if best is None else _chosen(better, (scale, offset), best)
        assert best is not None
        return best

    def _rounded(self, groups: Tensor, counts: Tensor, free: _Fields, frame: Frame) -> tuple[Tensor, Scales]:
        """Levels (scratch), and what is stored of `free` in a frame; offsets are solved for once more."""
        scales = self.store(*free, frame)
        levels = self._levels(groups, scales.scale, scales.offset)
        if scales.offset is not None:
            left = torch.mul(levels, scales.scale.unsqueeze(-2), out=scratch("left", *levels.shape)).sub_(groups)
            offset = left.mul_(counts).sum(-2) / counts.sum(-2)
            scales = self.store(scales.scale, offset.nan_to_num(0, 0, 0), frame)
        return levels, scales

    def store(
        self,
        scale: Float[Tensor, "*candidates rows"],
        offset: Float[Tensor, "*candidates rows"] | None,
        frame: Frame,
    ) -> Scales:
        """The nearest that can be stored in a block with this frame."""
        return self.stored([number.round_() for number in self.integers(scale, offset, frame)], frame)

    @abstractmethod
    def integers(self, scale: Tensor, offset: Tensor | None, frame: Frame) -> list[Tensor]:
        """Scale and offset in units of the frame, were they real numbers."""

    @abstractmethod
    def stored(self, integers: list[Tensor], frame: Frame) -> Scales:
        """What whole numbers of units stand for; those that cannot be stored become the nearest that can."""

    @abstractmethod
    def spans(
        self, groups: Float[Tensor, "*groups group rows"], factors: Float[Tensor, " factors"]
    ) -> tuple[Float[Tensor, "spans *groups rows"], Float[Tensor, "spans *groups rows"] | None]:
        """Scales and offsets that spread the levels over shares of the range."""

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

    def spans(
        self, groups: Float[Tensor, "*groups group rows"], factors: Float[Tensor, " factors"]
    ) -> tuple[Float[Tensor, "factors *groups rows"], Float[Tensor, "factors *groups rows"]]:
        """Offsets are never negative, so the range always holds 0."""
        high, low = groups.amax(-2).clamp_min_(0), groups.amin(-2).clamp_max_(0)
        span, share = high - low, factors.view(-1, *[1] * low.ndim)
        return span * (share / self.last), (span * ((share - 1) / 2) - low).clamp_min_(0)

    def frame_of(self, scale: Tensor, offset: Tensor | None) -> Frame:
        assert offset is not None
        return as_float16(scale.amax(0) / self.most), as_float16(offset.amax(0) / self.most)

    def refit_frame(
        self, groups: Tensor, counts: Tensor, levels: Tensor, stored: tuple[Tensor, ...], frame: Frame
    ) -> Frame:
        """Least squares for w ≈ unit · x − unit of offsets · y, where x is integer · level and y the offset's.

        `levels` become x.
        """
        y = stored[1].float()
        sums = Sums.of(groups, counts, levels.mul_(stored[0].float().unsqueeze(-2)), has_offset=True)
        assert sums.offset is not None
        xx, xy, xw = sums.A.sum(0), (sums.offset[0] * y).sum(0), sums.D.sum(0)
        yy, yw = (sums.offset[1] * y * y).sum(0), (sums.offset[2] * y).sum(0)
        determinant = xx * yy - xy * xy
        unit = (xw * yy - xy * yw) / determinant
        of_offsets = (xy * xw - xx * yw) / determinant
        sound = (determinant > 1e-6 * xx * yy) & (unit > 0) & (of_offsets >= 0)
        found = (as_float16(unit), as_float16(of_offsets))
        return tuple(torch.where(sound, new, old) for new, old in zip(found, frame, strict=True))

    def proposals(
        self, weights: Float[Tensor, "group rows"], frame: Frame
    ) -> tuple[Float[Tensor, "proposals rows"], Float[Tensor, "proposals rows"]]:
        scale, offset = self.spans(weights, self.factors)
        move = torch.maximum(_MOVE * scale, frame[1].float())
        offsets = torch.addcmul(offset[:, None], _MOVES[:, None], move[:, None])  # [factors, moves, rows]
        return scale[:, None].expand_as(offsets).flatten(0, 1), offsets.flatten(0, 1)

    def settle(self, sums: Sums, frame: Frame) -> Scales:
        """The two integers around each scale, each with its best offset: those that lose less while levels stay."""
        assert sums.offset is not None
        B, C, E = sums.offset
        unit, of_offsets = frame[0].float(), inverse_scale(frame[1].float())
        below = (self.solve(sums)[0] * inverse_scale(unit)).floor_()
        scale = torch.stack([below, below + 1]).clamp_(0, self.most)  # [sides, candidates, rows]
        offset = ((B * unit * scale - E) / C).mul_(of_offsets).round_()
        tried = self.stored([scale, offset], frame)
        losses = sums.loss(tried.scale, tried.offset)
        above = losses[1] < losses[0]
        return self.stored([torch.where(above, side[1], side[0]) for side in (scale, offset)], frame)

    def integers(self, scale: Tensor, offset: Tensor | None, frame: Frame) -> list[Tensor]:
        assert offset is not None
        unit, of_offsets = (inverse_scale(field.float()) for field in frame)
        return [scale * unit, offset * of_offsets]

    def stored(self, integers: list[Tensor], frame: Frame) -> Scales:
        scale, offset = (number.clamp_(0, self.most) for number in integers)
        unit, of_offsets = (field.float() for field in frame)
        return Scales(unit * scale, of_offsets * offset, (scale.to(torch.uint8), offset.to(torch.uint8)))


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
        self.least, self.ends = -(2 ** (bits - 1)), torch.tensor(ends, dtype=torch.float32)

    def spans(
        self, groups: Float[Tensor, "*groups group rows"], factors: Float[Tensor, " factors"]
    ) -> tuple[Float[Tensor, "spans *groups rows"], None]:
        """The largest weight lands on one end or on the other."""
        peak = signed_peak(groups)
        shares = (factors[:, None] / self.ends).view(-1, *[1] * peak.ndim)
        return peak * shares, None

    def frame_of(self, scale: Tensor, offset: Tensor | None) -> Frame:
        return (as_float16(signed_peak(scale) / self.least),)

    def refit_frame(
        self, groups: Tensor, counts: Tensor, levels: Tensor, stored: tuple[Tensor, ...], frame: Frame
    ) -> Frame:
        """Least squares for w ≈ unit · x, where x is integer · level. `levels` become x."""
        sums = Sums.of(groups, counts, levels.mul_(stored[0].float().unsqueeze(-2)), has_offset=False)
        unit = sums.D.sum(0) / sums.A.sum(0)
        return (torch.where(unit.isfinite(), as_float16(unit), frame[0]),)

    def proposals(
        self, weights: Float[Tensor, "group rows"], frame: Frame
    ) -> tuple[Float[Tensor, "proposals rows"], None]:
        return self.spans(weights, self.factors)

    def integers(self, scale: Tensor, offset: Tensor | None, frame: Frame) -> list[Tensor]:
        return [scale * inverse_scale(frame[0].float())]

    def stored(self, integers: list[Tensor], frame: Frame) -> Scales:
        (number,) = integers
        number.clamp_(self.least, -self.least - 1)
        return Scales(frame[0].float() * number, None, (number.to(torch.int8),))


def _loss(groups: Tensor, counts: Tensor, levels: Tensor, scales: Scales) -> Float[Tensor, " rows"]:
    """Σ v (w − scale · level + offset)² of whole blocks."""
    left = scratch("left", *levels.shape)
    torch.addcmul(groups, levels, scales.scale.unsqueeze(-2), value=-1, out=left)
    if scales.offset is not None:
        left += scales.offset.unsqueeze(-2)
    return left.square_().mul_(counts).sum((0, 1))


def _chosen(better: Tensor, new: _Fields, old: _Fields) -> _Fields:
    offset = None if new[1] is None or old[1] is None else torch.where(better, new[1], old[1])
    return torch.where(better, new[0], old[0]), offset
