"""What is kept of E[g gᵀ]."""

import torch
from pytest import approx, mark

from smidgen.calibration.outputs import OutputGathering, run_sizes

GRADIENTS = torch.randn(500, 96, generator=torch.Generator().manual_seed(3)) @ torch.randn(
    96, 96, generator=torch.Generator().manual_seed(4)
)


def test_the_moment_is_that_of_all_tokens_in_units_of_its_diagonal() -> None:
    gathering = OutputGathering(96)
    for part in GRADIENTS.split(300):
        gathering.add(part)
    moment = gathering.moment()
    assert moment is not None
    (found,), whole = moment.runs, GRADIENTS.T @ GRADIENTS
    torch.testing.assert_close(found, whole / whole.diagonal().mean(), atol=0.01, rtol=0.01)
    wrong = torch.randn(7, 96, generator=torch.Generator().manual_seed(5))
    assert moment.loss(wrong) == approx(sum(float(y @ found @ y) for y in wrong), rel=1e-3)


@mark.parametrize(("outputs", "sizes"), [(40, [40]), (2304, [2304]), (2560, [1280, 1280]), (9216, [2304] * 4)])
def test_wide_outputs_are_taken_in_runs(outputs: int, sizes: list[int]) -> None:
    assert run_sizes(outputs) == sizes


@mark.parametrize("outputs", [2305, 4097, 8960, 14_336, 151_936])
def test_runs_are_whole_and_together_all(outputs: int) -> None:
    sizes = run_sizes(outputs)
    assert sum(sizes) == outputs and max(sizes) <= 2304 and all(size % 64 == 0 for size in sizes[:-1])


def test_without_gradients_nothing_is_known() -> None:
    assert OutputGathering(5).moment() is None
    zero = OutputGathering(5)
    zero.add(torch.zeros(3, 5))
    assert zero.moment() is None
