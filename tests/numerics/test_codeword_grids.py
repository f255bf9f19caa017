"""The search for signs, codewords, factors and units against trying everything."""

import pytest
import torch

from smidgen.numerics.block_types import BlockType
from smidgen.numerics.codeword_fields import FORMATS
from smidgen.numerics.codeword_grids import grid_of

KINDS = list(FORMATS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_codeword_is_nearer(kind: BlockType) -> None:
    grid, generator = grid_of(kind), torch.Generator().manual_seed(1)
    targets = torch.randn(grid.run, 1500, generator=generator) * grid.largest / 2
    importance = torch.rand(grid.run, generator=generator) + 0.01
    distances = ((targets.T[:, None] - grid.words).square() * importance).sum(2)
    found = distances.gather(1, grid.nearest(targets, importance)[:, None].long())[:, 0]
    assert torch.allclose(found, distances.amin(1), rtol=3e-4, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_codewords_themselves_are_found(kind: BlockType) -> None:
    grid = grid_of(kind)
    assert torch.equal(grid.nearest(grid.words.T, torch.ones(grid.run)), torch.arange(len(grid.words)).int())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_signs_are_those_of_the_weights_but_for_the_least_where_minuses_must_be_even(kind: BlockType) -> None:
    grid, generator = grid_of(kind), torch.Generator().manual_seed(2)
    weights = torch.randn(8, 200, generator=generator)
    importance = torch.rand(8, generator=generator) + 0.1
    signs = grid.signs(weights, importance)
    turned = signs * weights < 0
    if not grid.form.even:
        assert not turned.any()
        return
    assert (signs.prod(0) > 0).all() and (turned.sum(0) <= 1).all() and turned.any()
    costs = weights.abs() * importance[:, None]
    assert torch.equal((costs * turned).sum(0), costs.amin(0) * turned.any(0))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_unit_that_made_a_block_is_found_again(kind: BlockType) -> None:
    """Or one that is as good: the scales of the groups come out."""
    grid, generator = grid_of(kind), torch.Generator().manual_seed(3)
    groups = kind.block // grid.group
    factors = torch.randint(5, 16, (groups, 40), generator=generator)
    factors[0] = 15
    scales = grid.scales(torch.full((40,), 0.01).half().float(), factors)
    numbers = torch.randint(len(grid.words), (groups, grid.group // grid.run, 40), generator=generator)
    levels = grid.words[numbers].permute(0, 1, 3, 2).flatten(1, 2)
    unit, aims = grid.open_block((levels * scales[:, None]).flatten(0, 1), torch.ones(kind.block))
    chosen = torch.stack([grid.candidates(aim, unit.float(), 5) for aim in aims])
    missed = (grid.scales(unit.float(), chosen) / scales[:, None] - 1).abs().amin(1)
    assert missed.median() < 0.02 and missed.quantile(0.95) < 0.15


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12, 1e-7, 1e8, 1e30])
def test_units_and_aims_are_numbers_whatever_the_weights(kind: BlockType, size: float) -> None:
    grid = grid_of(kind)
    weights = torch.randn(kind.block, 3, generator=torch.Generator().manual_seed(4)) * size
    for importance in (torch.ones(kind.block), torch.logspace(-30, 0, kind.block), torch.zeros(kind.block)):
        unit, aims = grid.open_block(weights, importance)
        assert unit.isfinite().all() and aims.isfinite().all()
