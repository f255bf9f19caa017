"""One block format as a grid of values, and the search for the scales of a group of weights.

A group of neighbouring weights in a row shares one scale (and offset, where the format has one): every weight is
`scale · level − offset`. The search is for what the file can hold, in four steps, each vectorised over all rows:

1. *Proposals*: scales (and offsets) from the range of the weights, each set to what can be stored.
2. The few that lose least, Σ v (w − ŵ)², when weights are simply rounded. v is how much an error of each weight counts.
3. For these the levels are held and scale and offset solved for, which is weighted least squares: with levels q, sums Σ
   weighted by v, A = Σ q², B = Σ q, C = Σ 1, D = Σ w q, E = Σ w,

       scale = (C D − B E) / (A C − B²),   offset = (B scale − E) / C,   without an offset: scale = D / A

4. The solutions are set to what can be stored, too: where that is integers, to those around them that lose least with
   these levels (`numerics.super_grids`).

Whoever rounds (see `quantization.compensate`) tries the candidates of step 4 with all that it does beside rounding, and
keeps the best. Steps 1 and 3 are also how ggml's own quantizers find scales (ggml-quants.c); we rank what is stored, by
plain loss first and by compensated loss last. Cost: proposals · 6 passes over the group.

Rounding counts in *places*: the codes of a format whose levels are evenly spaced, else half steps from the first level.
A group is brought to places once, w ↦ (w + offset) · steps + origin, and what is left of a weight when it is rounded
stays in places too. A scale of 0 counts as a very small one there: everything is then left over, as it is when decoded.

Everything here is transposed: weights come as [group, rows] with the rows contiguous, because rows are independent
and every operation runs over all of them at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from smidgen.numerics.block_types import BlockType
from smidgen.numerics.scratch import scratch
from smidgen.shapes import Float, Int, UInt8

# From how many proposals least squares starts; its solutions are tried with compensation. By what compensated matrices
# lost: 2 are 0.2 to 1% worse, 4 up to 0.5% better, and proposals as they are add nothing to these.
TRIED = 3
_AT_ONCE = 2**16  # weights · proposals that are rounded together: what stays in the cache of a core
_TINY = 2.0**-40  # stands for a scale of 0; no other stored scale is as small


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
        place = best * self.scale.shape[1] + torch.arange(self.scale.shape[1])
        scale, *stored = (field.flatten().index_select(0, place) for field in (self.scale, *self.stored))
        offset = None if self.offset is None else self.offset.flatten().index_select(0, place)
        return Scales(scale, offset, tuple(stored))


@dataclass(frozen=True)
class Sums:
    """Of a group with its levels held, all that least squares wants to know; for the letters see above.

    offset: B, C and E, where the format has an offset.
    """

    A: Float[Tensor, "*groups rows"]
    D: Float[Tensor, "*groups rows"]
    offset: tuple[Tensor, Tensor, Tensor] | None

    @classmethod
    def of(
        cls, weights: Float[Tensor, "*groups group rows"], importance: Tensor, levels: Tensor, has_offset: bool
    ) -> "Sums":
        """importance: as in `Grid.candidates`, or of each of several groups."""
        weighted = torch.mul(importance, levels, out=scratch("weighted", *levels.shape))
        product = scratch("product", *levels.shape)
        A = torch.mul(weighted, levels, out=product).sum(-2)
        D = torch.mul(weighted, weights, out=product).sum(-2)
        if not has_offset:
            return cls(A, D, None)
        E = torch.mul(importance, weights, out=product).sum(-2)
        return cls(A, D, (weighted.sum(-2), importance.sum(-2), E))

    def loss(
        self, scale: Float[Tensor, "*choices rows"], offset: Float[Tensor, "*choices rows"] | None
    ) -> Float[Tensor, "*choices rows"]:
        """Σ v (w − scale · level + offset)², less Σ v w²."""
        loss = scale * (scale * self.A - 2 * self.D)
        if self.offset is None or offset is None:
            return loss
        B, C, E = self.offset
        return loss + offset * (offset * C + 2 * E - 2 * scale * B)


class Grid(ABC):
    """One block format as a grid.

    kind: the format.  group: weights that share a scale.  levels: what a code stands for, in units of the scale.
    least_offset: None where the format has no offset, else the smallest that it can hold.  zero: the code nearest to 0.
    """

    def __init__(self, kind: BlockType, group: int, levels: Sequence[int], least_offset: float | None = None) -> None:
        self.kind, self.group, self.least_offset = kind, group, least_offset
        self.levels = torch.tensor(levels, dtype=torch.float32)
        self.first, self.last = float(levels[0]), float(levels[-1])
        self.uniform = len(levels) == self.last - self.first + 1
        # For levels that are not evenly spaced: the nearest level of every half step from the first to the last. Levels
        # are integers, so borders between them fall on half steps, and looking up beats searching many times over.
        self.spacing = 1 if self.uniform else 2
        self._last_place = self.spacing * (self.last - self.first)
        self._origin = torch.tensor(-self.spacing * self.first)
        midpoints = (self.levels[1:] + self.levels[:-1]) / 2
        half_steps = torch.arange(2 * self.first, 2 * self.last + 1) / 2
        self._nearest = 2 * (self.levels[torch.bucketize(half_steps + 0.25, midpoints)] - self.first)
        self._codes = torch.searchsorted(self.levels, torch.arange(self.first, self.last + 1)).to(torch.uint8)
        self.zero = int(self.codes(torch.zeros(1)))

    def open_block(
        self, weights: Float[Tensor, "block rows"], importance: Float[Tensor, "block _rows"]
    ) -> tuple[Tensor, ...]:
        """Choose what the groups of a block share; for simple formats nothing. importance: as in `candidates`."""
        return ()

    def as_stored(self, scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The nearest float16 number that a block can store as its scale, or as the unit of its scales."""
        return as_float16(scale)

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
        best = least(self._losses(weights, importance, tried), TRIED)
        held = weights.expand(TRIED, *weights.shape)
        offset = None if tried.offset is None else tried.offset.gather(0, best)
        levels = self._levels(held, tried.scale.gather(0, best), offset)
        return self.settle(Sums.of(held, importance, levels, self.least_offset is not None), frame)

    def settle(self, sums: "Sums", frame: tuple[Tensor, ...]) -> Scales:
        """What can be stored of the solutions for some choices of levels, [candidates, rows]."""
        scale, offset, _ = self.solve(sums)
        return self.store(scale, offset, frame)

    def solve(
        self, sums: "Sums"
    ) -> tuple[Float[Tensor, "*groups rows"], Float[Tensor, "*groups rows"] | None, Float[Tensor, "*groups rows"]]:
        """Scale and offset that lose least with the levels of `sums`, by weighted least squares.

        The third is what they gain: the loss is Σ v w² less this.
        """
        A, D = sums.A, sums.D
        alone = torch.where(A > 0, D / A, 0)
        if sums.offset is None or self.least_offset is None:
            return alone, None, alone * D
        B, C, E = sums.offset
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
        """The nearest levels of weights [*groups, group, rows] under one scale (and offset) of each group and row.

        They are scratch: gone when this is called again.
        """
        steps = self.widths(scale).reciprocal_()
        shift = self.shift(offset, steps)
        shift = shift if offset is None else shift.unsqueeze(-2)
        levels = scratch("levels", *weights.shape)
        torch.addcmul(shift, weights, steps.unsqueeze(-2), out=levels)
        return self.level_of_(self.round_(levels, levels))

    def _losses(
        self, weights: Float[Tensor, "group rows"], importance: Float[Tensor, "group _rows"], tried: Scales
    ) -> Float[Tensor, "candidates rows"]:
        """Of the candidates, when weights are rounded to nearest."""
        widths = self.widths(tried.scale)
        steps = widths.reciprocal()
        shift = self.shift(tried.offset, steps)
        number = max(1, _AT_ONCE // weights.numel())
        losses = torch.empty_like(steps)
        parts = steps.split(number)
        shifts = [shift] * len(parts) if tried.offset is None else shift.split(number)
        column = weights[:, None]
        for part, own, loss in zip(parts, shifts, losses.split(number), strict=True):
            shape = weights.shape[0], *part.shape
            left, places = scratch("left", *shape), scratch("places", *shape)
            torch.addcmul(own, column, part, out=left)
            squares = squared_differences(left, self.round_(left, places))
            if importance.shape[1] == 1:
                torch.mv(squares.view(shape[0], -1).T, importance[:, 0], out=loss.view(-1))
            else:
                torch.sum(squares.mul_(importance[:, None]), 0, out=loss)
        return losses.mul_(widths.square_())

    def widths(self, scale: Float[Tensor, "*candidates rows"]) -> Float[Tensor, "*candidates rows"]:
        """How much of a weight one place is. What is too small to be stored counts as 0, and so never overflows."""
        return (scale / self.spacing).masked_fill_(scale.abs() < _TINY, _TINY)

    def shift(self, offset: Tensor | None, steps: Tensor) -> Tensor:
        """What is added to weight · steps to have its place. steps: 1 / `widths`."""
        return self._origin if offset is None else torch.addcmul(self._origin, offset, steps)

    def round_(self, places: Tensor, nearest: Tensor) -> Tensor:
        """The nearest place of a level goes to `nearest`, which may be `places`, and is contiguous."""
        if self.uniform:
            return torch.round(places, out=nearest).clamp_(0, self._last_place)
        whole = scratch("whole", *places.shape, dtype=torch.int32)
        whole.copy_(torch.clamp(places, 0, self._last_place, out=nearest))
        torch.index_select(self._nearest, 0, whole.view(-1), out=nearest.view(-1))
        return nearest

    def level_of_(self, places: Tensor) -> Tensor:
        """Rounded places become levels."""
        places = places if self.spacing == 1 else places.div_(self.spacing)
        return places.add_(self.first) if self.first else places

    def places_of(self, levels: Tensor) -> Tensor:
        """The way back from `level_of_`."""
        return (levels - self.first).mul_(self.spacing)

    def steps(self, scale: Tensor) -> Tensor:
        """What `take_nearest` multiplies weights with; 0 where the scale is 0 (all weights then decode to −offset)."""
        return inverse_scale(scale) if self.uniform else 2 * inverse_scale(scale)

    def take_nearest(self, weights: Tensor, scale: Tensor, steps: Tensor, levels: Tensor) -> None:
        """Round: nearest levels go to `levels`, and `weights` (with the offset added) become what is left of them.

        weights, levels: [*group, candidates, rows], contiguous.  scale, steps: [candidates, rows].
        """
        torch.addcmul(self._origin, weights, steps, out=levels)
        weights.addcmul_(self.level_of_(self.round_(levels, levels)), scale, value=-1)

    def codes(self, level: Tensor) -> UInt8[Tensor, "..."]:
        """Index of each level, counted from the lowest."""
        place = level - self.first
        if self.uniform:
            return place.to(torch.uint8)
        return self._codes.index_select(0, place.flatten().long()).view(level.shape)


def inverse_scale(scale: Tensor) -> Tensor:
    """1/scale, and 0 for scales that are 0 (or so small that the reciprocal overflows)."""
    return scale.reciprocal().nan_to_num_(0, 0, 0)


def squared_differences(ours: Tensor, others: Tensor) -> Tensor:
    """(ours − others)² in the place of `ours`, in one pass."""
    return torch.ops.aten.mse_loss.out(ours, others, 0, out=ours)


def least(losses: Float[Tensor, "candidates rows"], number: int) -> Int[Tensor, "_number rows"]:
    """The numbers of the candidates that lose least in each row, the best first.

    losses: not negative, of at least as many candidates as are wanted. The lowest bits of each make room for its
    candidate's number, so that the least loss names it: several times as quick as sorting. They are a part in 2¹⁸ of
    the loss, or less.
    """
    bits, numbers = _numbers(len(losses))
    named = losses.view(torch.int32).bitwise_and(-bits).bitwise_or_(numbers)
    found = [named.amin(0)]
    for _ in range(1, number):
        named.masked_fill_(named == found[-1], torch.iinfo(torch.int32).max)
        found.append(named.amin(0))
    return torch.stack(found).bitwise_and_(bits - 1).long()


@cache
def _numbers(count: int) -> tuple[int, Int[Tensor, "count 1"]]:
    """A power of two with room for so many numbers, and they."""
    return 1 << (count - 1).bit_length(), torch.arange(count, dtype=torch.int32)[:, None]


def as_float16(values: Tensor) -> Tensor:
    """The nearest finite float16."""
    return values.clamp(-65504.0, 65504.0).to(torch.float16)


def signed_peak(weights: Float[Tensor, "*groups group rows"]) -> Float[Tensor, "*groups rows"]:
    """The weight of largest magnitude in each group of each row, with its sign."""
    high, low = weights.amax(-2), weights.amin(-2)
    return torch.where(high >= -low, high, low)
