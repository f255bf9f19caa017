"""The training loop: what it computes, how it stops, and that stopping costs nothing."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from smidgen.distillation.loop.optimizer import schedule_factor
from smidgen.distillation.loop.trainer import Reports, Trainer
from smidgen.distillation.loop.watch import Losses, Watch
from smidgen.distillation.students.trainee import Plain
from smidgen.distillation.text.batch import Batch
from smidgen.errors import SmidgenError
from smidgen.model.decoder import Decoder
from smidgen.model.operations import forward_operations
from tests.distillation.training import (
    CONFIG,
    OPTIONS,
    POSITIONS,
    ROWS,
    RandomBatches,
    cross_entropy,
    digest,
    plain,
    said,
    trainer,
)


def noiseless(decoder: Decoder, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    torch.manual_seed(0)
    return cross_entropy(decoder, batch)


def test_training_learns_and_reports_every_step(tmp_path: Path) -> None:
    trainee = plain()
    reports = Reports(metrics=tmp_path / "metrics.jsonl")
    result = trainer(trainee, options=replace(OPTIONS, steps=60), reports=reports).run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert lines[-1]["loss"] == result.loss
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[0]["cross_entropy"] == pytest.approx(lines[0]["loss"])
    assert all(line["tokens_per_s"] > 0 and line["grad_norm"] > 0 for line in lines)
    assert 0 < lines[0]["share_of_peak"] < 1
    assert (result.steps, result.tokens, result.stopped) == (60, 60 * ROWS * POSITIONS, "steps")
    assert (result.kept, result.evaluations) == (None, ())


def test_one_step_equals_a_longhand_step() -> None:
    """Micro-batches, clipping, schedule, decay and rates, against PyTorch's own optimizer used by hand."""

    class Slower(Plain):
        def rates(self) -> dict[str, float]:
            return {"embedding.weight": 0.5}

    trainee, by_hand = Slower(random := plain().decoder), plain().decoder
    assert random is trainee.decoder
    options = replace(OPTIONS, steps=4, rows_at_once=3, clip=0.1)
    by_rows(trainee, options)

    batch, parameters = RandomBatches().batch(0), dict(by_hand.named_parameters())
    loss, _ = plain_loss(by_hand, batch)
    (loss / batch.weights.sum()).backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters.values(), 0.1)
    assert norm > 0.1
    rate = options.learning_rate * schedule_factor("cosine", 0.25, options.warmup, options.floor)
    groups = [
        {"params": [value], "lr": rate * (0.5 if name == "embedding.weight" else 1.0),
         "weight_decay": 0.1 if value.ndim == 2 else 0.0}
        for name, value in parameters.items()
    ]  # fmt: skip
    torch.optim.AdamW(groups, betas=(0.9, 0.95)).step()
    for name, value in trainee.tensors().items():
        torch.testing.assert_close(value, parameters[name], rtol=1e-4, atol=1e-6)


def plain_loss(decoder: Decoder, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    logits = decoder(batch.ids).flatten(0, 1)
    losses = torch.nn.functional.cross_entropy(logits, batch.targets.flatten(), reduction="none")
    return (losses * batch.weights.flatten()).sum(), {}


def by_rows(trainee: Plain, options) -> None:  # noqa: ANN001
    """Exactly one step of a longer training: the second batch has nothing in it."""

    class One(RandomBatches):
        def batch(self, step: int) -> Batch:
            found = super().batch(step)
            return found if step == 0 else replace(found, weights=torch.zeros_like(found.weights))

    with pytest.raises(SmidgenError, match="nothing to learn from in random tokens 1 .step 2."):
        trainer(trainee, options=options, batches=One(), objective=plain_loss).run()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_five_steps_and_five_more_are_ten(tmp_path: Path, optimizer: str) -> None:
    options = replace(OPTIONS, optimizer=optimizer)
    whole, halves = plain(), plain()
    trainer(whole, options=options).run()

    class Interrupted(RandomBatches):
        def batch(self, step: int) -> Batch:
            if step == 7:
                raise KeyboardInterrupt
            return super().batch(step)

    metrics = tmp_path / "metrics.jsonl"
    with pytest.raises(KeyboardInterrupt):
        trainer(halves, tmp_path / "work", options, batches=Interrupted(), reports=Reports(metrics=metrics)).run()
    assert digest(halves) != digest(whole)
    resumed = plain()
    result = trainer(resumed, tmp_path / "work", options, reports=Reports(metrics=metrics)).run(resume=True)
    assert digest(resumed) == digest(whole)
    assert result.steps == 10 and result.tokens == 10 * ROWS * POSITIONS
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == list(range(1, 11))


def test_a_killed_process_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    work = tmp_path / "work"
    script = f"from tests.distillation.training import train_and_die; train_and_die({str(work)!r}, 8)"
    assert subprocess.run([sys.executable, "-c", script], stderr=subprocess.DEVNULL).returncode == -9
    options = replace(OPTIONS, checkpoint_every=3)
    resumed, whole = plain(), plain()
    trainer(resumed, work, options).run(resume=True)
    trainer(whole, options=options).run()
    assert digest(resumed) == digest(whole)


@pytest.mark.parametrize("which", ["loss", "gradient"])
def test_not_a_number_stops_names_the_batch_and_keeps_the_checkpoint(tmp_path: Path, which: str) -> None:
    @dataclass
    class Breaking:
        calls: int = 0

        def __call__(self, decoder: Decoder, batch: Batch) -> tuple[Tensor, dict[str, float]]:
            loss, sums = cross_entropy(decoder, batch)
            self.calls += 1
            if self.calls <= 7:
                return loss, sums
            if which == "loss":
                return loss * float("nan"), sums
            return loss + (loss.detach() - loss).clamp(min=0).sqrt(), sums  # √0 has no slope

    trainee = plain()
    with pytest.raises(SmidgenError, match=r"at step 8, in random tokens 7\. The last checkpoint is in") as caught:
        trainer(trainee, tmp_path / "work", objective=Breaking()).run()
    assert str(caught.value).startswith("The loss is nan" if which == "loss" else "The norm of the gradient is nan")
    assert all(value.isfinite().all() for value in trainee.tensors().values())
    resumed, whole = plain(), plain()
    trainer(whole).run()
    trainer(resumed, tmp_path / "work").run(resume=True)
    assert digest(resumed) == digest(whole)


@pytest.mark.parametrize("on_disk", [True, False])
def test_never_worse_than_at_the_start(tmp_path: Path, on_disk: bool) -> None:
    """A learning rate that ruins the model: what comes back is what was given."""
    trainee, before = plain(), digest(plain())
    options = replace(OPTIONS, learning_rate=10.0, checkpoint_every=0)
    result = trainer(
        trainee, tmp_path / "work" if on_disk else None, options, watch=Watch(lambda: evaluation(trainee), 2)
    ).run()
    assert result.kept == result.evaluations[0]
    assert min(value for _, value in result.evaluations[1:]) > result.evaluations[0][1]
    assert digest(trainee) == before


@pytest.mark.parametrize("averaged", [0, 4])
def test_the_last_is_kept_where_nothing_chooses(tmp_path: Path, averaged: int) -> None:
    """However bad it has become; and what was measured first and last is what is reported."""
    trainee, options = plain(), replace(OPTIONS, learning_rate=10.0, average_over=averaged)
    result = trainer(
        trainee, tmp_path / "work", options, watch=Watch(lambda: evaluation(trainee), 5, keep="last", why="so")
    ).run()
    first, last = result.evaluations[0][1], result.evaluations[-1][1]
    assert result.kept == (10, last) and last > first and result.why == "so"
    assert result.change is not None and (result.change.before, result.change.after) == (first, last)
    assert result.change.is_worse and evaluation_now(trainee) == last


def evaluation_now(trainee: Plain) -> float:
    with torch.no_grad():
        return evaluation(trainee).mean


def test_what_chooses_does_not_report(tmp_path: Path) -> None:
    """Asked once at the start and once of what is kept, also by a training that was interrupted between."""

    class Interrupted(RandomBatches):
        def batch(self, step: int) -> Batch:
            if step == 7:
                raise KeyboardInterrupt
            return super().batch(step)

    chosen, asked = iter([3.0, 2.0, *[2.5] * 5]), list[str]()

    def training(trainee: Plain, batches: RandomBatches, value: float) -> Trainer:
        def report() -> Losses:
            asked.append(digest(trainee))
            return said(value)

        watch = Watch(lambda: said(next(chosen)), 2, report=report)
        return trainer(trainee, tmp_path / "work", batches=batches, watch=watch)

    with pytest.raises(KeyboardInterrupt):
        training(plain(), Interrupted(), 7.0).run()
    trainee = plain()
    result = training(trainee, RandomBatches(), 6.0).run(resume=True)
    assert result.change is not None and (result.change.before, result.change.after) == (7.0, 6.0)
    assert asked == [digest(plain()), digest(trainee)] and result.kept == (2, 2.0)


def evaluation(trainee: Plain) -> Losses:
    assert not torch.is_grad_enabled()
    batch = RandomBatches().batch(10**6)
    return Losses((float(plain_loss(trainee.decoder, batch)[0]),), (batch.weight(),))


def test_the_best_is_put_back_and_patience_ends() -> None:
    trainee, given = plain(), iter([5.0, 4.0, 4.5, 4.2, 1.0])
    seen = {}

    def evaluate() -> Losses:
        value = next(given)
        seen[value] = digest(trainee)
        return said(value)

    result = trainer(trainee, watch=Watch(evaluate, 2, patience=2)).run()
    assert (result.stopped, result.steps, result.kept) == ("patience", 6, (2, 4.0))
    assert result.evaluations == ((0, 5.0), (2, 4.0), (4, 4.5), (6, 4.2))
    assert digest(trainee) == seen[4.0]


def test_a_resumed_training_knows_its_best(tmp_path: Path) -> None:
    whole, resumed = plain(), plain()
    values = [3.0, 2.0, 2.5, 2.7, 2.6, 2.4]
    given = iter(values)
    expected = trainer(whole, watch=Watch(lambda: said(next(given)), 2)).run()

    class Interrupted(RandomBatches):
        def batch(self, step: int) -> Batch:
            if step == 7:
                raise KeyboardInterrupt
            return super().batch(step)

    first, rest = iter(values[:4]), iter(values[3:])
    with pytest.raises(KeyboardInterrupt):
        trainer(plain(), tmp_path / "work", watch=Watch(lambda: said(next(first)), 2), batches=Interrupted()).run()
    result = trainer(resumed, tmp_path / "work", watch=Watch(lambda: said(next(rest)), 2)).run(resume=True)
    assert (result.kept, result.evaluations) == (expected.kept, expected.evaluations) == ((2, 2.0), result.evaluations)
    assert digest(resumed) == digest(whole)


def test_seconds_end_a_training_in_time() -> None:
    trainee = plain()
    options = replace(OPTIONS, steps=10**6, seconds=1.0)
    result = trainer(trainee, options=options, watch=Watch(lambda: evaluation(trainee))).run()
    assert result.stopped == "seconds"
    assert 0 < result.steps < 10**6
    assert result.kept is not None and result.kept[1] < result.evaluations[0][1]


def test_gradient_checkpointing_changes_no_gradient() -> None:
    usual, saving = plain(), plain()
    trainer(usual).run()
    trainer(saving, options=replace(OPTIONS, gradient_checkpointing=True)).run()
    assert saving.decoder.checkpointing and not usual.decoder.checkpointing
    assert digest(usual) == digest(saving)


def test_operations_are_six_per_parameter_and_attention() -> None:
    width, ffn, heads = CONFIG.hidden, 24, 2 * 8
    body = 2 * (2 * width * heads + 2 * width * 8 + 3 * width * ffn)
    attention = 2 * 2 * heads * (POSITIONS / 2)
    expected = 2 * (body + CONFIG.vocabulary * width + attention)
    assert forward_operations(CONFIG, POSITIONS) == pytest.approx(expected)
