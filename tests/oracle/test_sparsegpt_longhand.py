"""SparseGPT against a longhand loop over runs, rows and columns, from the paper, with every inverse made anew."""

import pytest
import torch
from torch import Tensor

from smidgen.numerics.factor import damage, inverse_factor
from smidgen.pruning.masks import Pattern, magnitude, sparsegpt, wanda


def correlated(width: int, seed: int) -> Tensor:
    """A second moment with strong correlations and very different sizes, as real activations have them."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(4 * width, width // 4, generator=generator)
    x = causes @ torch.randn(width // 4, width, generator=generator) / width**0.5
    x = (x + 0.3 * torch.randn(x.shape, generator=generator)) * (torch.rand(width, generator=generator) + 0.1)
    return x.T @ x / len(x)


def longhand(weight: Tensor, hessian: Tensor, pattern: Pattern, run: int) -> Tensor:
    """One weight at a time, in float64. The inverse of what is left is computed anew for every column.

    run: the paper's Bₛ, columns whose zeros are chosen together.
    """
    W, (rows, columns) = weight.double().clone(), weight.shape
    damped = hessian.double() + 0.01 * hessian.double().diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    left = [torch.linalg.inv(damped[i:, i:]) for i in range(columns)]
    for first in range(0, columns, run):
        last = min(first + run, columns)
        gone: set[tuple[int, int]] = set()
        if pattern.group is None:
            wanted = round(pattern.zeros * last) - round(pattern.zeros * first)
            for r in range(rows):
                cost = {(r, c): float(W[r, c] ** 2 / left[c][0, 0]) for c in range(first, last)}
                gone |= set(sorted(cost, key=lambda place: cost[place])[:wanted])
        for c in range(first, last):
            for r in range(rows):
                if pattern.group is not None and c % pattern.group == 0:
                    costs = {j: float(W[r, j] ** 2 / left[j][0, 0]) for j in range(c, c + pattern.group)}
                    dropped = round(pattern.zeros * pattern.group)
                    gone |= {(r, j) for j in sorted(costs, key=lambda j: costs[j])[:dropped]}
                if (r, c) in gone:
                    W[r, c + 1 :] -= W[r, c] / left[c][0, 0] * left[c][0, 1:]
                    W[r, c] = 0
    return W.float()


@pytest.mark.parametrize("text", ["50%", "30%", "2:4", "4:8", "1:3"])
def test_equals_the_longhand_loop(text: str) -> None:
    """Three runs wide, the last one short."""
    pattern, width = Pattern.parse(text), 288
    weight = torch.randn(5, width, generator=torch.Generator().manual_seed(7))
    hessian = correlated(width, seed=8)
    run = 126 if text == "1:3" else 128  # whole groups
    fast, slow = sparsegpt(weight, inverse_factor(hessian), pattern), longhand(weight, hessian, pattern, run)
    assert torch.equal(fast == 0, slow == 0)
    assert torch.allclose(fast, slow, atol=0.02 * float(slow.abs().mean()))


@pytest.mark.parametrize("text", ["50%", "2:4", "4:8", "70%"])
def test_sparsegpt_beats_wanda_beats_magnitude(text: str) -> None:
    """On what all of them are after: the squared change of the layer's outputs."""
    pattern, hessian = Pattern.parse(text), correlated(256, seed=2)
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    thinned = (
        sparsegpt(weight, inverse_factor(hessian), pattern),
        wanda(weight, hessian.diagonal(), pattern),
        magnitude(weight, pattern),
    )
    losses = [float(damage(matrix - weight, hessian).sum()) for matrix in thinned]
    assert losses[0] < 0.9 * losses[1] and losses[1] < 0.95 * losses[2]
