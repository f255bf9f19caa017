"""A teacher of many more tokens than the student: what its logits take, and what processes report of it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from smidgen.distillation.objectives import losses
from smidgen.distillation.objectives.losses import DenseTarget, Divergence, Target, head_loss
from smidgen.distillation.teachers.other_tokenizer import RankedTarget
from smidgen.distillation.teachers.padded import PaddedTarget

HIDDEN, POSITIONS, STUDENT, TEACHER = 4, 300, 20, 6000


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that anything has made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        for made in found if isinstance(found, tuple) else (found,):
            self.numbers = max(self.numbers, made.numel() if isinstance(made, torch.Tensor) else 0)
        return found


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def ranked(positions: int) -> Target:
    known = torch.ones(positions, dtype=torch.bool)
    return RankedTarget(normal(positions, HIDDEN), known, normal(TEACHER, HIDDEN), None, 10)


def padded(positions: int) -> Target:
    return PaddedTarget(DenseTarget(normal(positions, HIDDEN), normal(STUDENT - 2, HIDDEN)), torch.arange(18), STUDENT)


def loss_of(target: Target, weights: torch.Tensor) -> dict[str, float]:
    hidden, head = normal(len(weights), HIDDEN).requires_grad_(), normal(STUDENT, HIDDEN).requires_grad_()
    divergence = Divergence(hard=0.5)
    loss, sums = head_loss(hidden, head, None, target, torch.zeros(len(weights)).long(), weights, divergence)
    loss.backward()
    assert hidden.grad is not None and head.grad is not None
    return sums


def test_logits_of_the_teachers_vocabulary_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 positions of 6,000 tokens would be 1.8 million numbers."""
    monkeypatch.setattr(losses, "_LOGITS", 60_000)
    with Largest() as largest:
        loss_of(ranked(POSITIONS), torch.ones(POSITIONS))
    assert largest.numbers <= 60_000


@pytest.mark.parametrize("target", [ranked, padded])
def test_what_is_reported_does_not_depend_on_the_rows(target) -> None:  # type: ignore[no-untyped-def]
    """Processes add up what each reports, one of which may have nothing but rows that fill up."""
    assert loss_of(target(5), torch.zeros(5)).keys() == loss_of(target(5), torch.ones(5)).keys()
