"""Error compensation against a longhand loop over rows, groups, candidates and columns, written from the equations."""

import pytest
import torch
from torch import Tensor

from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.codeword_fields import FORMATS
from smidgen.numerics.decode import decode
from smidgen.numerics.factor import damage, inverse_factor
from smidgen.numerics.grids import GRIDS
from smidgen.quantization.compensate import compensate


def correlated(width: int, seed: int) -> Tensor:
    """A second moment with strong correlations, as real activations have them."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) * torch.linspace(0.1, 2.0, width)
    x = torch.randn(4 * width, width, generator=generator) @ mixing / width**0.5
    return x.T @ x / len(x)


def longhand(weight: Tensor, kind: BlockType, U: Tensor) -> Tensor:
    """Decoded values, one row at a time, one weight at a time, in Python floats where it matters."""
    grid = GRIDS[kind]
    levels = grid.levels.double()
    importance = (U.diagonal().min() / U.diagonal()).square()[:, None]
    result = torch.empty_like(weight)
    for r, row in enumerate(weight.double()):
        w, frame = row.clone(), ()
        for start in range(0, len(w), grid.group):
            if start % kind.block == 0:
                block = slice(start, start + kind.block)
                frame = grid.open_block(w[block, None].float(), importance[block])
            group = slice(start, start + grid.group)
            tried = grid.candidates(w[group, None].float(), importance[group], frame)
            best_loss, best_values, best_errors = float("inf"), None, None
            for c in range(len(tried.scale)):
                scale = float(tried.scale[c, 0])
                offset = 0.0 if tried.offset is None else float(tried.offset[c, 0])
                local, loss, values, errors = w[start : start + grid.group].clone(), 0.0, [], []
                for i in range(grid.group):
                    grid_values = scale * levels - offset
                    value = float(grid_values[(grid_values - local[i]).abs().argmin()])
                    error = (float(local[i]) - value) / float(U[start + i, start + i])
                    for j in range(i + 1, grid.group):
                        local[j] -= error * float(U[start + i, start + j])
                    loss += error * error
                    values.append(value)
                    errors.append(error)
                if loss < best_loss:
                    best_loss, best_values, best_errors = loss, values, errors
            assert best_values is not None and best_errors is not None
            result[r, start : start + grid.group] = torch.tensor(best_values)
            for i, error in enumerate(best_errors):
                w[start + grid.group :] -= error * U[start + i, start + grid.group :].double()
    return result


@pytest.mark.parametrize("kind", [types.Q4_0, types.IQ4_NL, types.Q5_1, types.Q8_0], ids=lambda kind: kind.name)
def test_equals_the_longhand_loop(kind: BlockType) -> None:
    weight = torch.randn(3, 96, generator=torch.Generator().manual_seed(7)) * 0.05
    U = inverse_factor(correlated(96, seed=8))
    fast = decode(compensate(weight, kind, U), kind)
    slow = longhand(weight, kind, U)
    # A weight that lies half-way between two levels may fall either way by rounding, and what follows it differs then.
    assert (fast - slow).abs().max(dim=1).values.median() < 1e-6
    hessian = correlated(96, seed=8)
    assert torch.allclose(damage(fast - weight, hessian).sum(), damage(slow - weight, hessian).sum(), rtol=0.05)


@pytest.mark.parametrize("kind", [kind for kind in GRIDS if kind.block == 256], ids=lambda kind: kind.name)
def test_super_blocks_equal_the_longhand_loop(kind: BlockType) -> None:
    weight = torch.randn(2, 512, generator=torch.Generator().manual_seed(3)) * 0.05
    hessian = correlated(512, seed=4)
    U = inverse_factor(hessian)
    fast, slow = decode(compensate(weight, kind, U), kind), longhand(weight, kind, U)
    assert torch.allclose(damage(fast - weight, hessian).sum(), damage(slow - weight, hessian).sum(), rtol=0.05)


@pytest.mark.parametrize("kind", [*GRIDS, *FORMATS], ids=lambda kind: kind.name)
def test_compensation_beats_rounding_on_its_own_objective(kind: BlockType) -> None:
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(1)) * 0.05
    hessian = correlated(256, seed=2)
    plain = decode(compensate(weight, kind, hessian.diagonal().rsqrt()), kind)
    compensated = decode(compensate(weight, kind, inverse_factor(hessian)), kind)
    assert damage(compensated - weight, hessian).sum() < 0.8 * damage(plain - weight, hessian).sum()


def test_rounding_with_searched_scales_beats_the_full_range_scale() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(5))
    searched = decode(compensate(weight, types.Q4_0, torch.ones(256)), types.Q4_0)
    blocks = weight.unflatten(1, (-1, 32))
    scale = blocks.gather(2, blocks.abs().argmax(2, keepdim=True)) / -8
    plain = ((blocks / scale).round().clamp(-8, 7) * scale).flatten(1)
    assert (searched - weight).square().sum() < 0.95 * (plain - weight).square().sum()
