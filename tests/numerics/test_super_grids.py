"""Scales of k-quants: better than the range alone suggests, led by what counts, the same however rows are shared."""

import pytest
import torch
from torch import Tensor

from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.lattice import Lattice
from smidgen.quantization.compensate import compensate

KINDS = [kind for kind in GRIDS if kind.block == 256]
named = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def rounded(weight: Tensor, kind: BlockType, counts: Tensor) -> Tensor:
    return decode(compensate(weight, kind, counts.rsqrt()), kind)


@named
def test_no_other_frame_nearby_is_better_by_much(kind: BlockType) -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(1)) * 0.05
    packed = compensate(weight, kind, torch.ones(256))
    lattice = Lattice.of(packed, kind)
    least = (lattice.weights() - weight).square().sum(1)
    for factor in (0.9, 0.95, 1.05, 1.1):
        unit = (lattice.unit.float() * factor).half()
        moved = Lattice(kind, lattice.codes, unit, lattice.shift_unit, lattice.factors, lattice.shift_factors)
        assert ((moved.nearest(weight).weights() - weight).square().sum(1) >= 0.99 * least).float().mean() > 0.9


@named
def test_what_counts_more_is_stored_better(kind: BlockType) -> None:
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(2))
    counts = torch.where(torch.arange(512) % 4 == 0, 100.0, 1.0)
    led = (rounded(weight, kind, counts) - weight).square()
    even = (rounded(weight, kind, torch.ones(512)) - weight).square()
    assert led[:, ::4].sum() < 0.9 * even[:, ::4].sum()
    assert (led @ counts).sum() < (even @ counts).sum()


@named
def test_an_outlier_that_does_not_count_costs_the_others_less(kind: BlockType) -> None:
    """A weight six times as large as any other, in an input that hardly ever occurs."""
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(3)).clamp(-3, 3)
    weight[:, 7] = 18.0
    counts = torch.ones(256)
    counts[7] = 1e-4
    led, even = (rounded(weight, kind, one) - weight for one in (counts, torch.ones(256)))
    others = torch.arange(256) != 7
    assert led[:, others].square().sum() < even[:, others].square().sum()


@named
def test_a_row_is_the_same_among_others_and_alone(kind: BlockType) -> None:
    weight = torch.randn(5, 256, generator=torch.Generator().manual_seed(4))
    whole = compensate(weight, kind, torch.ones(256))
    assert torch.equal(whole, torch.cat([compensate(row[None], kind, torch.ones(256)) for row in weight]))


@named
def test_constant_rows_are_nearly_exact(kind: BlockType) -> None:
    for value in (0.0, 0.75, -0.75):
        found = rounded(torch.full((2, 256), value), kind, torch.ones(256))
        assert (found - value).abs().max() <= 1e-2 * abs(value)
