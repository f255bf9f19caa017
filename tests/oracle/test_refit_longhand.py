"""Compensation in closed form against Optimal Brain Surgeon, one channel after the other, written out longhand."""

import pytest
import torch
from torch import Tensor

from smidgen.calibration.channels import removal_order
from smidgen.calibration.sample import DAMPING, SHRINKAGES, Sample
from smidgen.pruning.least_squares import Moments, Tokens

OUT, WIDTH, TOKENS = 5, 24, 400


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix, inputs that go together strongly, and weights of tokens."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(WIDTH, WIDTH, generator=generator) * torch.linspace(0.2, 2.0, WIDTH)
    x = torch.randn(TOKENS, WIDTH, generator=generator) @ mixing / WIDTH**0.5
    return torch.randn(OUT, WIDTH, generator=generator), x, 0.1 + torch.rand(TOKENS, generator=generator)


def second_moment(x: Tensor, weights: Tensor) -> Tensor:
    return (x.double() * weights.double()[:, None]).T @ x.double() / weights.double().sum()


def sampled(x: Tensor, weights: Tensor) -> Sample:
    """Tokens that are fitted to, and judge too."""
    judges = x * (weights / weights.sum()).sqrt()[:, None]
    return Sample(judges.T @ judges, judges, len(x), float(len(x)))


def trusted(hessian: Tensor) -> Tensor:
    """H as far as it is trusted at first."""
    diagonal = hessian.diagonal()
    shrunk = (1 - SHRINKAGES[0]) * hessian + SHRINKAGES[0] * diagonal.diag()
    return shrunk + DAMPING * diagonal.mean() * torch.eye(WIDTH)


def surgeon(weight: Tensor, hessian: Tensor, channel: int) -> tuple[Tensor, float]:
    """One step of Hassibi & Stork for each row: δw = −w_c/[H⁻¹]_cc · H⁻¹ e_c, at ½ w_c²/[H⁻¹]_cc."""
    inverse = torch.linalg.pinv(hessian)
    updated, cost = weight.clone(), 0.0
    for r in range(len(weight)):
        step = weight[r, channel] / inverse[channel, channel]
        updated[r] -= step * inverse[:, channel]
        cost += 0.5 * float(step * weight[r, channel])
    return updated, cost


def without(hessian: Tensor, channels: list[int]) -> Tensor:
    """H where some channels are no more: their rows and columns are zero."""
    smaller = hessian.clone()
    smaller[channels] = 0
    smaller[:, channels] = 0
    return smaller


@pytest.mark.parametrize("gone", [[3], [0, 7, 8, 23], [*range(12)]])
def test_equals_one_channel_at_a_time(gone: list[int]) -> None:
    weight, x, weights = drawn(1)
    hessian, updated = second_moment(x, weights), weight.double()
    for place, channel in enumerate(gone):
        updated, _ = surgeon(updated, without(hessian, gone[:place]), channel)
    kept = [channel for channel in range(WIDTH) if channel not in gone]
    moments, inputs = Moments(OUT, len(kept)), x[:, kept]
    moments.add(Tokens(inputs, x @ weight.T - inputs @ weight[:, kept].T, weights))
    found = weight[:, kept] + moments.solve(1e-12)
    assert torch.allclose(found.double(), updated[:, kept], atol=2e-3 * float(updated.abs().max()))
    assert updated[:, gone].abs().max() < 1e-8


def test_removes_in_the_surgeons_order_at_what_it_costs_those_who_judge() -> None:
    weight, x, weights = drawn(2)
    hessian = second_moment(x, weights)
    importance = torch.linspace(0.5, 1.5, OUT)
    rows = importance.double().sqrt()[:, None] * weight.double()  # rows are independent, so q can go into W
    order, losses, whole = [], [], rows
    for _ in range(WIDTH - 1):
        left = [channel for channel in range(WIDTH) if channel not in order]
        tried = {channel: surgeon(rows, without(trusted(hessian), order), channel) for channel in left}
        best = min(tried, key=lambda channel: tried[channel][1])
        rows = tried[best][0]
        order.append(best)
        error = rows - whole
        losses.append(0.5 * float((error @ hessian * error).sum()))
    found = removal_order(weight, sampled(x, weights), importance)
    assert found.order.tolist() == order
    assert torch.allclose(found.loss, torch.tensor(losses), rtol=1e-3)


def test_units_of_several_columns_cost_what_a_refit_leaves() -> None:
    weight, x, weights = drawn(3)
    hessian = second_moment(x, weights)
    fitted = trusted(hessian)
    importance = torch.linspace(0.5, 1.5, OUT)
    found = removal_order(weight, sampled(x, weights), importance, width=4)
    for count in range(1, WIDTH // 4):
        gone = [unit * 4 + column for unit in found.order[:count].tolist() for column in range(4)]
        kept = [channel for channel in range(WIDTH) if channel not in gone]
        best = weight.double() @ fitted[:, kept] @ torch.linalg.inv(fitted[kept][:, kept])
        error = weight.double().clone()
        error[:, kept] -= best
        wanted = 0.5 * (importance.double() * (error @ hessian * error).sum(1)).sum()
        assert float(found.loss[count - 1]) == pytest.approx(float(wanted), rel=1e-3)
