"""The running average of what is trained: against a longhand one, evaluated and kept, and the same after a resume."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smidgen.distillation.loop.average import Average
from smidgen.distillation.loop.trainer import Trainer
from smidgen.distillation.loop.watch import Losses, Watch
from smidgen.distillation.students.trainee import Plain
from smidgen.distillation.text.batch import Batch
from tests.distillation.training import OPTIONS, RandomBatches, digest, plain, said, trainer

AVERAGED = replace(OPTIONS, average_over=4, checkpoint_every=3)


def test_a_plain_mean_first_then_one_that_forgets() -> None:
    states = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    tensor = torch.zeros(5, requires_grad=True)
    average = Average({"weight": tensor}, span=3)
    expected = states[0]
    for step, state in enumerate(states, 1):
        tensor.detach().copy_(state)
        average.add(step)
        expected = states[:step].mean(0) if step <= 3 else expected + (state - expected) / 3
        with average.in_place():
            torch.testing.assert_close(tensor.detach(), expected)
        assert torch.equal(tensor.detach(), state)


def test_it_is_what_is_evaluated_and_kept() -> None:
    trainee = plain()
    seen: list[dict[str, Tensor]] = []

    def evaluate() -> Losses:
        seen.append({name: value.detach().clone() for name, value in trainee.tensors().items()})
        return said(-float(len(seen)))  # the last is best

    trainer(trainee, options=AVERAGED, watch=Watch(evaluate, 5)).run()
    other = plain()
    trainer(other, options=OPTIONS).run()
    for name, value in trainee.tensors().items():
        assert torch.equal(value, seen[-1][name])
    assert digest(trainee) != digest(other)  # which has the last state


def test_an_interruption_changes_nothing(tmp_path: Path) -> None:
    class Interrupted(RandomBatches):
        def batch(self, step: int) -> Batch:
            if step == 8:
                raise KeyboardInterrupt
            return super().batch(step)

    def training(trainee: Plain, values: list[float], folder: Path | None = None, **more: Any) -> Trainer:
        given = iter(values)
        return trainer(trainee, folder, AVERAGED, watch=Watch(lambda: said(next(given)), 20), **more)

    whole, resumed, begun = plain(), plain(), plain()
    training(whole, [3.0, 2.0]).run()
    with pytest.raises(KeyboardInterrupt):
        training(plain(), [3.0], tmp_path / "work", batches=Interrupted()).run()
    training(resumed, [2.0], tmp_path / "work").run(resume=True)
    assert digest(resumed) == digest(whole) != digest(begun)
