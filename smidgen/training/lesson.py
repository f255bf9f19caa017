"""What is taught in one distillation, by whom and to whom: the text as batches, the student, and what is made small.

The student may have some of the teacher's tokens, or others altogether; the teacher may be asked about each row once,
and what it says be kept on disk; it may be watched while it runs, for what happens inside of it to be matched.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from smidgen.bounds import MOST, MOST_MEMORY, MOST_THREADS, one_of, several, within
from smidgen.data.sources import TextSource
from smidgen.data.text import window_length
from smidgen.distillation.loop.memory import EACH, Fitted, divided, fitted, planned
from smidgen.distillation.loop.on_policy import OnPolicy, Writer
from smidgen.distillation.loop.optimizer import OptimizerKind, Schedule
from smidgen.distillation.loop.trainer import TrainingOptions
from smidgen.distillation.loop.watch import Keep
from smidgen.distillation.objectives.losses import DistillObjective, Divergence, LanguageObjective
from smidgen.distillation.objectives.matching import (
    Matched,
    Matching,
    MatchingOptions,
    evenly,
    layers_after,
    layers_alike,
)
from smidgen.distillation.students.fresh import Beginning, FreshPlan, FreshShape, fresh_student, misfits, plan_fresh
from smidgen.distillation.students.lattice import LatticeStudent, trains_on_lattice
from smidgen.distillation.students.trainee import Objective, Plain, Trainee
from smidgen.distillation.teachers.cache import CachedTeacher, CacheOptions, cache_teacher, steps_cached
from smidgen.distillation.teachers.live import LiveTeacher, Teacher
from smidgen.distillation.teachers.other_tokenizer import Aligned, OtherTokenizerTeacher
from smidgen.distillation.teachers.padded import PaddedTeacher
from smidgen.distillation.teachers.remembering import MOST_REMEMBERED, RememberingTeacher
from smidgen.distillation.teachers.restricted import RestrictedTeacher
from smidgen.distillation.team.team import accelerator
from smidgen.distillation.text.batch import Batch, Batches
from smidgen.distillation.text.held_out import HeldOut
from smidgen.distillation.text.paired import Paired
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.frozen import frozen_bytes
from smidgen.formats.history import history
from smidgen.formats.opening import open_model
from smidgen.formats.parts import load_decoder
from smidgen.formats.workspace import Workspace
from smidgen.model.config import ModelConfig
from smidgen.model.operations import forward_operations
from smidgen.model.parameters import parameter_shapes
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.respelling import Respelling
from smidgen.numerics.precision import is_quick
from smidgen.publishing.companions import WORK
from smidgen.shell import path_of
from smidgen.training.text import read_training_text

LearnedFrom = Literal["all", "answers"]

_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class DistillOptions:
    """How to distill.

    steps: batches to learn from.  texts: files of plain text.  data: corpora of `smidgen data`, or JSON Lines; neither
    for text by the teacher.  shape, beginning: of a fresh student.  learning_rate: None for a usual one.
    batch: rows of `context` tokens in a step; without a context, of a window (`data.text`).  divergence: what is made
    small; with `hard` 1 the teacher is not asked, and only the text is learned from.  matching: of what happens inside,
    with a teacher that runs in this process.
    on_policy: share of the rows that the student writes itself.  on: of chats and completions, all of them or answers
    alone.  cache_teacher: ask the teacher once about each row, and keep what it says on disk.  checkpoint_every: steps;
    None for ten times in all.  keep: the state that is best on held-out text, or the last.
    memory: bytes that it may take; None for what is free.
    """

    steps: int
    texts: tuple[str | Path | TextSource, ...] = ()
    data: tuple[Path, ...] = ()
    shape: FreshShape = field(default_factory=FreshShape)
    beginning: Beginning = "slices"
    learning_rate: float | None = None
    batch: int = 8
    context: int | None = None
    optimizer: OptimizerKind = "adamw"
    schedule: Schedule = "cosine"
    divergence: Divergence = field(default_factory=Divergence)
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    on_policy: float = 0.0
    cache_teacher: bool = False
    checkpoint_every: int | None = None
    gradient_checkpointing: bool = False
    seed: int = 0
    threads: int | None = None
    tensorboard: bool = False
    trackio: bool = False
    on: LearnedFrom = "all"
    keep: Keep = "best"
    memory: int | None = None

    def __post_init__(self) -> None:
        """Raises SmidgenError for options that mean nothing; takes one text or path where several can be given."""
        for name, least, most in (
            ("steps", 1, MOST), ("batch", 1, MOST), ("context", 8, MOST), ("checkpoint_every", 1, MOST),
            ("seed", 0, MOST), ("threads", 1, MOST_THREADS), ("memory", 1, MOST_MEMORY),
        ):  # fmt: skip
            within(name, getattr(self, name), least, most)
        within("learning_rate", self.learning_rate, 1e-9, 100, whole=False)
        within("on_policy", self.on_policy, 0, 1, whole=False)
        for name, choices in (
            ("beginning", Beginning),
            ("optimizer", OptimizerKind),
            ("schedule", Schedule),
            ("on", LearnedFrom),
            ("keep", Keep),
        ):
            one_of(name, getattr(self, name), get_args(choices))
        object.__setattr__(self, "texts", several("texts", self.texts, TextSource))
        object.__setattr__(self, "data", tuple(map(path_of, several("data", self.data))))


@dataclass(frozen=True)
class Aims:
    """What a training is after.

    learned: what it makes small.  measured: the same on held-out text, without what is matched inside.
    operations: floating point operations per token that a teacher in memory takes.
    """

    learned: Objective
    measured: Objective
    operations: float = 0.0
    matching: Matching | None = None

    def trainee(self, student: Trainee) -> Trainee:
        """The student, with the matrices that the matching needs where the two are not equally wide."""
        if self.matching is None or not self.matching.tensors():
            return student
        return Matched(student, self.matching)


class Lesson:
    """Teacher, student and text of one distillation.

    student: of a fresh one, the teacher.  plan: of a fresh one.  misfits: lines about its widths.
    Raises SmidgenError or Unsupported where these cannot learn from each other so.
    """

    def __init__(
        self, teacher: Checkpoint, student: Checkpoint, plan: FreshPlan | None, options: DistillOptions
    ) -> None:
        self.taught_by, self.begun_as, self.plan, self.options = teacher, student, plan, options
        self.config: ModelConfig = student.config if plan is None else plan.config
        self.quantized = plan is None and any(trains_on_lattice(student.kind(name)) for name in student.names())
        self.tokenizer = Tokenizer.from_gguf(student.tokenizer_metadata)
        self._teachers_tokenizer = Tokenizer.from_gguf(teacher.tokenizer_metadata)
        self.misfits = [] if plan is None else misfits(plan, teacher.config)
        if plan is None and options.divergence.hard == 0 and student.sha256() == teacher.sha256():
            self.misfits.append("Student and teacher are the same model: there is nothing to learn from it.")
        self._pairing = _pairing(self._teachers_tokenizer, self.tokenizer, options)
        _refuse_unmatchable(options.matching, self._pairing)
        contexts = teacher.config.context_length, student.config.context_length
        self.context = window_length(*contexts) if options.context is None else options.context
        if self.context > min(contexts):
            raise SmidgenError(f"A context of {self.context} is more than the {min(contexts)} tokens of these models.")
        tokens = options.steps * options.batch * self.context
        self.text = read_training_text(
            student, teacher, options.texts, options.data, rows=options.batch, context=self.context, tokens=tokens,
            seed=options.seed, on_answers=options.on == "answers", asked=options.on_policy > 0,
        )  # fmt: skip

    @classmethod
    def open(cls, teacher: str, student: str | None, options: DistillOptions, stack: ExitStack) -> "Lesson":
        """With models by their names (`catalogue.locate`), open until `stack` is left; no student for a fresh one."""
        taught_by = stack.enter_context(open_model(teacher))
        begun_as = taught_by if student is None else stack.enter_context(open_model(student))
        plan = plan_fresh(taught_by.config, taught_by.family, options.shape) if student is None else None
        return cls(taught_by, begun_as, plan, options)

    def open_workspace(self, output: Path, day: str, resume: bool) -> Workspace:
        """`output/work`, bound to everything that the result depends on. day: on which it began (`begun`)."""
        return Workspace.open(output / WORK, {**self.fingerprint(), "day": day}, resume=resume)

    def fingerprint(self) -> dict[str, Any]:
        """All that the result depends on, as plain data."""
        settings = asdict(self.options) | {"context": self.context}
        for free in ("threads", "checkpoint_every", "tensorboard", "trackio", "texts", "data", "memory"):
            del settings[free]
        student = "new" if self.plan else self.begun_as.sha256()
        return {"teacher": self.taught_by.sha256(), "student": student, "text": self.text.sha256, **settings}

    @property
    def is_its_own_teacher(self) -> bool:
        """Whether there is one model, not two."""
        return self.plan is not None or self.begun_as.sha256() == self.taught_by.sha256()

    def fitted(self, processes: int) -> Fitted:
        """How the training by so many processes fits in memory, where that is the processor's."""
        options = self.options
        rows = min(-(-options.batch // processes), max(1, _TOKENS_AT_ONCE // self.context))
        if accelerator().type != "cpu":
            return Fitted(rows, options.gradient_checkpointing, needed=0)
        held, again = self._held(processes), options.gradient_checkpointing
        return fitted(self.config, held, self.context, rows, most=options.memory, checkpointing=again)

    def memory(self, plan: TrainingOptions, processes: int) -> Fitted:
        """What the training takes as it was decided."""
        rows = plan.rows_at_once or self.options.batch
        return planned(self.config, self._held(processes), self.context, rows, plan.gradient_checkpointing)

    def _held(self, processes: int) -> int:
        """Bytes of weights and what learns of them, and of the teacher with what it remembers."""
        trained = sum(math.prod(shape) for shape in parameter_shapes(self.config).values())
        held = EACH["codes"] * trained if self.quantized else divided(trained, processes)
        if self.options.divergence.hard == 1 or self.options.cache_teacher:
            return held
        remembered = min(MOST_REMEMBERED, 2 * self.taught_by.config.hidden * self.text.rows * self.context)
        return held + frozen_bytes(self.taught_by) + (remembered if self._reads_again else 0)

    @property
    def _reads_again(self) -> bool:
        """Whether rows are seen more than once."""
        return self.options.steps * self.options.batch > self.text.rows

    def student(self) -> Trainee:
        """As it is before training."""
        if self.plan is not None:
            return Plain(fresh_student(self.taught_by, self.plan, self.options.beginning, self.options.seed))
        return LatticeStudent(self.begun_as) if self.quantized else Plain(load_decoder(self.begun_as))

    def aims(self, workspace: Workspace, device: torch.device) -> Aims:
        """With the teacher on a device, or on disk in the workspace, where it is asked for what is not there yet."""
        options, quick = self.options, is_quick(device)
        if options.divergence.hard == 1:
            text = LanguageObjective(quick)
            return Aims(text, text)
        if options.cache_teacher:
            cached = DistillObjective(self._cached(workspace), options.divergence, quick)
            return Aims(cached, cached)
        live = self.live_teacher(device)
        teacher, operations = self.teacher(live), forward_operations(live.config, self.context)
        distilled = DistillObjective(teacher, options.divergence, quick)
        if not options.matching.wanted:
            return Aims(distilled, distilled, operations)
        wanted, pairs = options.matching, self.layers()
        matching = Matching(self.config, live.decoder, pairs, wanted.hidden, wanted.relations, seed=options.seed)
        return Aims(DistillObjective(teacher, options.divergence, quick, matching), distilled, operations, matching)

    def live_teacher(self, device: torch.device | None = None) -> LiveTeacher:
        """The teacher in memory; where rows are seen again, and only its predictions matter, it remembers them."""
        options = self.options
        again = self._reads_again and not options.cache_teacher
        watched = options.matching.wanted
        kind = RememberingTeacher if again and not watched else LiveTeacher
        return kind(self.taught_by, device=device)

    def teacher(self, live: LiveTeacher) -> Teacher:
        """As the student's tokens want it."""
        if self._pairing is None:
            return OtherTokenizerTeacher(live, self.begun_as.config.vocabulary)
        if not self._pairing.same:
            return RestrictedTeacher(live, self._pairing)
        return live if self._pairing.smaller == self._pairing.larger else PaddedTeacher(live, self.tokenizer)

    def layers(self) -> dict[int, int]:
        """Which of the student's layers is to be like which of the teacher's."""
        own, teachers = len(self.config.layers), len(self.taught_by.config.layers)
        if self.options.matching.layers is not None:
            return dict(self.options.matching.layers)
        if self.plan is None:
            return layers_alike(history(self.begun_as.file.metadata), own, teachers)
        return layers_after(self.plan.layers, teachers) if self.begun_as_slices else evenly(own, teachers)

    @property
    def begun_as_slices(self) -> bool:
        """Whether the student is a fresh one that begins with slices of the teacher."""
        return self.plan is not None and self.options.beginning == "slices"

    def cache_folder(self, workspace: Workspace) -> Path:
        """Where what the teacher says is kept."""
        return workspace.step("teacher").folder

    def cache_settings(self) -> dict[str, Any]:
        """What `cache_teacher` has to know beside the teacher and the batches."""
        options = self.options
        known = {"text": self.text.sha256, "context": self.context, "batch": options.batch, "seed": options.seed}
        kept = CacheOptions(temperature=options.divergence.temperature, seed=options.seed)
        return {"teacher_sha256": self.taught_by.sha256(), "fingerprint": known, "options": kept}

    def asked(self) -> tuple[Batches, int]:
        """What a teacher is asked about that is kept on disk: every row once, held-out ones first; and their number."""
        held_out = self.held_out().rows
        steps = min(self.options.steps, math.ceil(self.text.rows / self.options.batch))
        return _After(held_out, self.batches(None)), len(held_out) + steps

    def _cached(self, workspace: Workspace) -> Teacher:
        folder, settings = self.cache_folder(workspace), self.cache_settings()
        batches, steps = self.asked()
        if steps_cached(folder) < steps:
            cache_teacher(self.teacher(self.live_teacher()), batches, steps, folder, **settings)
        return CachedTeacher(folder, settings["teacher_sha256"], settings["fingerprint"])

    def batches(self, writer: Writer | None) -> Batches:
        """What is learned from: the text, some of it as the student goes on with it, with the teacher's tokens."""
        batches = self.text.batches
        if writer is not None:
            share, prompts = self.options.on_policy, self.text.prompts
            batches = OnPolicy(batches, writer, share, prompts=prompts, seed=self.options.seed)
        return batches if self._pair is None else _Changed(batches, self._pair)

    def held_out(self) -> HeldOut:
        """What no step learns from, with the teacher's tokens."""
        return self.text.held_out if self._pair is None else self.text.held_out.changed(self._pair)

    @cached_property
    def _pair(self) -> Callable[[Batch], Batch] | None:
        """Puts the teacher's tokens of the same text beside a batch, where those are others."""
        own, teachers, text = self.tokenizer, self._teachers_tokenizer, self.text.batches
        if self.options.divergence.hard == 1:
            return None
        if self._pairing is None:
            return Aligned(text, own, teachers).pair
        return None if self._pairing.same else Paired.respelled(text, own, teachers, self._pairing).pair


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


def _refuse_unmatchable(matching: MatchingOptions, pairing: Respelling | None) -> None:
    if matching.wanted and pairing is None:
        raise SmidgenError(
            "Teacher and student read different tokens, so what happens inside of them cannot be matched. Leave out "
            "--match-hidden and --match-relations."
        )
    if matching.relations and pairing is not None and not pairing.same:
        raise SmidgenError(
            "The student has only some of the teacher's tokens, so relations between positions cannot be matched. "
            "Leave out --match-relations; hidden states can be."
        )


@dataclass(frozen=True)
class _Changed:
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
