"""Second moments against the definition."""

import pytest
import torch

from smidgen.calibrate.moments import SecondMoment


@pytest.mark.parametrize("width", [8, 1500], ids=["narrow", "wider than a strip"])
def test_second_moment_is_the_weighted_mean_outer_product(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(15, width, generator=generator), torch.rand(15, generator=generator)
    moment = SecondMoment(width)
    moment.add(x[:4], weights[:4])
    moment.add(x[4:], weights[4:])
    expected = (x * weights[:, None]).T @ x / weights.sum()
    found = moment.mean()
    assert torch.equal(found, found.T)
    assert (found - expected).norm() <= 3e-3 * expected.norm()  # products may be of bfloat16


def test_no_tokens_give_no_moment() -> None:
    moment = SecondMoment(4)
    moment.add(torch.empty(0, 4), torch.empty(0))
    assert torch.equal(moment.mean(), torch.zeros(4, 4))
