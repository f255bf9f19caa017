"""Distillation: a student learns to predict what its teacher predicts, and is written as a GGUF file.

Teacher in → student (a model of one's own, or a fresh one from slices of the teacher) → text (given, or written by the
teacher) → training, with the loss on held-out text before and after → the student, in the types that it came in: a
quantized one is trained through its lattice, a fresh one is stored in 16 bits, for `cut` to go on with.

What an interrupted training needs is in `DIR/work`, and goes when the student is written.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from smidgen.data.sources import TextSource
from smidgen.distill.batch import Batch, Batches
from smidgen.distill.fresh import Beginning, FreshPlan, FreshShape, fresh_student, plan_fresh
from smidgen.distill.lattice import LatticeStudent, careful_rate
from smidgen.distill.losses import DistillObjective, Divergence, LanguageObjective
from smidgen.distill.metrics import TensorBoard, Trackio, Writer, forward_operations, training_operations
from smidgen.distill.on_policy import DecoderWriter, OnPolicy
from smidgen.distill.on_policy import Writer as StudentWriter
from smidgen.distill.optimizer import OptimizerKind, Schedule
from smidgen.distill.other_tokenizer import Aligned, OtherTokenizerTeacher
from smidgen.distill.paired import Paired
from smidgen.distill.remembering import RememberingTeacher
from smidgen.distill.restricted import RestrictedTeacher
from smidgen.distill.teacher import LiveTeacher, Teacher
from smidgen.distill.teacher_cache import CachedTeacher, CacheOptions, cache_teacher
from smidgen.distill.team import Team, joined, started_again, writer_first
from smidgen.distill.trainee import Objective, Plain, Trainee, open_decoder
from smidgen.distill.trainer import Trainer, TrainingOptions, TrainingResult
from smidgen.errors import SmidgenError, Unsupported, printable
from smidgen.formats.catalogue import MODEL_FILE
from smidgen.formats.checkpoint import Checkpoint, load
from smidgen.formats.derived import Derived, write_derived
from smidgen.formats.workspace import Workspace
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.respelling import Respelling
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.precision import fast_product_dtype
from smidgen.outputs import WORK, refuse_output, write_distilling_notes
from smidgen.progress import say
from smidgen.sizes import format_size
from smidgen.together import run_together
from smidgen.training_text import read_training_text
from smidgen.writing import EngineWriter

_TOKENS_AT_ONCE = 4096
_EVALUATIONS, _SAVES = 8, 10
#: Highest learning rates, where none is given: of a fresh student, and of a trained one that is not quantized.
_RATES = {"fresh": 1e-3, "trained": 1e-4}
_FRESH_DECAY = 0.1


@dataclass(frozen=True)
class DistillOptions:
    """How to distill.

    steps: batches to learn from.  texts: files of plain text.  data: corpora of `smidgen data`, or JSON Lines; neither
    for text by the teacher.  shape, beginning: of a fresh student.  learning_rate: None for a usual one.
    batch: rows of `context` tokens in a step.  divergence: what is made small; with `hard` 1 the teacher is not asked,
    and only the text is learned from.  on_policy: share of the rows that the student writes itself.
    cache_teacher: ask the teacher once about each row, and keep what it says on disk.
    checkpoint_every: steps; None for ten times in all.
    """

    steps: int
    texts: tuple[str | Path | TextSource, ...] = ()
    data: tuple[Path, ...] = ()
    shape: FreshShape = field(default_factory=FreshShape)
    beginning: Beginning = "slices"
    learning_rate: float | None = None
    batch: int = 8
    context: int = 512
    optimizer: OptimizerKind = "adamw"
    schedule: Schedule = "cosine"
    divergence: Divergence = field(default_factory=Divergence)
    on_policy: float = 0.0
    cache_teacher: bool = False
    checkpoint_every: int | None = None
    gradient_checkpointing: bool = False
    seed: int = 0
    threads: int | None = None
    tensorboard: bool = False
    trackio: bool = False


@dataclass(frozen=True)
class DistillResult:
    """What came of it.

    size: of the file, bytes.  evaluations: step before which, and loss on held-out text in nats per token.
    best: the one that was written.  loss: of the last step.  stopped: what ended the training.
    """

    path: Path
    size: int
    parameters: int
    steps: int
    tokens: int
    seconds: float
    loss: float | None
    evaluations: Sequence[tuple[int, float]]
    best: tuple[int, float] | None
    notes: list[str]

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(asdict(self) | {"path": str(self.path)})

    def figures(self) -> list[str]:
        """Before and after, in words."""
        if self.best is None:
            return []
        before, after = self.evaluations[0][1], self.best[1]
        return [f"Loss on held-out text: {before:.4f} before, {after:.4f} after {self.best[0]} of {self.steps} steps."]

    def describe(self) -> str:
        """What a person wants to know at the end, in a few lines."""
        size = f"{format_size(self.size)}, {self.parameters / 1e6:.1f} million parameters"
        lines = [f"{self.path}: {size}, in {self.seconds:.0f} s", *self.notes, *self.figures()]
        return "\n".join([*lines, f'Try it: smidgen run {self.path.parent} "Once upon a time"'])


def distill(
    teacher: str, student: str | None, output: Path, options: DistillOptions, *, resume: bool = False
) -> DistillResult:
    """Train a student to predict as `teacher` does, and write `output/model.gguf` with its companions.

    teacher, student: as `catalogue.locate` takes them; no student for a fresh one, of the shape in the options.
    resume: go on where the same training was interrupted.

    Raises SmidgenError, BadFile or Unsupported: for bad input, vocabularies of which the student's is no part of the
    teacher's, a shape that a GGUF file cannot hold, numbers gone wrong (with the text they came from), an unwritable or
    full disk, and for `resume` with other settings than the interrupted training had.
    """
    started = time.monotonic()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    _refuse_contradictions(options, student)
    with ExitStack() as stack:
        team = stack.enter_context(joined())
        if team.size > 1 and options.on_policy:
            raise SmidgenError("What a student writes itself is for one process. Leave out --on-policy, or --workers.")
        taught_by = stack.enter_context(load(teacher))
        begun_as = taught_by if student is None else stack.enter_context(load(student))
        for checkpoint in {taught_by, begun_as}:
            refuse_output(output, checkpoint.path)
        plan = plan_fresh(taught_by.config, taught_by.family, options.shape) if student is None else None
        lesson = writer_first(team, lambda: _Lesson(taught_by, begun_as, plan, options))
        resume = resume or started_again()
        workspace = writer_first(team, lambda: lesson.open_workspace(output, resume or not team.writes))
        trainee = lesson.trainee()
        trained = lesson.train(trainee, workspace, stack, resume, team)
        path = output / MODEL_FILE
        config = begun_as.config if plan is None else plan.config
        step = {"step": "distill", "parameters": lesson.parameters(trained), "summary": lesson.summary(trained)}
        if team.writes:
            write_derived(begun_as, Derived(config, trainee.parts()), path, step)
        team.same(0)  # now it is there
        with Checkpoint.open(path) as written:
            parameters = written.parameters
        result = DistillResult(
            path, path.stat().st_size, parameters, trained.steps, trained.tokens, time.monotonic() - started,
            trained.loss, trained.evaluations, trained.best, lesson.notes(trained),
        )  # fmt: skip
        models = [(teacher, taught_by)] if student is None else [(student, begun_as), (teacher, taught_by)]
        if team.writes:
            write_distilling_notes(output, models, [f"{lesson.summary(trained)}.", *result.figures()])
            workspace.finish()
        return result


def distill_together(
    teacher: str, student: str | None, output: Path, options: DistillOptions, workers: int, *,
    ray: str | None = None, resume: bool = False,
) -> DistillResult:  # fmt: skip
    """`distill` by several processes that share every batch: of this machine, or of the Ray cluster at an address.

    Where one of them dies, all go on from the last checkpoint. A script that calls this needs its
    `if __name__ == "__main__":`.
    """
    return run_together(partial(_as_one_of_many, teacher, student, output, options), workers, ray, resume)


def _as_one_of_many(
    teacher: str, student: str | None, output: Path, options: DistillOptions, resume: bool
) -> DistillResult:
    return distill(teacher, student, output, options, resume=resume)


def _refuse_contradictions(options: DistillOptions, student: str | None) -> None:
    if student is not None and options.shape != FreshShape():
        raise SmidgenError("A student that exists has its shape. Leave out --layers and the like, or say 'new'.")
    if options.divergence.hard == 1 and (options.on_policy or options.cache_teacher):
        raise SmidgenError("With --hard 1 the teacher is not asked. Leave out --on-policy and --cache-teacher, or it.")
    if options.on_policy and options.cache_teacher:
        raise SmidgenError("What the student will write cannot be cached before. Leave out one of the two.")


class _Lesson:
    """Teacher, student and text of one distillation."""

    def __init__(
        self, teacher: Checkpoint, student: Checkpoint, plan: FreshPlan | None, options: DistillOptions
    ) -> None:
        self._teacher, self._student, self._plan, self._options = teacher, student, plan, options
        self._quantized = plan is None and any(student.kind(name) in GRIDS for name in student.names())
        self._tokenizer = Tokenizer.from_gguf(student.file.metadata)
        self._teachers_tokenizer = Tokenizer.from_gguf(teacher.file.metadata)
        self._pairing = _pairing(self._teachers_tokenizer, self._tokenizer, options)
        longest = min(teacher.config.context_length, student.config.context_length)
        if options.context > longest:
            raise SmidgenError(f"A context of {options.context} is more than the {longest} tokens of these models.")
        tokens = options.steps * options.batch * options.context
        self._text = read_training_text(
            student, teacher, options.texts, options.data, rows=options.batch, context=options.context, tokens=tokens,
            seed=options.seed,
        )  # fmt: skip

    def open_workspace(self, output: Path, resume: bool) -> Workspace:
        """`output/work`, bound to everything that the result depends on."""
        try:
            output.mkdir(parents=True, exist_ok=True)
            return (Workspace.resume if resume else Workspace.start)(output / WORK, self._fingerprint())
        except OSError as error:
            reason = f"{printable(output)} cannot be written: {error.strerror}."
            raise SmidgenError(f"{reason} Choose another folder with -o.") from error

    def trainee(self) -> Trainee:
        """The student before training."""
        if self._plan is not None:
            return Plain(fresh_student(self._teacher, self._plan, self._options.beginning, self._options.seed))
        return LatticeStudent(self._student) if self._quantized else Plain(open_decoder(self._student))

    def train(
        self, trainee: Trainee, workspace: Workspace, stack: ExitStack, resume: bool, team: Team
    ) -> TrainingResult:
        """All steps. stack: closes what the training needs open."""
        options, output = self._options, workspace.folder.parent
        objective, teaching = writer_first(team, lambda: self._objective(workspace))
        writer = None
        if options.on_policy:
            writer = self._writer(trainee, workspace, stack)
        operations = training_operations(trainee.decoder.config, options.context) + teaching
        say(f"{self._text.describe()}; {options.steps} steps of {options.batch} rows of {options.context} tokens.")
        trainer = Trainer(
            trainee, objective, self._batches(writer), self._training(), workspace.step("training").folder, {},
            self._evaluation(trainee, objective), max(1, options.steps // _EVALUATIONS),
            metrics=output / "metrics.jsonl", writers=self._writers(output) if team.writes else [],
            operations=operations, team=team, label="Distilling",
        )  # fmt: skip
        return trainer.run(resume)

    def parameters(self, trained: TrainingResult) -> dict[str, Any]:
        """For the file's history."""
        options = self._options
        return {
            "teacher": self._teacher.sha256(), "steps": trained.steps, "tokens": trained.tokens, "seed": options.seed,
            "loss": "cross-entropy" if options.divergence.hard == 1 else options.divergence.kind,
        }  # fmt: skip

    def summary(self, trained: TrainingResult) -> str:
        """One sentence, without its full stop."""
        if self._plan is None:
            begun = "trained through the lattice of its types" if self._quantized else "all weights trained"
        else:
            begun = f"{len(self._plan.layers)} layers of width {self._plan.config.hidden}, begun "
            begun += "with slices of it" if self._options.beginning == "slices" else "at random"
        name = printable(self._teacher.file.metadata.get("general.name", self._teacher.path.stem))
        how = (
            f"Shaped after {name}, trained on text alone"
            if self._options.divergence.hard == 1
            else f"Distilled from {name}"
        )
        return f"{how}: {begun}, {trained.tokens} tokens in {trained.steps} steps"

    def notes(self, trained: TrainingResult) -> list[str]:
        """What a person should know."""
        notes = list(self._text.notes)
        if trained.best is not None and trained.best[0] == 0 and trained.steps:
            notes.append("Nothing learned helped on held-out text: what was written is the student as it was.")
        return notes

    def _fingerprint(self) -> dict[str, Any]:
        settings = asdict(self._options)
        for free in ("threads", "checkpoint_every", "tensorboard", "trackio", "texts", "data"):
            del settings[free]
        student = "new" if self._plan else self._student.sha256()
        return {"teacher": self._teacher.sha256(), "student": student, "text": self._text.sha256, **settings}

    def _training(self) -> TrainingOptions:
        options = self._options
        kind = "fresh" if self._plan is not None else "trained"
        rate = careful_rate(options.steps) if self._quantized else _RATES[kind]
        return TrainingOptions(
            options.steps,
            learning_rate=options.learning_rate or rate,
            schedule=options.schedule,
            weight_decay=_FRESH_DECAY if kind == "fresh" else 0.0,
            optimizer=options.optimizer,
            rows_at_once=max(1, _TOKENS_AT_ONCE // options.context),
            gradient_checkpointing=options.gradient_checkpointing,
            checkpoint_every=options.checkpoint_every or max(1, options.steps // _SAVES),
            seed=options.seed,
        )

    def _objective(self, workspace: Workspace) -> tuple[Objective, float]:
        """What is made small, and the floating point operations per token that a teacher in memory takes."""
        quick = fast_product_dtype() is torch.bfloat16
        if self._options.divergence.hard == 1:
            return LanguageObjective(quick), 0.0
        seen_again = self._options.steps * self._options.batch > self._text.rows
        live = RememberingTeacher(self._teacher) if seen_again else LiveTeacher(self._teacher)
        teacher: Teacher = live
        if isinstance(self._pairing, Respelling):
            teacher = live if self._pairing.same else RestrictedTeacher(live, self._pairing)
        elif self._pairing is None:
            teacher = OtherTokenizerTeacher(live, self._student.config.vocabulary)
        if self._options.cache_teacher:
            return DistillObjective(self._cached(teacher, workspace), self._options.divergence, quick), 0.0
        operations = forward_operations(self._teacher.config, self._options.context)
        return DistillObjective(teacher, self._options.divergence, quick), operations

    def _cached(self, teacher: Teacher, workspace: Workspace) -> Teacher:
        """The teacher on disk: what it says about every row, those that are held out first."""
        options, folder = self._options, workspace.step("teacher").folder
        held_out = [self._paired(batch) for batch in self._text.held_out]
        steps = min(options.steps, math.ceil(self._text.rows / options.batch))
        known = {"text": self._text.sha256, "context": options.context, "batch": options.batch, "seed": options.seed}
        kept = CacheOptions(temperature=options.divergence.temperature, seed=options.seed)
        cache_teacher(
            teacher, _After(held_out, self._batches(None)), len(held_out) + steps, folder,
            teacher_sha256=self._teacher.sha256(), fingerprint=known, options=kept,
        )  # fmt: skip
        return CachedTeacher(folder, self._teacher.sha256(), known)

    def _batches(self, writer: StudentWriter | None) -> Batches:
        """What is learned from: the text, some of it as the student goes on with it, with the teacher's tokens."""
        batches = self._text.batches
        if writer is not None:
            batches = OnPolicy(batches, writer, self._options.on_policy, seed=self._options.seed)
        return _Paired(batches, self._paired)

    def _paired(self, batch: Batch) -> Batch:
        """A batch with the teacher's tokens of the same text, where those are others."""
        return batch if self._pair is None else self._pair(batch)

    @cached_property
    def _pair(self) -> Callable[[Batch], Batch] | None:
        own, teachers, text = self._tokenizer, self._teachers_tokenizer, self._text.batches
        if self._options.divergence.hard == 1:
            return None
        if self._pairing is None:
            return Aligned(text, own, teachers).align
        return None if self._pairing.same else Paired(text, own, teachers, self._pairing).pair

    def _writer(self, trainee: Trainee, workspace: Workspace, stack: ExitStack) -> StudentWriter:
        """Writes for the student: llama.cpp where it can read the student's file, our decoder for a fresh one."""
        if self._plan is not None:
            return DecoderWriter(trainee, self._tokenizer.eos_ids)
        return stack.enter_context(EngineWriter(self._student, trainee, workspace.folder))

    def _evaluation(self, trainee: Trainee, objective: Objective) -> Callable[[], float] | None:
        """The mean loss on what is held out."""
        held_out = [self._paired(batch) for batch in self._text.held_out]
        weight = sum(batch.weight() for batch in held_out)
        if not weight:
            return None
        return lambda: sum(float(objective(trainee.decoder, batch)[0]) for batch in held_out) / weight

    def _writers(self, output: Path) -> list[Writer]:
        writers: list[Writer] = []
        if self._options.tensorboard:
            writers.append(TensorBoard(output / "tensorboard"))
        if self._options.trackio:
            writers.append(Trackio("smidgen", self._fingerprint()))
        return writers


def _pairing(teacher: Tokenizer, student: Tokenizer, options: DistillOptions) -> Respelling | None:
    """How the two vocabularies stand to each other; None where they are different ones.

    Raises Unsupported where that leaves nothing to learn.
    """
    try:
        return Respelling.between(teacher, student)
    except Unsupported as error:
        if options.divergence.hard > 0 and options.divergence.kind == "forward":
            return None
        raise Unsupported(
            f"{error} Only how sure the teacher is can be learned then, beside the text itself: add --hard 0.5."
        ) from error


@dataclass(frozen=True)
class _Paired:
    """Batches, each changed."""

    batches: Batches
    change: Callable[[Batch], Batch]

    def batch(self, step: int) -> Batch:
        return self.change(self.batches.batch(step))


@dataclass(frozen=True)
class _After:
    """Some batches, then others."""

    first: Sequence[Batch]
    others: Batches

    def batch(self, step: int) -> Batch:
        return self.first[step] if step < len(self.first) else self.others.batch(step - len(self.first))
