"""What the survey makes of tokens that are, or are not, independent within their window."""

import pytest
import torch
from torch import Tensor, nn

from smidgen.calibration.gradients import LinearSurvey
from smidgen.calibration.row_gradients import RowGradients, draw_rows
from smidgen.calibration.sample import Gathering, judging
from smidgen.numerics.block_types import Q5_0
from smidgen.quantization import survey

WIDTH, OUTPUTS, LENGTH = 64, 24, 16


def raised(x: Tensor, g: Tensor, spans: int = 1) -> float:
    """By how much the windows raise what a random matrix is expected to cost.  x, g: [window, position, width]."""
    weight = torch.randn(OUTPUTS, WIDTH, generator=torch.Generator().manual_seed(7))
    gathering, gradients = Gathering(WIDTH, spans), RowGradients()
    tokens, outputs = x.flatten(0, 1), g.flatten(0, 1)
    gathering.add(tokens, outputs.square().mean(1), judging(*x.shape[:2]).flatten())
    gradients.add(tokens, outputs, LENGTH)
    rows, share = gradients.drawn
    importance, samples = outputs.square().mean(0)[rows] * share, gathering.samples()
    alone = survey._damages(weight[rows], importance, samples, (Q5_0,))
    together = survey._damages(weight[rows], importance, samples, (Q5_0,), gradients)
    return together["Q5_0"] / alone["Q5_0"]


def tokens(windows: int, *, repeated: bool) -> tuple[Tensor, Tensor]:
    """Inputs and gradients that are drawn for each token, or once for each window."""
    generator, length = torch.Generator().manual_seed(8), 1 if repeated else LENGTH
    x, g = (torch.randn(windows, length, width, generator=generator) for width in (WIDTH, OUTPUTS))
    return x.expand(-1, LENGTH, -1), g.expand(-1, LENGTH, -1)


@pytest.mark.parametrize("spans", [1, 2], ids=["whole", "in two runs of columns"])
def test_errors_of_tokens_that_repeat_add_up(spans: int) -> None:
    assert raised(*tokens(32, repeated=True), spans) == pytest.approx(LENGTH, rel=0.2)


@pytest.mark.parametrize("spans", [1, 2], ids=["whole", "in two runs of columns"])
def test_errors_of_independent_tokens_do_not(spans: int) -> None:
    assert raised(*tokens(32, repeated=False), spans) == pytest.approx(1, rel=0.2)


def test_a_few_windows_say_nothing() -> None:
    assert raised(*tokens(4, repeated=True)) == 1


def test_an_expert_that_no_token_chose_costs_nothing() -> None:
    unseen = LinearSurvey(nn.Linear(WIDTH, OUTPUTS, bias=False), shared=False)
    unseen.begin(torch.zeros(2, LENGTH, dtype=torch.bool))
    rows, share = draw_rows(unseen.importance)
    weight = torch.randn(OUTPUTS, WIDTH)
    assert survey._damages(weight[rows], unseen.importance[rows] * share, unseen.inputs.samples(), (Q5_0,)) == {
        "Q5_0": 0.0
    }
    assert torch.equal(unseen.token_weights(), torch.ones(2 * LENGTH))
