"""Healing: a model that was cut learns to predict again what the model it was made from predicts.

The student is a file in whatever types it has, and stays in them: quantized matrices learn through their lattice
(`distillation.students.lattice`), everything else as it is, so that what was trained is what is written. The teacher is
the model before the cut; where the cut has dropped tokens, it teaches in the student's spelling
(`distillation.teachers.restricted`), on text that is respelled: pieces that were never seen in an order that never
occurred are what such a student has to learn.

The loss is the forward KL divergence. With a large vocabulary most of its cost is the output head, most of whose tokens
a text never comes near; then it is estimated from some of them (`distillation.objectives.sampled_head`).

Some windows of the text are held out (`text.held_out`). Training stops when those that choose no longer get better, and
the state that is best on them is what is written, the first one included; the others say what it has brought. Where the
text is too short to choose by, the last state is written.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smidgen.data.sources import TextSource
from smidgen.data.text import window_length
from smidgen.distillation.loop.metrics import peak_operations, training_operations
from smidgen.distillation.loop.plan import Counted, Room, checkpoint_room, decided, tell, warning_of_passes
from smidgen.distillation.loop.trainer import Reports, Trainer, TrainingOptions, TrainingResult
from smidgen.distillation.loop.watch import Change, Measured
from smidgen.distillation.objectives.losses import DistillObjective
from smidgen.distillation.objectives.sampled_head import SampledHeadObjective, frequent_tokens
from smidgen.distillation.students.lattice import LatticeStudent, careful_rate, trains_on_lattice
from smidgen.distillation.students.lora import Adapted, LoraOptions
from smidgen.distillation.students.trainee import Objective, Trainee
from smidgen.distillation.teachers.remembering import RememberingTeacher
from smidgen.distillation.teachers.restricted import RestrictedTeacher
from smidgen.distillation.text.batch import Batches
from smidgen.distillation.text.held_out import HeldOut, Split
from smidgen.distillation.text.packing import PackedBatches, text_documents
from smidgen.distillation.text.paired import Paired
from smidgen.errors import SmidgenError, printable
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Derived, in_their_types
from smidgen.formats.effort import Effort
from smidgen.formats.frozen import load_frozen
from smidgen.formats.workspace import Workspace
from smidgen.memory import total_memory
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.respelling import Respelling
from smidgen.numerics.grids import GRIDS
from smidgen.progress import say
from smidgen.shapes import Int

_ROWS = 2  # of a step, each a window of text: 1,024 tokens, or fewer where the model's context is short
_RELATIVE_RATE = 2.5e-4  # of scales and norms, a step
_HELD_OUT, _MOST_HELD_OUT = 16, 12  # one window in so many, and no more than so many
_EVALUATIONS = 10  # over the whole training
_AVERAGED = 10  # the states of a tenth of the training are averaged
_PATIENCE = 4
_MEMORY_SHARE = 0.7  # of the machine's memory that training may take
_BYTES_EACH = 34  # of memory for a trained weight: see distill.lattice; averages, best state and the teacher
_LISTENED = 4  # batches in which the teacher says which tokens it thinks of
_MANY_TOKENS = 65_536  # from which the head is estimated
_EXPECTED_SHARE = 0.5  # of the processor's peak that a step reaches
_LOW_RANK_RATE = 2e-4
_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class HealBudget:
    """How long to heal: so many tokens, or so many seconds."""

    tokens: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> "HealBudget":
        """`50000`, `90s`, `15min`, `2h`."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text).lower())
        if found is not None and not found[2] and "." not in found[1]:
            budget = cls(tokens=int(found[1]))
        elif found is not None and found[2] in _UNITS:
            budget = cls(seconds=float(found[1]) * _UNITS[found[2]])
        else:
            raise SmidgenError(f"--heal is {text!r}; say tokens (50000) or a time (90s, 15min, 2h).")
        if not (budget.tokens or budget.seconds):
            raise SmidgenError(f"--heal is {text!r}; it must be more than nothing. Leave it out not to heal.")
        return budget

    def part(self, share: float) -> "HealBudget":
        """A share of it."""
        tokens = None if self.tokens is None else max(1, round(self.tokens * share))
        return HealBudget(tokens, None if self.seconds is None else self.seconds * share)

    def __str__(self) -> str:
        return f"{self.tokens} tokens" if self.tokens is not None else f"{self.seconds:g} s"

    def steps(self, student: Checkpoint) -> int:
        """Of training. For a time, as many as fit into it if the machine does as well as it can be expected to."""
        tokens, context = self.tokens, window_length(student.config.context_length)
        if tokens is None:
            quickest = peak_operations(torch.device("cpu")) / training_operations(student.config, context)
            tokens = _EXPECTED_SHARE * quickest * (self.seconds or 0)
        return max(1, math.ceil(tokens / (_ROWS * context)))


@dataclass(frozen=True)
class Healed:
    """What came of it.  derived: to be written.  change: of the KL on windows that chose nothing."""

    derived: Derived
    training: TrainingResult
    change: Change
    processor_seconds: float

    def report(self) -> dict[str, Any]:
        """For the card."""
        return {
            "tokens": self.training.tokens, "seconds": self.training.seconds,
            "processor_seconds": self.processor_seconds, "stopped": self.training.stopped,
            "watched_kl_before": self.change.before, "watched_kl_after": self.change.after,
            "watched_kl_noise": self.change.noise,
            "watched": [list(evaluation) for evaluation in self.training.evaluations],
        }  # fmt: skip

    def describe(self) -> str:
        """In a line."""
        return (
            f"Healed on {self.training.tokens} tokens in {self.training.seconds:.0f} s: KL on held-out text "
            f"{self.change}, nats per token."
        )


def heal(
    teacher: Checkpoint,
    student: Checkpoint,
    sources: Sequence[TextSource],
    budget: HealBudget,
    workspace: Workspace,
    seed: int,
) -> Healed:
    """Train `student` towards `teacher` on some texts, without changing its types.

    workspace: for the plan and checkpoints; an unfinished healing that is there goes on.
    Raises SmidgenError for a text too short to keep windows of it aside, and where training does not fit in memory or
    its checkpoints not on the disk; Stopped, with a checkpoint, where somebody ends it.
    """
    with Effort(workspace) as effort:
        derived, training, change = _train(teacher, student, sources, budget, workspace, seed)
        return Healed(derived, training, change, effort.processor_seconds)


def disk_needed(model: Checkpoint) -> int:
    """Bytes that checkpoints of healing take at least, of a model with all of its layers."""
    few = ("embedding.weight", "head.weight") if model.config.vocabulary >= _MANY_TOKENS else ()
    return checkpoint_room(
        sum(math.prod(model.shape(name)) for name in model.names() if name not in few), averaged=True
    )


def _train(
    teacher: Checkpoint, student: Checkpoint, sources: Sequence[TextSource], budget: HealBudget, workspace: Workspace,
    seed: int,
) -> tuple[Derived, TrainingResult, Change]:  # fmt: skip
    """What is to be written, and how it came about."""
    lesson = _lesson(teacher, student, sources, seed)
    plan = decided(workspace, lambda: _decide(student, lesson.rows, budget, seed))
    low_rank = _is_low_rank(student, lesson.rows)
    trainee = _trainee(student, lesson.rows, _RELATIVE_RATE / plan.learning_rate)
    counted: Counted = "adapter" if low_rank else "codes"
    tell(plan, counted)
    if budget.tokens is not None:
        for line in warning_of_passes(budget.tokens / lesson.tokens):
            say(line)
    trained = sum(tensor.numel() for tensor in trainee.tensors().values())
    Room(checkpoint_room(trained, averaged=True), student.file.size).refuse_full(workspace.folder)
    measured = Measured(lesson.held_out, lesson.objective)
    training = Trainer(
        trainee, lesson.objective, lesson.batches, plan, workspace.step("training").folder,
        fingerprint={"student": student.sha256()},
        watch=measured.watch(trainee, max(1, plan.steps // _EVALUATIONS), _PATIENCE),
        reports=Reports("Healing", workspace.folder / "metrics.jsonl"),
    ).run(resume=True)  # fmt: skip
    change, parts = training.change, trainee.parts()
    assert change is not None  # something is held out
    if change.is_worse:
        say(f"Healing has made it worse: KL on held-out text {change}. What is written is the model as it was.")
        change, parts = Change(change.before, change.before, 0.0, change.rows), {}
    figures = {"tokens": training.tokens, "watched_kl": [round(change.before, 5), round(change.after, 5)]}
    return Derived(student.config, in_their_types(student, parts), came_of_it=figures), training, change


def _decide(student: Checkpoint, rows: Mapping[str, Tensor], budget: HealBudget, seed: int) -> TrainingOptions:
    """The plan of the training. How many steps fit into a time depends on how quick the machine is at the moment."""
    steps = budget.steps(student)
    rate = _LOW_RANK_RATE if _is_low_rank(student, rows) else careful_rate(steps)
    return TrainingOptions(
        steps, rate, floor=0.05, checkpoint_every=max(1, steps // _EVALUATIONS),
        average_over=max(1, steps // _AVERAGED), seed=seed, seconds=budget.seconds,
    )  # fmt: skip


@dataclass(frozen=True)
class _Lesson:
    """What is learned.  rows: of the embedding and the head, those that learn; none named: all do.  tokens: of text."""

    objective: Objective
    batches: Batches
    held_out: HeldOut
    rows: Mapping[str, Int[Tensor, " rows"]]
    tokens: int


def _lesson(teacher: Checkpoint, student: Checkpoint, sources: Sequence[TextSource], seed: int) -> _Lesson:
    """The text in the student's tokens, and the teacher as this student can understand it."""
    tokenizer = Tokenizer.from_gguf(student.tokenizer_metadata)
    context = window_length(student.config.context_length, teacher.config.context_length)
    learned, held_out = _sides(sources, tokenizer, context, seed)
    tokens, remembering = learned.tokens, RememberingTeacher(teacher)
    if student.config.vocabulary != teacher.config.vocabulary:
        larger = Tokenizer.from_gguf(teacher.tokenizer_metadata)
        respelling = Respelling.between(larger, tokenizer)
        paired = Paired.respelled(learned, tokenizer, larger, respelling)
        objective = DistillObjective(RestrictedTeacher(remembering, respelling), bf16=True)
        return _Lesson(objective, paired, held_out.changed(paired.pair), {}, tokens)
    if teacher.config.vocabulary < _MANY_TOKENS:
        return _Lesson(DistillObjective(remembering, bf16=True), learned, held_out, {}, tokens)
    text = learned.rows(range(len(learned))).ids
    frequent = frequent_tokens(remembering, [learned.batch(step) for step in range(_LISTENED)], text)
    rows: dict[str, Tensor] = dict.fromkeys(("embedding.weight", "head.weight"), frequent)
    return _Lesson(SampledHeadObjective(remembering, frequent, seed), learned, held_out, rows, tokens)


def _is_low_rank(student: Checkpoint, rows: Mapping[str, Tensor]) -> bool:
    """Whether only a low-rank change of the layers learns, since the memory is too small for all.

    Raises SmidgenError where the model is quantized.
    """
    weights = student.parameters - sum(
        (student.shape(name)[0] - len(chosen)) * student.shape(name)[1]
        for name, chosen in rows.items()
        if name in student.names()
    )
    whole, spare = _BYTES_EACH * weights, _MEMORY_SHARE * total_memory()
    if whole <= spare:
        return False
    if any(trains_on_lattice(student.kind(name)) for name in student.names()):
        raise SmidgenError(
            f"Healing {printable(student.path.name)} takes about {whole / 1e9:.0f} GB of memory, more than this "
            "machine has to spare. Leave out --heal, or heal on a larger machine (smidgen distill)."
        )
    return True


def _trainee(student: Checkpoint, rows: Mapping[str, Tensor], relative_rate: float) -> Trainee:
    """All of a model that fits in memory; of a larger one, if it is not quantized, a low-rank change of its layers."""
    if _is_low_rank(student, rows):
        say("All weights in training would not fit in memory: healing by a low-rank change of each layer.")
        return Adapted(load_frozen(student), LoraOptions())
    # Of a large embedding the rows of tokens that occur learn, if it is quantized: it has more to mend then.
    return LatticeStudent(
        student, lambda name: name not in rows or student.kind(name) in GRIDS, rows=rows,
        relative_rate=relative_rate,
    )  # fmt: skip


def _sides(
    sources: Sequence[TextSource], tokenizer: Tokenizer, context: int, seed: int
) -> tuple[PackedBatches, HeldOut]:
    """The text to learn from, and rows of it that are measured on instead."""
    windows = text_documents(sources, tokenizer, context)
    if len(windows) < 2:
        tokens = sum(len(window.ids) for window in windows)
        raise SmidgenError(f"{tokens} tokens of text are too few to heal on. Give more with --text.")
    split = Split.of(windows, min(1 / _HELD_OUT, _MOST_HELD_OUT / len(windows)), seed)
    if not split.report:  # a text that repeats itself
        split = Split(windows[:-1], [], windows[-1:])
    return PackedBatches(split.learned, None, _ROWS, context, seed), split.rows(context, seed)
