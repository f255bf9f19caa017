"""One block format as a grid of values, and the search for the scales of a group of weights.

A group of neighbouring weights in a row shares one scale (and offset, where the format has one): every weight is
`scale · level − offset`. The search is for what the file can hold, in three steps, each vectorised over all rows:

1. *Proposals*: scales (and offsets) from the range of the weights, each set to what can be stored.
2. The few that lose least, Σ v (w − ŵ)², when weights are simply rounded. v is how much an error of each weight counts.
3. For the best of these, the levels are held and scale and offset solved for, which is weighted least squares: with
   levels q, sums Σ weighted by v, A = Σ q², B = Σ q, C = Σ 1, D = Σ w q, E = Σ w,

       scale = (C D − B E) / (A C − B²),   offset = (B scale − E) / C,   without an offset: scale = D / A

   and the solutions are set to what can be stored, too.

Whoever rounds (see `quantization.compensate`) tries the candidates of steps 2 and 3 with all that it does beside
rounding, and keeps the best. Steps 1 and 3 are also how ggml's own quantizers find scales (ggml-quants.c); we rank
what is stored, by plain loss first and by compensated loss last. Cost: proposals · 7 passes over the group.

Everything here is transposed: weights come as [group, rows] with the rows contiguous, because rows are independent
and every operation runs over all of them at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.numerics.block_types import BlockType
from smidgen.shapes import Float, UInt8

# Of the proposals: how many are tried as they are, and from how many of these least squares starts. By what
# compensated matrices lost: in Q4_K 4 and 0 are 2% worse, 3 and 2 no better.
_KEPT, _REFITTED = 2, 2
_AT_ONCE = 2**19  # weights · proposals that are rounded together: what stays in the processor's cache


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
        chosen = self.take(best[None])
        offset = None if chosen.offset is None else chosen.offset[0]
        return Scales(chosen.scale[0], offset, tuple(field[0] for field in chosen.stored))

    def take(self, which: Tensor) -> "Scales":
        """From [candidates, rows], those numbered `which[:, row]` of each row."""
        offset = None if self.offset is None else self.offset.gather(0, which)
        return Scales(self.scale.gather(0, which), offset, tuple(field.gather(0, which) for field in self.stored))

    def join(self, others: "Scales") -> "Scales":
        """These candidates and others."""
        offset = None if self.offset is None or others.offset is None else torch.cat([self.offset, others.offset])
        stored = tuple(torch.cat(fields) for fields in zip(self.stored, others.stored, strict=True))
        return Scales(torch.cat([self.scale, others.scale]), offset, stored)


class Grid(ABC):
    """One block format as a grid.

    kind: the format.  group: weights that share a scale.  levels: what a code stands for, in units of the scale.
    least_offset: None where the format has no offset, else the smallest that it can hold.
    """

    def __init__(self, kind: BlockType, group: int, levels: Sequence[int], least_offset: float | None = None) -> None:
        self.kind, self.group, self.least_offset = kind, group, least_offset
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

    def open_block(
        self, weights: Float[Tensor, "block rows"], importance: Float[Tensor, "block _rows"]
    ) -> tuple[Tensor, ...]:
        """Choose what the groups of a block share; for simple formats nothing. importance: as in `candidates`."""
        return ()

    @abstractmethod
    def proposals(
        self, weights: Float[Tensor, "group rows"], frame: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "proposals rows"], Float[Tensor, "proposals rows"] | None]:
        """Scales and offsets that the range of the weights suggests, before they are set to what can be stored."""

    @abstractmethod
    def store(
        self,
        scale: Float[Tensor, "candidates rows"],
        offset: Float[Tensor, "candidates rows"] | None,
        frame: tuple[Tensor, ...],
    ) -> Scales:
        """The nearest that can be stored in a block with this frame."""

    def candidates(
        self,
        weights: Float[Tensor, "group rows"],
        importance: Float[Tensor, "group _rows"],
        frame: tuple[Tensor, ...],
    ) -> Scales:
        """Scales worth trying for a group, [candidates, rows].

        importance: how much the squared error of each weight counts, at most 1; for each row, or one for all.
        """
        tried = self.store(*self.proposals(weights, frame), frame)
        number = max(1, _AT_ONCE // weights.numel())
        parts = [slice(start, start + number) for start in range(0, len(tried.scale), number)]
        losses = torch.cat([self._losses(weights, importance, tried, part) for part in parts])
        kept = tried.take(losses.topk(min(_KEPT, len(losses)), dim=0, largest=False).indices)
        for place in range(min(_REFITTED, len(kept.scale))):
            offset = None if kept.offset is None else kept.offset[place]
            fitted = self.refit(weights, importance, self._levels(weights, kept.scale[place], offset))
            kept = kept.join(self.store(fitted[0][None], None if fitted[1] is None else fitted[1][None], frame))
        return kept

    def refit(
        self, weights: Float[Tensor, "*groups group rows"], importance: Tensor, levels: Tensor
    ) -> tuple[Float[Tensor, "*groups rows"], Float[Tensor, "*groups rows"] | None, Float[Tensor, "*groups rows"]]:
        """Scale and offset that lose least with these levels, by weighted least squares.

        The third is what they gain: the loss is Σ v w² less this.
        """
        weighted = importance * levels
        A, D = (weighted * levels).sum(-2), (weighted * weights).sum(-2)
        alone = torch.where(A > 0, D / A, 0)
        if self.least_offset is None:
            return alone, None, alone * D
        B, C, E = weighted.sum(-2), importance.sum(-2), (importance * weights).sum(-2)
        determinant = A * C - B * B
        scale = (C * D - B * E) / determinant
        offset = (B * scale - E) / C
        possible = (determinant > 1e-6 * A * C) & (offset >= self.least_offset) & (scale >= 0)
        # Where both together are impossible: the better of a scale alone and an offset alone.
        scale_alone, offset_alone = alone.clamp_min(0), (-E / C).clamp_min(self.least_offset)
        flat = -offset_alone * E > scale_alone * D
        scale = torch.where(possible, scale, torch.where(flat, 0, scale_alone))
        offset = torch.where(possible, offset, torch.where(flat, offset_alone, 0))
        return scale, offset, scale * D - offset * E

    def _levels(self, weights: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
        """The nearest levels of weights [*groups, group, rows] under one scale (and offset) of each group and row."""
        left = weights.clone(memory_format=torch.contiguous_format)
        if offset is not None:
            left += offset.unsqueeze(-2)
        levels, scale = torch.empty_like(left), scale.unsqueeze(-2)
        self.take_nearest(left, scale, self.steps(scale), levels)
        return levels

    def _losses(self, weights: Tensor, importance: Tensor, tried: Scales, part: slice) -> Tensor:
        """Of some of the candidates, when weights are rounded to nearest."""
        scale = tried.scale[part]
        if tried.offset is None:
            left = weights[:, None].expand(-1, *scale.shape).clone(memory_format=torch.contiguous_format)
        else:
            left = weights[:, None] + tried.offset[part]
        self.take_nearest(left, scale, self.steps(scale), torch.empty_like(left))
        squares = left.square_()
        if importance.shape[1] == 1:
            return torch.mv(squares.flatten(1).T, importance[:, 0]).view(scale.shape)
        return squares.mul_(importance[:, None]).sum(0)

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


def as_float16(values: Tensor) -> Tensor:
    """The nearest finite float16."""
    return values.clamp(-65504.0, 65504.0).to(torch.float16)


def signed_peak(weights: Float[Tensor, "*groups group rows"]) -> Float[Tensor, "*groups rows"]:
    """The weight of largest magnitude in each group of each row, with its sign."""
    high, low = weights.amax(-2), weights.amin(-2)
    return torch.where(high >= -low, high, low)
