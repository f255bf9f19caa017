"""Feedback across rows against dense linear algebra and a longhand loop."""

import torch

from smidgen.calibration.outputs import OutputMoment
from smidgen.numerics import block_types as types
from smidgen.numerics.decode import decode
from smidgen.numerics.factor import inverse_factor
from smidgen.quantization import two_sided
from smidgen.quantization.compensate import compensate
from smidgen.quantization.two_sided import compensate_both_ways, output_factors

ROWS, COLUMNS, RANK = 160, 64, 12
GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(ROWS, COLUMNS, generator=GENERATOR)
INPUTS = torch.randn(500, 8, generator=GENERATOR) @ torch.randn(8, COLUMNS, generator=GENERATOR)
H = INPUTS.T @ INPUTS / 500 + 0.3 * torch.eye(COLUMNS)
FACTORS = torch.randn(ROWS, 12, generator=GENERATOR)
G = torch.rand(ROWS, generator=GENERATOR).diag() + FACTORS @ FACTORS.T / 12
U = inverse_factor(H, 0.001, 0.5)
ACROSS = output_factors(OutputMoment([G]))


def _trusted() -> torch.Tensor:
    """The shrunk and damped moment."""
    trusted = G.double() * (1 - two_sided._SHRINKAGE)
    trusted.diagonal().copy_(G.diagonal() + two_sided._DAMPING * G.diagonal().mean())
    return trusted


def test_the_encoded_matrix_is_that_of_a_loop_over_all_rows_behind() -> None:
    trusted, weight, expected = _trusted(), WEIGHT.clone().double(), []
    for start in range(0, ROWS, two_sided._ROWS):
        rows, behind = slice(start, start + two_sided._ROWS), slice(start + two_sided._ROWS, None)
        packed = compensate(weight[rows].float(), types.IQ4_NL, U)
        expected.append(packed)
        error = decode(packed, types.IQ4_NL).double() - weight[rows]
        weight[behind] -= torch.linalg.solve(trusted[behind, behind], trusted[behind, rows] @ error)
    found = compensate_both_ways(WEIGHT, types.IQ4_NL, U, ACROSS)[0]
    same = (found == torch.cat(expected)).float().mean()
    assert same > 0.97  # near ties may fall either way


def test_what_the_matrix_does_to_the_model_is_less() -> None:
    def loss(packed: torch.Tensor) -> float:
        error = decode(packed, types.IQ4_NL) - WEIGHT
        return float((error.T @ G @ error * H).sum())

    one_way, both = compensate(WEIGHT, types.IQ4_NL, U), compensate_both_ways(WEIGHT, types.IQ4_NL, U, ACROSS)[0]
    assert loss(both) < 0.9 * loss(one_way)


def test_independent_rows_are_compensated_as_ever() -> None:
    alone = output_factors(OutputMoment([torch.eye(ROWS)]))
    assert torch.equal(compensate_both_ways(WEIGHT, types.IQ4_NL, U, alone)[0], compensate(WEIGHT, types.IQ4_NL, U))


def test_runs_know_nothing_of_each_other() -> None:
    halves = output_factors(OutputMoment([G[:96, :96], G[96:, 96:]]))
    apart = [compensate_both_ways(WEIGHT[:96], types.IQ4_NL, U, halves[:1])[0]]
    apart.append(compensate_both_ways(WEIGHT[96:], types.IQ4_NL, U, halves[1:])[0])
    assert torch.equal(compensate_both_ways(WEIGHT, types.IQ4_NL, U, halves)[0], torch.cat(apart))
