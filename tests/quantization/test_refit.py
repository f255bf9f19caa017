"""Refitting what is encoded: no row loses more under H than before, and what is stored is what was computed."""

import pytest
import torch
from torch import Tensor

from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.numerics.factor import damage, inverse_factor
from smidgen.numerics.grids import GRIDS
from smidgen.quantization.compensate import compensate
from smidgen.quantization.refit import refit

GENERATOR = torch.Generator().manual_seed(5)
WIDTH = 512  # two chunks
WEIGHT = torch.randn(24, WIDTH, generator=GENERATOR) * 0.05
INPUTS = torch.randn(900, WIDTH, generator=GENERATOR) @ torch.randn(WIDTH, WIDTH, generator=GENERATOR) / WIDTH**0.5
MOMENT = INPUTS.T @ INPUTS / len(INPUTS)
DAMPING, SHRINKAGE = 0.001, 0.5


def regular(moment: Tensor) -> Tensor:
    """H as `inverse_factor` shrinks and damps it."""
    diagonal = moment.diagonal()
    return moment * (1 - SHRINKAGE) + torch.diag(SHRINKAGE * diagonal + DAMPING * diagonal.mean())


def compensated(weight: Tensor, kind: BlockType, moment: Tensor = MOMENT) -> Tensor:
    return compensate(weight, kind, inverse_factor(moment, DAMPING, SHRINKAGE))


def refitted(weight: Tensor, packed: Tensor, kind: BlockType, moment: Tensor = MOMENT) -> Tensor:
    return refit(weight, packed, kind, moment, damping=DAMPING, shrinkage=SHRINKAGE)


def losses(weight: Tensor, packed: Tensor, kind: BlockType, moment: Tensor = MOMENT) -> Tensor:
    return damage(decode(packed, kind) - weight, regular(moment))


@pytest.mark.parametrize("kind", GRIDS, ids=lambda kind: kind.name)
def test_every_row_loses_less(kind: BlockType) -> None:
    before = compensated(WEIGHT, kind)
    after = refitted(WEIGHT, before, kind)
    assert (losses(WEIGHT, after, kind) <= losses(WEIGHT, before, kind)).all()
    assert losses(WEIGHT, after, kind).sum() < 0.99 * losses(WEIGHT, before, kind).sum()


@pytest.mark.parametrize("kind", [types.IQ4_NL, types.Q4_1, types.Q3_K, types.Q4_K], ids=lambda kind: kind.name)
def test_scales_that_fit_other_rows_are_mended(kind: BlockType) -> None:
    other = compensated(1.3 * WEIGHT, kind)
    after = refitted(WEIGHT, other, kind)
    assert losses(WEIGHT, after, kind).sum() < 0.2 * losses(WEIGHT, other, kind).sum()


def awkward_rows() -> Tensor:
    rows = torch.randn(5, WIDTH, generator=GENERATOR)
    rows[0], rows[1], rows[2, 7], rows[3, :256] = 0, 0.25, 1e4, 0
    return rows


@pytest.mark.parametrize(
    "moment", [MOMENT, torch.zeros(WIDTH, WIDTH), torch.ones(WIDTH, WIDTH)], ids=["full", "0", "1"]
)
@pytest.mark.parametrize("kind", [types.Q4_0, types.Q5_1, types.Q2_K, types.Q6_K], ids=lambda kind: kind.name)
def test_awkward_rows_stay_numbers_and_get_no_worse(kind: BlockType, moment: Tensor) -> None:
    rows = awkward_rows()
    before = compensated(rows, kind, moment)
    after = refitted(rows, before, kind, moment)
    assert decode(after, kind).isfinite().all()
    assert (losses(rows, after, kind, moment) <= 1.0001 * losses(rows, before, kind, moment) + 1e-9).all()


def test_types_of_codewords_stay_as_they_are() -> None:
    packed = compensated(WEIGHT, types.IQ2_XS)
    assert refitted(WEIGHT, packed, types.IQ2_XS) is packed


@pytest.mark.parametrize("kind", GRIDS, ids=lambda kind: kind.name)
def test_what_hardly_counts_and_is_on_the_lattice_stays(kind: BlockType) -> None:
    """Inputs that are nearly zero under scales that are nearly zero: no quotient of theirs is beyond float32."""
    packed = compensate(WEIGHT * 1e-4, kind, torch.ones(WIDTH))
    moment = torch.eye(WIDTH) * 1e-36
    assert torch.equal(refitted(decode(packed, kind), packed, kind, moment), packed)
    assert decode(refitted(WEIGHT * 1e-4, packed, kind, moment), kind).isfinite().all()
