"""What the processes of a test of parallel training run."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smidgen.data.sources import TextSource
from smidgen.distillation.loop.optimizer import OptimizerKind
from smidgen.distillation.loop.trainer import Reports, Trainer
from smidgen.distillation.loop.watch import Losses, Watch, losses_of
from smidgen.distillation.objectives.losses import DenseTarget, DistillObjective, Divergence, LanguageObjective
from smidgen.distillation.objectives.matching import MatchingOptions
from smidgen.distillation.students.fresh import FreshShape
from smidgen.distillation.students.trainee import Plain
from smidgen.distillation.teachers.other_tokenizer import RankedTarget
from smidgen.distillation.team.team import joined
from smidgen.distillation.text.batch import Batch
from smidgen.errors import SmidgenError
from smidgen.formats.workspace import Workspace
from smidgen.model.decoder import Decoder
from smidgen.training.distill import DistillOptions, DistillResult, distill
from tests.cutting.test_cut import TEXT
from tests.distillation.training import CONFIG, OPTIONS, RandomBatches
from tests.tiny_models import random_decoder

UNMATCHED = MatchingOptions()
#: Widths of students whose states are matched: one as wide as its teacher, which is divided among the processes, and
#: one with matrices between the two, which every process holds whole.
MATCHED = {"divided": 64, "projected": 32}


class Odd(RandomBatches):
    """Three rows a batch, which two processes cannot share evenly, the last one of no weight in every other batch."""

    def batch(self, step: int) -> Batch:
        found = super().batch(step).rows(slice(0, 3))
        return replace(found, weights=found.weights * torch.tensor([[1.0], [2.0], [step % 2]]))


@dataclass
class Doomed(Odd):
    """The process of rank 1 is killed when this step asks for its batch."""

    at: int = 7

    def batch(self, step: int) -> Batch:
        if step == self.at and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step)


class Doubled:
    """A trainee whose tensors are not the decoder's weights but their halves."""

    movable = False

    def __init__(self) -> None:
        self._decoder = random_decoder(CONFIG)
        self._halves = {name: value.detach() / 2 for name, value in self._decoder.named_parameters()}

    @property
    def decoder(self) -> Decoder:
        return self._decoder

    def tensors(self) -> dict[str, Tensor]:
        return self._halves

    def prepare(self) -> None:
        for name, value in self._decoder.named_parameters():
            value.data.copy_(2 * self._halves[name])

    def collect(self) -> None:
        for name, value in self._decoder.named_parameters():
            assert value.grad is not None
            self._halves[name].grad = 2 * value.grad
            value.grad = None

    def parts(self) -> dict:
        return {}


def train(folder: Path, optimizer: OptimizerKind = "adamw", *, divided: bool = True, doomed: bool = False,
          resume: bool = False) -> tuple[list[tuple[int, float]], float]:  # fmt: skip
    """Ten steps in whatever team there is; leaves the trained weights in the folder."""
    options = replace(OPTIONS, optimizer=optimizer, rows_at_once=1, gradient_checkpointing=divided)
    trainee = Plain(random_decoder(CONFIG)) if divided else Doubled()
    folder.mkdir(exist_ok=True)

    def evaluate() -> Losses:
        return losses_of(trainee.decoder, LanguageObjective(), [RandomBatches().batch(100)])

    with joined() as team:
        result = Trainer(
            trainee, LanguageObjective(), Doomed() if doomed else Odd(), options, folder / "work",
            watch=Watch(evaluate, 4), reports=Reports(metrics=folder / "metrics.jsonl"), team=team,
        ).run(resume)  # fmt: skip
        if team.writes:
            Workspace(folder).save_tensors("trained", dict(trainee.decoder.named_parameters()))
    assert result.loss is not None
    return list(result.evaluations), result.loss


def distilled(folder: Path, output: Path, width: int = 32, matching: MatchingOptions = UNMATCHED) -> DistillResult:
    """Rows that two processes cannot share evenly, with the teacher on disk, or watched."""
    options = DistillOptions(
        4, (TextSource.of("letters", TEXT[:2000]),), shape=FreshShape(layers=2, width=width, ffn=48), batch=3,
        context=24, learning_rate=1e-2, matching=matching, cache_teacher=not matching.wanted,
    )  # fmt: skip
    return distill(str(folder / "teacher.gguf"), None, output, options)


def all_of_it(folder: Path, resume: bool) -> tuple[list[tuple[int, float]], float]:
    """Every kind of training once; then one in which a process is killed, which ends when all are started again."""
    if not resume:
        train(folder / "whole")
        train(folder / "muon", "muon")
        train(folder / "held", divided=False)
        distilled(folder, folder / "distilled")
        for name, width in MATCHED.items():
            distilled(folder, folder / name, width, MatchingOptions(0.3, 0.3))
    return train(folder / "killed", doomed=not resume, resume=resume)


def refuse(resume: bool) -> None:
    """An error that a person can act on, in one of the processes while the other waits for it."""
    if torch.distributed.get_rank() == 1:
        raise SmidgenError("row 7 is not to be had")
    torch.distributed.barrier()


def train_and_be_killed_once(folder: Path, resume: bool) -> tuple[list[tuple[int, float]], float]:
    """A process is killed the first time."""
    return train(folder, doomed=not resume, resume=resume)


def lines(folder: Path) -> list[dict[str, float]]:
    """What was written of each step."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class TableTeacher:
    """Logits by token."""

    vocabulary = CONFIG.vocabulary

    def __init__(self) -> None:
        self._table = torch.randn(self.vocabulary, self.vocabulary, generator=torch.Generator().manual_seed(3))

    def targets(self, batch: Batch) -> DenseTarget:
        return DenseTarget(self._table[batch.ids].flatten(0, 1), torch.eye(self.vocabulary), None)


class RanksTeacher(TableTeacher):
    """The same as a teacher with another tokenizer, whose probabilities are nobody's."""

    def targets(self, batch: Batch) -> RankedTarget:
        hidden = self._table[batch.ids].flatten(0, 1)
        return RankedTarget(hidden, torch.ones(len(hidden), dtype=torch.bool), torch.eye(self.vocabulary), None, 10)


def learn_from_ranks(folder: Path, resume: bool) -> float | None:
    """Three rows a batch: every other time one of two processes has nothing but rows of no weight."""
    objective = DistillObjective(RanksTeacher(), Divergence(hard=0.5))
    options = replace(OPTIONS, steps=4, checkpoint_every=0)
    folder.mkdir(exist_ok=True)
    reports = Reports(metrics=folder / "metrics.jsonl")
    with joined() as team:
        return Trainer(
            Plain(random_decoder(CONFIG)), objective, Odd(), options, reports=reports, team=team
        ).run(resume).loss  # fmt: skip


def teacher_and_batches() -> tuple[TableTeacher, RandomBatches]:
    """What a worker that caches a teacher loads."""
    return TableTeacher(), RandomBatches()


def refuse_three() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Work that cannot be done for one job."""

    def work(job: dict[str, Any]) -> dict[str, Any]:
        if job["n"] == 3:
            raise SmidgenError("three is not to be had")
        return job

    return work
