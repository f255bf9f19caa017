"""Which tensor is moved by what, and how fast."""

import math

import pytest
import torch
from torch import Tensor

from smidgen.distillation.loop.optimizer import Optimizer, schedule_factor, takes_muon
from smidgen.errors import SmidgenError

NAMES = ["embedding.weight", "blocks.0.attention.query.weight", "blocks.0.attention_norm.weight"]


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = [(20, 8), (12, 8), (8,)]
    made = {name: torch.randn(shape).requires_grad_() for name, shape in zip(NAMES, shapes, strict=True)}
    for tensor in made.values():
        tensor.grad = torch.randn_like(tensor)
    return made


def moved(kind, weight_decay: float = 0.0, rates: dict[str, float] | None = None) -> dict[str, Tensor]:  # noqa: ANN001
    """What one update with learning rate 0.1 adds to each tensor."""
    trained, before = tensors(), tensors()
    Optimizer(trained, kind, weight_decay, rates or {}).step(0.1)
    assert all(tensor.grad is None for tensor in trained.values())
    return {name: (trained[name] - before[name]).detach() for name in NAMES}


def test_only_matrices_decay() -> None:
    without, with_decay = moved("adamw"), moved("adamw", 0.5)
    for name, tensor in tensors().items():
        expected = -0.1 * 0.5 * tensor if tensor.ndim == 2 else torch.zeros_like(tensor)
        torch.testing.assert_close(with_decay[name] - without[name], expected.detach(), rtol=1e-3, atol=1e-6)


def test_rates_are_factors_on_single_tensors() -> None:
    usual, slowed = moved("adamw"), moved("adamw", rates={NAMES[0]: 0.25})
    torch.testing.assert_close(slowed[NAMES[0]], 0.25 * usual[NAMES[0]], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(slowed[NAMES[1]], usual[NAMES[1]])


def test_muon_orthogonalises_matrices_of_blocks_alone() -> None:
    adamw, muon = moved("adamw"), moved("muon")
    torch.testing.assert_close(muon[NAMES[0]], adamw[NAMES[0]])
    torch.testing.assert_close(muon[NAMES[2]], adamw[NAMES[2]])
    values = torch.linalg.svdvals(muon[NAMES[1]]) / (0.1 * 0.2 * math.sqrt(12))  # arXiv:2502.16982, equation 4
    assert (values > 0.6).all() and (values < 1.3).all()
    assert not takes_muon("blocks.0.experts.router.weight", torch.ones(4, 8))
    assert not takes_muon("blocks.0.attention.query.weight", torch.ones(1, 8))


def test_a_state_goes_on_in_another_optimizer() -> None:
    for kind in ("adamw", "muon"):
        first, second = tensors(), tensors()
        one, other = Optimizer(first, kind, 0.1, {}), Optimizer(second, kind, 0.1, {})
        one.step(0.1)
        state = {name: value.clone() for name, value in one.state().items()}
        other.load(state)
        with torch.no_grad():
            for name in NAMES:
                second[name].copy_(first[name])
        for trained, optimizer in ((first, one), (second, other)):
            for name, tensor in trained.items():
                tensor.grad = tensors()[name].grad
            optimizer.step(0.05)
        assert all(torch.equal(first[name], second[name]) for name in NAMES)


def test_schedules() -> None:
    def at(schedule, share: float) -> float:  # noqa: ANN001
        return schedule_factor(schedule, share, warmup=0.1, floor=0.2)

    for schedule in ("cosine", "wsd", "constant"):
        assert at(schedule, 0.05) == pytest.approx(0.5)
        assert at(schedule, 0.1) == pytest.approx(1.0)
    assert at("cosine", 0.55) == pytest.approx(0.6)
    assert at("cosine", 1.0) == pytest.approx(0.2)
    assert (at("wsd", 0.8), at("wsd", 0.85), at("wsd", 1.0)) == (1.0, pytest.approx(0.6), pytest.approx(0.2))
    assert at("constant", 1.0) == 1.0
    assert schedule_factor("cosine", 0.5, warmup=0.0, floor=0.0) == pytest.approx(0.5)


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(SmidgenError, match="There is no optimizer 'sgd'. Choose adamw or muon."):
        Optimizer(tensors(), "sgd", 0.0, {})  # pyright: ignore[reportArgumentType]
