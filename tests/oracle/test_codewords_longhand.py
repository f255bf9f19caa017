"""Compensation of codewords against a longhand loop: rows, groups, factors, runs, and every codeword one by one."""

import pytest
import torch
from torch import Tensor

from smidgen.numerics.block_types import BlockType
from smidgen.numerics.codeword_fields import FORMATS
from smidgen.numerics.codeword_grids import grid_of
from smidgen.numerics.decode import decode
from smidgen.numerics.factor import damage, inverse_factor
from smidgen.quantization.compensate import compensate
from smidgen.quantization.compensate_codewords import CANDIDATES
from tests.oracle.test_compensate_longhand import correlated


def octet(weights: Tensor, scale: float, U: Tensor, kind: BlockType, costs: Tensor) -> tuple[Tensor, Tensor]:
    """Values of eight weights, and e = U⁻ᵀ(w − values), run by run. costs: of errors, to choose signs by."""
    words, run = grid_of(kind).words.double(), grid_of(kind).run
    signs = torch.where(weights < 0, -1.0, 1.0).double()
    if FORMATS[kind].even and signs.prod() < 0:
        signs[(weights.abs() * costs).argmin()] *= -1
    left, values, errors = weights.clone(), torch.zeros(8).double(), torch.zeros(8).double()
    for start in range(0, 8, run):
        here = slice(start, start + run)
        metric = torch.linalg.inv(U[here, here].T @ U[here, here])
        distances = ((left[here] - scale * signs[here] * words).square() * metric.diagonal()).sum(1)
        values[here] = scale * signs[here] * words[distances.argmin()]
        errors[here] = torch.linalg.solve(U[here, here].T, left[here] - values[here])
        left[start + run :] -= U[here, start + run :].T @ errors[here]
    return values, errors


def longhand(weight: Tensor, kind: BlockType, U: Tensor) -> Tensor:
    grid, U = grid_of(kind), U.double()
    result = torch.zeros_like(weight).double()
    for r, row in enumerate(weight.double()):
        w = row.clone()
        for start in range(0, len(w), grid.group):
            place = start % kind.block // grid.group
            if place == 0:
                block = slice(start, start + kind.block)
                # The diagonal of the metric of each run, as the search has it.
                runs = [U[i : i + grid.run, i : i + grid.run] for i in range(start, start + kind.block, grid.run)]
                costs = torch.cat([torch.linalg.inv(one.T @ one).diagonal() for one in runs])
                unit, aims = grid.open_block(w[block, None].float(), (costs / costs.max()).float())
            best = (float("inf"), torch.empty(0), torch.empty(0))
            for factor in grid.candidates(aims[place], unit.float(), CANDIDATES)[:, 0]:
                scale = float(grid.scales(unit.float(), factor))
                left, values, errors = w.clone(), [], []
                for i in range(start, start + grid.group, 8):
                    here = slice(i, i + 8)
                    near = costs[i % kind.block : i % kind.block + 8]
                    value, error = octet(left[here], scale, U[here, here], kind, near)
                    left[i + 8 :] -= U[here, i + 8 :].T @ error
                    values.append(value)
                    errors.append(error)
                loss = float(torch.cat(errors).square().sum())
                if loss < best[0]:
                    best = (loss, torch.cat(values), left)
            result[r, start : start + grid.group], w = best[1], best[2]
    return result.float()


@pytest.mark.parametrize("kind", list(FORMATS), ids=lambda kind: kind.name)
def test_equals_the_longhand_loop(kind: BlockType) -> None:
    """Two blocks of a row, so that errors cross groups and blocks."""
    weight = torch.randn(1, 512, generator=torch.Generator().manual_seed(3)) * 0.05
    hessian = correlated(512, seed=4)
    U = inverse_factor(hessian)
    fast, slow = decode(compensate(weight, kind, U), kind), longhand(weight, kind, U)
    # Where two codewords are as near as each other, either may be taken, and what follows differs then.
    assert (fast - slow)[:, :64].abs().max() < 1e-5
    assert torch.allclose(damage(fast - weight, hessian).sum(), damage(slow - weight, hessian).sum(), rtol=0.05)
