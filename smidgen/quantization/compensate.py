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

Cost: rows · columns² multiply-adds for the pushes between groups (matrix products), plus candidates · rows · columns ·
group/2 inside groups. No loop over rows.
"""

import torch
from torch import Tensor

from smidgen.errors import SmidgenError
from smidgen.numerics.block_types import F16, BlockType
from smidgen.numerics.codeword_fields import FORMATS
from smidgen.numerics.grid import Grid, Scales
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.pack import pack
from smidgen.numerics.precision import quick_products
from smidgen.quantization.compensate_codewords import compensate_codewords
from smidgen.shapes import Float, UInt8

# Rows rounded together: few enough that the candidates of a group stay in the processor's cache, and enough that each
# operation is worth its call, and worth sharing out over the cores.
_ROWS = 4608
_BLOCKS = 4096  # the same for plain rounding, where blocks stand in the place of rows
_CHUNK = 256  # columns between the products that push their errors far; a multiple of every block
_IN_ORDER = 8  # columns of a group that push errors one by one; onto those behind them, by a product


def compensate(
    weight: Float[Tensor, "out in"], kind: BlockType, U: Float[Tensor, "in in"] | Float[Tensor, " in"]
) -> UInt8[Tensor, "out bytes"]:
    """Encode a matrix as `kind`, rounding errors compensated through U (from `numerics.factor.inverse_factor`).

    F16 is only rounded: its steps are so fine that there is nothing to compensate.

    A vector in place of U (the diagonal alone) means no compensation: round to nearest with searched scales.
    Memory: one float32 copy of the matrix. Raises SmidgenError for weights beyond float16, where that is the type.
    """
    if kind is F16:
        return _as_float16(weight)
    if not kind.fits(weight.shape[1]):
        raise ValueError(f"{kind.name} needs rows divisible by {kind.block}, got {weight.shape[1]}")
    if kind in FORMATS:
        return compensate_codewords(weight, kind, U)
    grid = GRIDS[kind]
    if U.ndim == 1:
        slabs = weight.split(max(1, _BLOCKS * kind.block // weight.shape[1]))
        return torch.cat([_round_rows(slab, grid, U) for slab in slabs])
    W = weight.T.clone(memory_format=torch.contiguous_format)  # one row is contiguous either way
    errors = torch.empty(min(_CHUNK, len(W)), W.shape[1])
    packed: list[Tensor] = []
    for first in range(0, len(W), _CHUNK):
        last = min(first + _CHUNK, len(W))
        inside = U[first:last, first:last]
        slabs = zip(W[first:last].split(_ROWS, dim=1), errors[: len(inside)].split(_ROWS, dim=1), strict=True)
        packed.append(torch.cat([_round_chunk(slab, grid, inside, error) for slab, error in slabs]))
        with quick_products():
            W[last:].addmm_(U[first:last, last:].T, errors[: len(inside)], alpha=-1)
    return torch.cat(packed, dim=1)


def _as_float16(weight: Float[Tensor, "out in"]) -> UInt8[Tensor, "out bytes"]:
    rounded = weight.half()
    if not rounded.isfinite().all():
        raise SmidgenError(
            "A matrix is to become F16 and holds values beyond float16. Leave F16 out of --types; where its rows fit "
            "no block of another type, this model cannot be quantized."
        )
    return rounded.contiguous().view(torch.uint8)


def _round_rows(weight: Float[Tensor, "rows in"], grid: Grid, U: Float[Tensor, " in"]) -> UInt8[Tensor, "rows bytes"]:
    """Without compensation all blocks are independent, so each becomes a row of its own."""
    size = grid.kind.block
    blocks = weight.reshape(-1, size).T.contiguous()
    diagonal = U.view(-1, size).T.repeat(1, len(weight))  # [block, rows · blocks of a row]
    importance = _importance(diagonal)
    frame = grid.open_block(blocks, importance)
    codes, scales = torch.empty(blocks.shape, dtype=torch.uint8), []
    for start in range(0, size, grid.group):
        group = slice(start, start + grid.group)
        tried = grid.candidates(blocks[group], importance[group], frame)
        levels, _, kept = _round_group(blocks[group], grid, tried, diagonal[group], None)
        codes[group] = grid.codes(levels)
        scales.append(kept.stored)
    return pack(grid.kind, codes, scales, [frame]).view(len(weight), -1)


def _round_chunk(
    weights: Float[Tensor, "chunk rows"],
    grid: Grid,
    U: Float[Tensor, "chunk chunk"],
    errors: Float[Tensor, "chunk rows"],
) -> UInt8[Tensor, "rows bytes"]:
    """Round some columns of a slab of rows, and leave their errors e in `errors`."""
    W = weights.contiguous()
    columns, rows = W.shape
    importance = _importance(U.diagonal()[:, None])
    codes = torch.empty(columns, rows, dtype=torch.uint8)
    scales: list[tuple[Tensor, ...]] = []
    frames: list[tuple[Tensor, ...]] = []
    for start in range(0, columns, grid.group):
        group, behind = slice(start, start + grid.group), slice(start + grid.group, columns)
        if start % grid.kind.block == 0:
            block = slice(start, start + grid.kind.block)
            frames.append(grid.open_block(W[block], importance[block]))
        tried = grid.candidates(W[group], importance[group], frames[-1])
        inside = U[group, group]
        diagonal = inside.diagonal()[:, None]
        levels, error, kept = _round_group(W[group], grid, tried, diagonal, inside / diagonal)
        errors[group] = error
        codes[group] = grid.codes(levels)
        scales.append(kept.stored)
        W[behind].addmm_(U[group, behind].T, error, alpha=-1)
    return pack(grid.kind, codes, scales, frames)


def _importance(diagonal: Float[Tensor, "cols _rows"]) -> Float[Tensor, "cols _rows"]:
    """What an error of each weight costs, e² = (w − ŵ)²/Uᵢᵢ², with the most as 1. diagonal: of U."""
    return (diagonal.amin(0) / diagonal).square_()


def _round_group(
    weights: Float[Tensor, "group rows"],
    grid: Grid,
    tried: Scales,
    diagonal: Float[Tensor, "group _rows"],
    push: Float[Tensor, "group group"] | None,
) -> tuple[Float[Tensor, "group rows"], Float[Tensor, "group rows"], Scales]:
    """Round one group under every candidate; per row keep the best. Returns levels, errors e and the kept scales.

    diagonal: of U, for each row or one for all.  push: U divided by its diagonal, row by row; None not to compensate.
    """
    if tried.offset is None:
        left = weights[:, None].expand(-1, *tried.scale.shape)  # [group, candidates, rows]
        left = left.clone(memory_format=torch.contiguous_format)  # of one candidate it would be the weights themselves
    else:
        left = weights[:, None] + tried.offset
    levels, steps = torch.empty_like(left), grid.steps(tried.scale)
    if push is None:
        grid.take_nearest(left, tried.scale, steps, levels)
    else:
        _round_in_order(left, grid, tried.scale, steps, push, levels)
    left.div_(diagonal[:, None])
    loss = torch.mv(left.square().flatten(1).T, torch.ones(len(left))).view(tried.scale.shape)
    best = loss.min(0).indices
    place = best * weights.shape[1] + torch.arange(weights.shape[1])
    return levels.flatten(1).index_select(1, place), left.flatten(1).index_select(1, place), tried.pick(best)


def _round_in_order(
    left: Float[Tensor, "group candidates rows"],
    grid: Grid,
    scale: Float[Tensor, "candidates rows"],
    steps: Float[Tensor, "candidates rows"],
    push: Float[Tensor, "group group"],
    levels: Float[Tensor, "group candidates rows"],
) -> None:
    """Round column after column; what is `left` of one is pushed onto the columns after.

    push: U with each row divided by its diagonal entry, since `left` is not divided before the end.
    """
    flat = left.flatten(1)
    for first in range(0, len(left), _IN_ORDER):
        last = min(first + _IN_ORDER, len(left))
        for i in range(first, last):
            grid.take_nearest(left[i], scale, steps, levels[i])
            left[i + 1 : last].addcmul_(left[i], push[i, i + 1 : last, None, None], value=-1)
        flat[last:].addmm_(push[first:last, last:].T, flat[first:last], alpha=-1)
