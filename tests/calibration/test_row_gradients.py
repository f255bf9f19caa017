"""What errors of rows cost over whole windows, against the definition; and a few rows in the place of all."""

import pytest
import torch
from torch import Tensor

from smidgen.calibration.row_gradients import RowGradients, draw_rows

LENGTH = 5


def seen(windows: int) -> tuple[RowGradients, Tensor, Tensor]:
    """Of a matrix with 7 outputs and 12 inputs, in two batches; with the inputs and gradients of all tokens."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(windows * LENGTH, 12, generator=generator)
    g = torch.randn(windows * LENGTH, 7, generator=generator) * torch.logspace(-1, 1, 7)
    rows = RowGradients()
    for batch in (slice(0, 2 * LENGTH), slice(2 * LENGTH, None)):
        rows.add(x[batch], g[batch], LENGTH)
    return rows, x, g


def test_an_error_costs_what_its_windows_add_up_to() -> None:
    gradients, x, g = seen(6)
    rows, share = gradients.drawn
    error = torch.randn(len(rows), 12, generator=torch.Generator().manual_seed(1))
    felt = (g[:, rows] * (x @ error.T)).view(6, LENGTH, -1).sum(1)
    assert gradients.cost(error) == pytest.approx(float(felt.square().sum(0) @ share) / len(x), rel=0.01)


def test_an_error_of_some_columns_is_one_of_the_whole_row() -> None:
    gradients, _, _ = seen(4)
    error = torch.zeros(len(gradients.drawn[0]), 12)
    error[:, 4:8] = torch.randn(len(error), 4, generator=torch.Generator().manual_seed(2))
    assert gradients.cost(error[:, 4:8], first=4) == pytest.approx(gradients.cost(error), rel=1e-5)


def test_of_a_long_text_the_beginning_is_kept() -> None:
    gradients, x, g = seen(40)
    rows, share = gradients.drawn
    error = torch.randn(len(rows), 12, generator=torch.Generator().manual_seed(3))
    felt = (g[:, rows] * (x @ error.T)).view(40, LENGTH, -1).sum(1)[: gradients.windows]
    assert gradients.windows < 40
    expected = float(felt.square().sum(0) @ share) / (gradients.windows * LENGTH)
    assert gradients.cost(error) == pytest.approx(expected, rel=0.01)


def test_a_few_rows_stand_for_all() -> None:
    """Importances over three orders of magnitude, and costs that follow them but roughly."""
    generator = torch.Generator().manual_seed(4)
    importance = torch.logspace(-2, 1, 500)[torch.randperm(500, generator=generator)]
    costs = importance * (0.5 + torch.rand(500, generator=generator))
    rows, share = draw_rows(importance, 64)
    assert float(share @ costs[rows]) == pytest.approx(float(costs.sum()), rel=0.1)


def test_no_row_counts_for_much_more_than_its_share() -> None:
    importance = torch.tensor([1000.0] + [1e-6] * 99)
    rows, share = draw_rows(importance, 50)
    assert len(rows.unique()) > 1
    assert float(share.max()) <= 10 * 100 / 50 * 1.001


def test_rows_of_no_importance_are_drawn_evenly() -> None:
    rows, share = draw_rows(torch.zeros(9), 3)
    assert rows.tolist() == [1, 4, 7]
    assert torch.allclose(share, torch.full((3,), 3.0))
