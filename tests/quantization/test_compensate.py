"""A compensator prepared once: for any runs of rows, in any threads, the bytes that one matrix at a time would have."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from smidgen.numerics.block_types import IQ2_XS, IQ4_NL, Q4_K, Q6_K, Q8_0, BlockType
from smidgen.numerics.cores import on_all_cores
from smidgen.numerics.decode import decode
from smidgen.numerics.factor import inverse_factor
from smidgen.numerics.grids import GRIDS
from smidgen.quantization.compensate import Compensator, compensate

COLUMNS = 512
GENERATOR = torch.Generator().manual_seed(15)
INPUTS = torch.randn(700, COLUMNS, generator=GENERATOR) @ torch.randn(COLUMNS, COLUMNS, generator=GENERATOR) / 20
U = inverse_factor(INPUTS.T @ INPUTS / len(INPUTS))
WEIGHT = torch.randn(96, COLUMNS, generator=GENERATOR) * 0.05
KINDS = [IQ4_NL, Q8_0, Q4_K, Q6_K, IQ2_XS]


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_prepared_once_it_encodes_any_rows(kind: BlockType) -> None:
    compensator = Compensator(kind, U)
    for rows in (WEIGHT, WEIGHT[:1], WEIGHT[10:50]):
        before = rows.clone()
        assert torch.equal(compensator.encode(rows), compensate(rows, kind, U))
        assert torch.equal(rows, before)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_matrices_side_by_side_do_not_disturb_each_other(kind: BlockType, one_thread: None) -> None:
    matrices = [WEIGHT * factor for factor in (1.0, 0.3, -2.0)]
    alone = [compensate(matrix, kind, U) for matrix in matrices]
    compensator = Compensator(kind, U)
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(compensator.encode, matrices * 2))
    assert all(map(torch.equal, together, alone * 2))


def test_many_rows_are_the_same_for_every_number_of_threads() -> None:
    weight, before, found = WEIGHT.repeat(7, 1), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(compensate(weight, Q4_K, U))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_pieces_come_back_in_order_and_each_has_one_thread() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = on_all_cores(lambda piece: (piece, torch.get_num_threads()), range(5))
        assert found == [(piece, 1) for piece in range(5)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_it_gives_can_be_changed() -> None:
    """Nothing of the mode in which it was computed sticks to it."""
    packed: Tensor = compensate(WEIGHT, Q8_0, U)
    packed[0, 0] += 1
    assert not packed.is_inference()


@pytest.mark.parametrize("kind", GRIDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("size", [1e-36, 1e-41, 1e-42, 1e-44])
def test_rows_smaller_than_any_scale_become_small(kind: BlockType, size: float) -> None:
    """Some of these weights are 0, and the others so small that one over them is no number."""
    weight = torch.randn(8, COLUMNS, generator=GENERATOR) * size
    for metric in (U, U.diagonal()):
        assert decode(compensate(weight, kind, metric), kind).abs().max() < 1e-4
