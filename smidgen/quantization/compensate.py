"""Error compensation inside GGUF blocks: GPTQ, with the scales chosen as part of the search.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022
(arXiv:2210.17323), algorithm 1. For one row w of a linear layer with inputs of second moment H = E[x xᵀ], find stored
values ŵ that minimise (w − ŵ) H (w − ŵ)ᵀ. Columns are rounded in order; the error e = (wᵢ − ŵᵢ)/Uᵢᵢ of column i is
pushed onto the columns not yet rounded, w ← w − e·Uᵢ,: where UᵀU = H⁻¹ (U upper triangular). The loss
added by column i is e².

Where we differ: GPTQ takes scales as given. Here each group of columns that shares a scale tries every candidate
the format can store: the group is rounded, with compensation inside it, under all candidates at once, and each row
keeps the candidate with the least Σ e², which is the exact loss of that group given what came before. So scales are
searched under the objective itself, on the values as stored.

With a diagonal H nothing is pushed anywhere, and the same code is round-to-nearest with scales searched under
Σ Hᵢᵢ (wᵢ − ŵᵢ)²: the baseline that compensation has to beat.

What comes from earlier chunks of columns is subtracted when a chunk begins, in one product, so that a slab of rows goes
through all columns by itself, on one core.

Cost: rows · columns²/2 multiply-adds for the pushes between groups (matrix products), plus candidates · rows ·
columns · group/2 inside groups. No loop over rows.
"""

import math
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from smidgen.errors import SmidgenError
from smidgen.numerics.block_types import F16, BlockType
from smidgen.numerics.codeword_fields import FORMATS
from smidgen.numerics.cores import on_all_cores
from smidgen.numerics.grid import TRIED, Grid, Scales, least, squared_differences
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.pack import pack
from smidgen.numerics.products import product
from smidgen.quantization.compensate_codewords import CodewordCompensator
from smidgen.quantization.in_order import Pushes, octets
from smidgen.shapes import Float, UInt8

# Rows rounded together, at most: so many that each operation is worth its call, and few enough that the candidates of
# eight columns stay in the cache of a core. From _SHARED rows on they make two slabs or more, one for each core.
_ROWS, _SHARED = 2048, 512
_BLOCKS = 2048  # the same for plain rounding, where blocks stand in the place of rows
_CHUNK = 256  # columns between the products that bring errors from far; a multiple of every block
_LARGEST = 2.0**28  # a little more than the most that any type holds, Q6_K's 65504 · 128 · 32


def compensate(
    weight: Float[Tensor, "out in"], kind: BlockType, U: Float[Tensor, "in in"] | Float[Tensor, " in"]
) -> UInt8[Tensor, "out bytes"]:
    """Encode a matrix as `kind`, rounding errors compensated through U (from `numerics.factor.inverse_factor`).

    F16 is only rounded: its steps are so fine that there is nothing to compensate.

    A vector in place of U (the diagonal alone) means no compensation: round to nearest with searched scales.
    Memory: half of U, and of the rows that are at work a copy and their errors, float32. Raises SmidgenError for
    weights beyond float16, where that is the type; of the others, what is larger than a type holds becomes the largest.
    """
    return Compensator(kind, U).encode(weight)


def bounded(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """What any type encodes as it encodes `weight`, with squares that can be added up in float32.

    Most often that is `weight` itself.
    """
    low, high = weight.aminmax()
    return weight if -_LARGEST <= low and high <= _LARGEST else weight.clamp(-_LARGEST, _LARGEST)


class Compensator:
    """`compensate` for one type and one U, to be prepared once for many runs of rows. Threads may share one."""

    def __init__(self, kind: BlockType, U: Float[Tensor, "in in"] | Float[Tensor, " in"]) -> None:
        if kind is not F16 and not kind.fits(len(U)):
            raise ValueError(f"{kind.name} needs rows divisible by {kind.block}, got {len(U)}")
        if kind is F16:
            self._encode = _as_float16
        elif kind in FORMATS:
            self._encode = CodewordCompensator(kind, U).encode
        elif U.ndim == 1:
            self._encode = _Rounding(GRIDS[kind], U).encode
        else:
            self._encode = _Compensation(GRIDS[kind], U).encode

    def encode(self, weight: Float[Tensor, "out in"]) -> UInt8[Tensor, "out bytes"]:
        """Some rows."""
        return self._encode(bounded(weight))


def _as_float16(weight: Float[Tensor, "out in"]) -> UInt8[Tensor, "out bytes"]:
    rounded = weight.half()
    if not rounded.isfinite().all():
        raise SmidgenError(
            "A matrix is to become F16 and holds values beyond float16. Leave F16 out of --types; where its rows fit "
            "no block of another type, this model cannot be quantized."
        )
    return rounded.contiguous().view(torch.uint8)


class _Rounding:
    """Without compensation all blocks are independent, so each becomes a row of its own."""

    def __init__(self, grid: Grid, U: Float[Tensor, " in"]) -> None:
        self._grid = grid
        self._diagonal = U.view(-1, grid.kind.block).T.contiguous()  # [block, blocks of a row]
        # e² = (w − ŵ)²/Uᵢᵢ², with the most in each block as 1.
        self._importance = (self._diagonal.amin(0) / self._diagonal).square_()

    def encode(self, weight: Float[Tensor, "out in"]) -> UInt8[Tensor, "out bytes"]:
        """Each row by itself, whatever comes with it."""
        rows = max(1, _BLOCKS * self._grid.kind.block // weight.shape[1])
        return torch.cat(on_all_cores(self._encode_slab, weight.split(rows)))

    @torch.inference_mode()
    def _encode_slab(self, weight: Float[Tensor, "rows in"]) -> UInt8[Tensor, "rows bytes"]:
        grid, size = self._grid, self._grid.kind.block
        blocks = weight.reshape(-1, size).T.contiguous()
        importance = self._importance.repeat(1, len(weight))  # [block, rows · blocks of a row]
        frame = grid.open_block(blocks, importance)
        codes, scales = torch.empty(blocks.shape, dtype=torch.uint8), []
        space = _Space(grid.group, blocks.shape[1])
        for start in range(0, size, grid.group):
            group = slice(start, start + grid.group)
            tried = grid.candidates(blocks[group], importance[group], frame)
            left = space.start(blocks[group], grid, tried)
            squares = squared_differences(left, grid.round_(left, space.places)).mul_(importance[group, None])
            best = least(squares.sum(0).mul_(space.widths.square_()), 1)[0]
            kept = tried.pick(best)
            codes[group] = _codes(grid, space.pick(space.places, best), kept)
            scales.append(kept.stored)
        return pack(grid.kind, codes, scales, [frame]).view(len(weight), -1)


@dataclass(frozen=True)
class _Group:
    """What a group of columns does to those behind it.

    columns: of the chunk.  diagonal: of U.  importance: of errors, 1/Uᵢᵢ², the most in the chunk being 1.
    inside: U over its diagonal.  behind: U of the group onto the chunk behind it, transposed; None if there is none.
    """

    columns: slice
    diagonal: Float[Tensor, "group 1"]
    importance: Float[Tensor, "group 1"]
    inside: Pushes
    behind: Float[Tensor, "behind group"] | None

    @classmethod
    def of(
        cls, U: Float[Tensor, "chunk chunk"], importance: Float[Tensor, "chunk 1"], start: int, size: int
    ) -> "_Group":
        """U, importance: of the chunk."""
        columns = slice(start, start + size)
        inside = U[columns, columns]
        diagonal = inside.diagonal()[:, None].clone()
        behind = U[columns, columns.stop :].T.contiguous() if columns.stop < U.shape[1] else None
        return cls(columns, diagonal, importance[columns], Pushes.of(inside / diagonal), behind)


@dataclass(frozen=True)
class _Chunk:
    """Some columns. before: U of all columns before them onto these, transposed."""

    columns: slice
    importance: Float[Tensor, "chunk 1"]
    before: Float[Tensor, "chunk before"]
    groups: list[_Group]

    @classmethod
    def of(cls, U: Float[Tensor, "in in"], grid: Grid, first: int) -> "_Chunk":
        columns = slice(first, min(first + _CHUNK, len(U)))
        inside = U[columns, columns]
        diagonal = inside.diagonal()[:, None]
        importance = (diagonal.amin(0) / diagonal).square_()
        groups = [_Group.of(inside, importance, start, grid.group) for start in range(0, len(inside), grid.group)]
        before = U[:first, columns].contiguous().T.contiguous()  # both copies are quick; in one step it would not be
        return cls(columns, importance, before, groups)


class _Compensation:
    """Rounding with compensation, prepared for one U."""

    def __init__(self, grid: Grid, U: Float[Tensor, "in in"]) -> None:
        self._grid = grid
        self._chunks = [_Chunk.of(U, grid, first) for first in range(0, len(U), _CHUNK)]

    def encode(self, weight: Float[Tensor, "out in"]) -> UInt8[Tensor, "out bytes"]:
        """Each slab of rows on a core."""
        number = 1 if weight.shape[0] < _SHARED else 2 * math.ceil(weight.shape[0] / (2 * _ROWS))
        slabs = weight.split(math.ceil(weight.shape[0] / number))
        return torch.cat(on_all_cores(self._encode_slab, slabs))

    @torch.inference_mode()
    def _encode_slab(self, weight: Float[Tensor, "rows in"]) -> UInt8[Tensor, "rows bytes"]:
        rows, width = weight.shape
        codes = torch.empty(width, rows, dtype=torch.uint8)
        errors = torch.empty(width, rows)
        scales: list[tuple[Tensor, ...]] = []
        frames: list[tuple[Tensor, ...]] = []
        space = _Space(self._grid.group, rows)
        transposed = weight.T.clone(memory_format=torch.contiguous_format)  # a row alone is contiguous either way
        for chunk in self._chunks:
            W, before = transposed[chunk.columns], chunk.columns.start
            if before:
                W.sub_(product(chunk.before, errors[:before].T))
            for group in chunk.groups:
                if group.columns.start % self._grid.kind.block == 0:
                    block = slice(group.columns.start, group.columns.start + self._grid.kind.block)
                    frames.append(self._grid.open_block(W[block], chunk.importance[block]))
                place = slice(before + group.columns.start, before + group.columns.stop)
                kept = self._round_group(W, group, frames[-1], space, errors[place], codes[place])
                scales.append(kept.stored)
        return pack(self._grid.kind, codes, scales, frames)

    def _round_group(
        self,
        W: Float[Tensor, "chunk rows"],
        group: _Group,
        frame: tuple[Tensor, ...],
        space: "_Space",
        errors: Float[Tensor, "group rows"],
        codes: UInt8[Tensor, "group rows"],
    ) -> Scales:
        """Round one group under every candidate; per row keep the best, push its errors onto the chunk behind."""
        grid, weights = self._grid, W[group.columns]
        tried = grid.candidates(weights, group.importance, frame)
        left = space.start(weights, grid, tried)
        _round_in_order(grid, group, space)
        torch.mul(left, left, out=space.squares)
        losses = torch.mv(space.squares.flatten(1).T, group.importance[:, 0]).view(space.widths.shape)
        best = least(losses.mul_(space.widths.square_()), 1)[0]
        kept = tried.pick(best)
        width = grid.widths(kept.scale)
        torch.div(space.pick(left, best).mul_(width), group.diagonal, out=errors)
        codes.copy_(_codes(grid, space.pick(space.places, best), kept))
        if group.behind is not None:
            W[group.columns.stop :].addmm_(group.behind, errors, alpha=-1)
        return kept


class _Space:
    """What the groups of a slab are rounded in, one after the other.

    left: what is left of each weight under each candidate, in places (`numerics.grid`).  places: to which it is
    rounded.  squares: room for squares.  widths: of a place, [candidates, rows].
    columns: of each octet of columns, each with its place.  behind: what is behind each of them in its octet.
    octets: each but the last, and what is behind it; candidates and rows in one.
    """

    def __init__(self, group: int, rows: int) -> None:
        self.left, self.places, self.squares = (torch.empty(group, TRIED, rows) for _ in range(3))
        self.widths = torch.empty(TRIED, rows)
        self._rows = torch.arange(rows)
        all_octets = octets(group)
        pairs = list(zip(self.left.unbind(), self.places.unbind(), strict=True))
        self.columns = [pairs[octet] for octet in all_octets]
        self.behind = [
            [self.left[i + 1 : octet.stop] for i in range(octet.start, octet.stop - 1)] for octet in all_octets
        ]
        flat = self.left.flatten(1)
        self.octets = [(flat[octet], flat[octet.stop :]) for octet in all_octets[:-1]]

    def start(self, weights: Float[Tensor, "group rows"], grid: Grid, tried: Scales) -> Tensor:
        """Weights under every candidate, in places."""
        self.widths = grid.widths(tried.scale)
        steps = self.widths.reciprocal()
        return torch.addcmul(grid.shift(tried.offset, steps), weights[:, None], steps, out=self.left)

    def pick(self, of_candidates: Float[Tensor, "group candidates rows"], best: Tensor) -> Float[Tensor, "group rows"]:
        """Of each row the candidate numbered `best`."""
        return of_candidates.flatten(1).index_select(1, best * self._rows.numel() + self._rows)


def _round_in_order(grid: Grid, group: _Group, space: _Space) -> None:
    """Round column after column; what is `left` of one is pushed onto the columns after."""
    for number, columns in enumerate(space.columns):
        for (left, places), behind, push in zip_longest(columns, space.behind[number], group.inside.near[number]):
            left.sub_(grid.round_(left, places))
            if push is not None:
                behind.addcmul_(left, push, value=-1)
        if number < len(space.octets):
            octet, behind = space.octets[number]
            behind.addmm_(group.inside.far[number], octet, alpha=-1)


def _codes(grid: Grid, places: Float[Tensor, "group rows"], kept: Scales) -> UInt8[Tensor, "group rows"]:
    """Codes of rounded places; under a scale of 0 those of the level nearest to 0."""
    codes = grid.codes(grid.level_of_(places))
    return codes.masked_fill_(kept.scale == 0, grid.zero)
