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


def test_every_number_of_threads_gives_the_same_bits() -> None:
    """A narrow moment of many tokens, which libraries would share among many threads by adding up parts of them."""
    x, before, found = torch.randn(4096, 576, generator=torch.Generator().manual_seed(1)), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 16):
            torch.set_num_threads(threads)
            moment = SecondMoment(576)
            moment.add(x, torch.ones(4096))
            found.append(moment.mean())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
