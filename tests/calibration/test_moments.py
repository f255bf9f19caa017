"""Second moments against the definition."""

import pytest
import torch

from smidgen.calibration.moments import SecondMoment


@pytest.mark.parametrize("width", [8, 1500], ids=["narrow", "wider than a strip"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-3)], ids=str)
def test_second_moment_is_the_weighted_mean_outer_product(
    width: int, dtype: torch.dtype, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact where products are float32; as good as factors of bfloat16 allow where those are allowed."""
    monkeypatch.setattr("smidgen.numerics.precision.fast_product_dtype", lambda: dtype)
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(15, width, generator=generator), torch.rand(15, generator=generator)
    moment = SecondMoment(width)
    moment.add(x[:4], weights[:4])
    moment.add(x[4:], weights[4:])
    expected = (x * weights[:, None]).T @ x / weights.sum()
    found = moment.mean()
    assert torch.equal(found, found.T)
    assert (found - expected).norm() <= bound * expected.norm()


def test_no_tokens_give_no_moment() -> None:
    moment = SecondMoment(4)
    moment.add(torch.empty(0, 4), torch.empty(0))
    assert torch.equal(moment.mean(), torch.zeros(4, 4))
