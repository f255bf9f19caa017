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

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from smidgen.numerics.block_types import BlockType
from smidgen.numerics.grids import GRIDS, Grid, Scales, inverse_scale
from smidgen.numerics.pack import pack
from smidgen.shapes import Float, UInt8

# Rows rounded together: few enough that the candidates of one group stay in the processor's cache, and enough that
# each operation is worth its call.
_MOST_ROWS, _LEAST_ROWS = 1024, 256


def inverse_factor(hessian: Float[Tensor, "in in"], damping: float = 0.01) -> Float[Tensor, "in in"]:
    """U with UᵀU = (H + λI)⁻¹, upper triangular; λ is `damping` times the mean of the diagonal of H.

    Computed in float64. Inputs that never occurred (zero rows of H) are held by λ alone.
    """
    H = hessian.double()
    mean = H.diagonal().mean().clamp_min(1e-30)
    H = H + damping * mean * torch.eye(H.shape[0], dtype=torch.float64)
    # Reverse the order of the columns: H' = L Lᵀ, so H'⁻¹ = L⁻ᵀ L⁻¹, and L⁻¹ reversed back is upper triangular: U.
    # One triangular inverse replaces inverting H and factorising the result.
    lower = torch.linalg.cholesky(H.flip(0, 1))
    eye = torch.eye(H.shape[0], dtype=torch.float64)
    return torch.linalg.solve_triangular(lower, eye, upper=False).flip(0, 1).float()


def compensate(
    weight: Float[Tensor, "out in"], kind: BlockType, U: Float[Tensor, "in in"] | Float[Tensor, " in"]
) -> UInt8[Tensor, "out bytes"]:
    """Encode a matrix as `kind`, rounding errors compensated through U (from `inverse_factor`).

    A vector in place of U (the diagonal alone) means no compensation: round to nearest with searched scales.
    """
    threads = torch.get_num_threads()
    slabs = weight.split(min(_MOST_ROWS, max(_LEAST_ROWS, -(-len(weight) // threads))))
    # Slabs have nothing to do with each other, and their operations are too small for torch to share out: so each
    # thread takes slabs of its own.
    with ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(lambda slab: _compensate_rows(slab.T.contiguous(), GRIDS[kind], U), slabs)))


def _compensate_rows(W: Float[Tensor, "in rows"], grid: Grid, U: Tensor) -> UInt8[Tensor, "rows bytes"]:
    """One slab of rows, transposed; W is used up."""
    columns, rows = W.shape
    codes = torch.empty(columns, rows, dtype=torch.uint8)
    scales: list[tuple[Tensor, ...]] = []
    frames: list[tuple[Tensor, ...]] = []
    for block in range(0, columns, grid.kind.block):
        frame = grid.open_block(W[block : block + grid.kind.block])
        frames.append(frame)
        for start in range(block, block + grid.kind.block, grid.group):
            end = start + grid.group
            inside = U[start:end, start:end] if U.ndim == 2 else U[start:end]
            tried = grid.candidates(W[start:end], frame)
            levels, errors, kept = _round_group(W[start:end], grid, tried, inside)
            codes[start:end] = grid.codes(levels)
            scales.append(kept.stored)
            if U.ndim == 2 and end < columns:
                W[end:].addmm_(U[start:end, end:].T, errors, alpha=-1)
    return pack(grid.kind, codes, scales, frames)


def _round_group(
    weights: Float[Tensor, "group rows"], grid: Grid, tried: Scales, U: Tensor
) -> tuple[Float[Tensor, "group rows"], Float[Tensor, "group rows"], Scales]:
    """Round one group under every candidate; per row keep the best. Returns levels, errors e and the kept scales."""
    inverse = inverse_scale(tried.scale)
    w = weights[:, None].expand(-1, *tried.scale.shape).contiguous()  # [group, candidates, rows]
    if U.ndim == 1:
        levels, values = grid.round(w, tried, inverse)
        w.sub_(values).div_(U[:, None, None])
    else:
        levels = _round_in_order(w, grid, tried, inverse, U)
    best = w.square().sum(0).argmin(0)
    index = best.expand(len(w), 1, -1)
    return levels.gather(1, index)[:, 0], w.gather(1, index)[:, 0], tried.pick(best)


def _round_in_order(
    w: Float[Tensor, "group candidates rows"],
    grid: Grid,
    tried: Scales,
    inverse: Tensor,
    U: Float[Tensor, "group group"],
) -> Float[Tensor, "group candidates rows"]:
    """Round column after column, pushing errors onto the columns after. Returns levels; w becomes the errors e."""
    levels = torch.empty_like(w)
    for i in range(len(w)):
        levels[i], value = grid.round(w[i], tried, inverse)
        error = w[i].sub_(value).div_(U[i, i])  # from here on w[i] holds e
        w[i + 1 :].addcmul_(error[None], U[i, i + 1 :, None, None], value=-1)
    return levels


def damage(error: Float[Tensor, "out in"], hessian: Float[Tensor, "in in"]) -> Float[Tensor, " out"]:
    """(ΔW H ΔWᵀ)ᵣᵣ for each row: the mean squared error of each output, in units of the output squared."""
    return (error @ hessian).mul_(error).sum(1)
