"""Matrices taken apart into codes and stored scales, and put together again."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smidgen.numerics.block_types import BY_NAME, BlockType
from smidgen.numerics.decode import decode
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.lattice import Lattice

KINDS = list(GRIDS)


def random_rows(kind: BlockType, rows: int, blocks: int, seed: int) -> Tensor:
    """Any bytes but for scales that are finite and of a usual size; Q8_0 without the one code that is never written."""
    generator = torch.Generator().manual_seed(seed)
    packed = torch.randint(256, (rows * blocks, kind.block_bytes), generator=generator, dtype=torch.uint8)
    if kind.stored.name == "Q8_0":
        packed[packed == 128] = 127
    units = (torch.randn(rows * blocks, 2, generator=generator) * 0.01).half().view(torch.uint8)
    place = {"Q6_K": 208, "Q2_K": 80, "Q3_K": 108}.get(kind.name, 0)
    width = 4 if kind.name in ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K") else 2
    packed[:, place : place + width] = units[:, :width]
    return packed.view(rows, -1)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 4), blocks=st.integers(1, 3))
def test_bytes_and_weights_are_the_same_to_the_bit(kind: BlockType, seed: int, rows: int, blocks: int) -> None:
    packed = random_rows(kind, rows, blocks, seed)
    lattice = Lattice.of(packed, kind)
    assert torch.equal(lattice.pack(), packed)
    assert torch.equal(lattice.weights(), decode(packed, kind))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_places_stay_in_the_cell_of_their_code(kind: BlockType) -> None:
    lattice = Lattice.of(random_rows(kind, 4, 2, 1), kind)
    noise = torch.randn(lattice.codes.shape, generator=torch.Generator().manual_seed(2))
    for size in (0.0, 1e-3, 10.0):
        places = lattice.places(lattice.weights() + size * noise)
        assert torch.equal(lattice.with_places(places).codes, lattice.codes)
        assert (places - lattice.codes).abs().max() <= 0.49 + 1e-5  # noise: float32 beside a code of 255
    assert torch.allclose(lattice.places(lattice.weights()), lattice.codes.float(), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_nearest_is_nearest(kind: BlockType) -> None:
    lattice = Lattice.of(random_rows(kind, 3, 1, 3), kind)
    noise = torch.randn(lattice.codes.shape, generator=torch.Generator().manual_seed(4))
    wanted = lattice.weights() + 0.02 * noise
    found = (lattice.nearest(wanted).weights() - wanted).abs()
    for code in range(len(GRIDS[kind].levels)):
        other = replace(lattice, codes=torch.full_like(lattice.codes, code)).weights()
        assert (found <= (other - wanted).abs() + 1e-6).all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_slopes_of_units_follow_the_chain_rule(kind: BlockType) -> None:
    lattice = Lattice.of(random_rows(kind, 2, 2, 5), kind)
    slopes = torch.randn(lattice.codes.shape, generator=torch.Generator().manual_seed(6))
    by_group = slopes.unflatten(1, (-1, lattice.group))
    of_scales = (by_group * lattice.levels().view(by_group.shape)).sum(2)
    unit, shift = lattice.by_unit(of_scales, None if lattice.shift_unit is None else by_group.sum(2))

    def total(**units: Tensor) -> float:
        return float((replace(lattice, **units).weights().double() * slopes).sum())

    step = 2.0**-6  # weights are linear in the units, so a large step is as good as a small one
    for name, found in (("unit", unit), ("shift_unit", shift)):
        stored = getattr(lattice, name)
        if stored is None:
            continue
        moved = stored.float()
        moved[1, 1] += step
        expected = (total(**{name: moved}) - total(**{name: stored.float()})) / step
        assert found is not None
        assert float(found[1, 1]) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_types_that_no_cut_writes_are_refused() -> None:
    with pytest.raises(KeyError):
        Lattice.of(torch.zeros(1, 2, dtype=torch.uint8), BY_NAME["F16"])


@pytest.mark.parametrize("kind", GRIDS, ids=lambda kind: kind.name)
def test_places_of_levels_are_those_that_become_these_levels(kind: BlockType) -> None:
    grid = GRIDS[kind]
    places = grid.places_of(grid.levels)
    assert torch.equal(grid.round_(places.clone(), torch.empty_like(places)), places)
    assert torch.equal(grid.level_of_(places), grid.levels)
