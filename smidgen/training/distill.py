"""Distillation: a student learns to predict what its teacher predicts, and is written as a GGUF file.

Teacher in → student (a model of one's own, or a fresh one from slices of the teacher) → text (given, or written by the
teacher) → training, with the loss on held-out text before and after → the student, in the types that it came in: a
quantized one is trained through its lattice, a fresh one is stored in 16 bits, for `cut` to go on with.

What an interrupted training needs is in `DIR/work`, and goes when the student is written.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from smidgen.bounds import MOST_WORKERS, within
from smidgen.data.sources import read_texts
from smidgen.distillation.loop.metrics import TensorBoard, Trackio, Writer, training_operations
from smidgen.distillation.loop.on_policy import DecoderWriter
from smidgen.distillation.loop.on_policy import Writer as StudentWriter
from smidgen.distillation.loop.plan import (
    Counted,
    Room,
    checkpoint_room,
    decided,
    refuse_idle_rate,
    tell,
    warning_of_passes,
)
from smidgen.distillation.loop.trainer import Reports, Trainer, TrainingOptions, TrainingResult, what_did_not_help
from smidgen.distillation.loop.watch import Change, Measured
from smidgen.distillation.students.fresh import FreshShape
from smidgen.distillation.students.lattice import careful_rate, not_trained
from smidgen.distillation.students.trainee import Trainee
from smidgen.distillation.team.team import Team, joined, started_again, writer_first
from smidgen.errors import SmidgenError
from smidgen.formats.derived import Derived, Part, in_their_types, write_derived
from smidgen.formats.effort import Effort
from smidgen.formats.hub.catalogue import MODEL_FILE, ModelName, origin_of
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.workspace import Workspace
from smidgen.owned import settle
from smidgen.progress import say
from smidgen.publishing.companions import (
    WORK,
    LossCurve,
    claim_output,
    refuse_output,
    remove_others,
    write_distilling_notes,
)
from smidgen.publishing.first_words import can_chat, try_it
from smidgen.shell import path_of
from smidgen.sizes import format_size
from smidgen.stopping import resumable
from smidgen.training.begun import begun
from smidgen.training.lesson import DistillOptions, Lesson
from smidgen.training.together import run_together
from smidgen.training.writing import EngineWriter

__all__ = ["DistillOptions", "DistillResult", "distill", "distill_together"]

_EVALUATIONS, _SAVES = 8, 10
#: Highest learning rates, where none is given: of a fresh student, and of a trained one that is not quantized.
_RATES = {"fresh": 1e-3, "trained": 1e-4}
_FRESH_DECAY = 0.1
_SAID = 300  # bytes that a teacher's cache keeps of a token, about


@dataclass(frozen=True)
class DistillResult:
    """What came of it.

    size: of the file, bytes.  loss: of the last step.  change: of the loss on held-out text; None where nothing is.
    evaluations: step before which, and loss on what the state that was written, `kept`, was chosen by (`why`), in nats
    per token.  chats: whether the student has a chat template.
    """

    path: Path
    size: int
    parameters: int
    steps: int
    tokens: int
    seconds: float
    loss: float | None
    evaluations: Sequence[tuple[int, float]]
    kept: tuple[int, float] | None
    why: str
    change: Change | None
    notes: list[str]
    chats: bool

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(asdict(self) | {"path": str(self.path)})

    def figures(self) -> list[str]:
        """Before and after, in words."""
        if self.change is None or self.kept is None:
            return []
        written = f"Written is the state after {self.kept[0]} of {self.steps} steps, {self.why}."
        return [f"Loss on held-out text: {self.change}.", written]

    def describe(self) -> str:
        """What a person wants to know at the end, in a few lines."""
        size = f"{format_size(self.size)}, {self.parameters / 1e6:.1f} million parameters"
        lines = [f"{self.path}: {size}, in {self.seconds:.0f} s", *self.notes, *self.figures()]
        return "\n".join([*lines, try_it(self.path.parent, self.chats)])


def distill(
    teacher: ModelName, student: ModelName | None, output: str | os.PathLike[str],
    options: DistillOptions | None = None, *, resume: bool = False, **given: Any,
) -> DistillResult:  # fmt: skip
    """Train a student to predict as `teacher` does, and write `output/model.gguf` with its companions.

    teacher, student: names, paths or loaded models; no student for a fresh one, of the shape in the options.
    given: options by their names (`steps=200`), instead of `options` or to change some of them.
    resume: go on where the same training was interrupted.

    Raises SmidgenError, BadFile or Unsupported: for bad input, vocabularies of which the student's is no part of the
    teacher's, a shape that a GGUF file cannot hold, numbers gone wrong (with the text they came from), an unwritable or
    full disk, and for `resume` with other settings than the interrupted training had.
    """
    started = time.monotonic()
    teacher, student, output = (
        os.fspath(teacher),
        None if student is None else os.fspath(student),
        path_of(output),
    )
    options = DistillOptions(**given) if options is None else replace(options, **given)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    _refuse_contradictions(options, student)
    with ExitStack() as stack:
        team = stack.enter_context(joined())
        if team.size > 1 and options.on_policy:
            raise SmidgenError("What a student writes itself is for one process. Leave out --on-policy, or --workers.")
        for model in {teacher, student} - {None}:
            refuse_output(output, origin_of(model))
        resume = resume or started_again()
        day = stack.enter_context(begun(output, team, resume))
        lesson = writer_first(team, lambda: Lesson.open(teacher, student, options, stack))
        for line in lesson.misfits:
            say(line)
        warnings = [*refuse_idle_rate(_schedule(lesson), _counted(lesson)), *warning_of_passes(_passes(lesson))]
        workspace = writer_first(team, lambda: lesson.open_workspace(output, day, resume or not team.writes))
        effort = stack.enter_context(Effort(workspace, began=started, notes=team.writes))
        if team.writes:
            claim_output(output, lesson.begun_as.origin, lesson.taught_by.origin)
        plan = _plan(lesson, workspace, team)
        trainee = lesson.student()
        for line in warnings:
            say(line)
        trained = _train(lesson, trainee, plan, workspace, stack, resume, team)
        path = output / MODEL_FILE
        summary = _summary(lesson, trained)
        if team.writes:
            step = {"step": "distill", "parameters": _parameters(lesson, trained), "summary": summary}
            write_derived(lesson.begun_as, Derived(lesson.config, _parts(lesson, trainee)), path, step)
        team.same(0)  # now it is there
        with open_checkpoint(path) as written:
            parameters = written.parameters
        result = DistillResult(
            path, path.stat().st_size, parameters, trained.steps, trained.tokens, effort.seconds,
            trained.loss, trained.evaluations, trained.kept, trained.why, trained.change,
            [*_notes(lesson, trained), *warnings], can_chat(path),
        )  # fmt: skip
        if team.writes:
            models = [lesson.taught_by] if lesson.is_its_own_teacher else [lesson.begun_as, lesson.taught_by]
            remove_others(output, [MODEL_FILE, "metrics.jsonl"])
            step = None if result.kept is None else result.kept[0]
            losses = LossCurve(result.evaluations, step, "text", trained.chosen)
            write_distilling_notes(output, models, [f"{summary}.", *result.figures()], losses)
            settle(output)
            effort.close()
            workspace.finish()
        return result


def distill_together(
    teacher: str, student: str | None, output: Path, options: DistillOptions, workers: int, *,
    ray: str | None = None, resume: bool = False,
) -> DistillResult:  # fmt: skip
    """`distill` by several processes that share every batch: of this machine, or of the Ray cluster at an address.

    On a cluster, what the teacher has to write, or to be asked before, is shared too. Where a process dies, all go on
    from the last checkpoint. A script that calls this needs its `if __name__ == "__main__":`.
    """
    _refuse_contradictions(options, student)
    within("workers", workers, 1, MOST_WORKERS)
    with resumable(Workspace(output / WORK).holds_work):
        return _together(teacher, student, output, options, workers, ray, resume)


def _together(
    teacher: str,
    student: str | None,
    output: Path,
    options: DistillOptions,
    workers: int,
    ray: str | None,
    resume: bool,
) -> DistillResult:
    if ray is None:
        return run_together(partial(_as_one_of_many, teacher, student, output, options), workers, None, resume)
    from smidgen.ray_cluster import connected
    from smidgen.training.on_cluster import for_any_folder, prepared_on_ray

    teacher, student = for_any_folder(teacher), None if student is None else for_any_folder(student)
    options = replace(
        options, texts=tuple(read_texts(options.texts)), data=tuple(path.absolute() for path in options.data)
    )
    there = output.absolute()
    with connected(ray, workers):
        options, resume = prepared_on_ray(teacher, student, there, options, workers, ray, resume=resume)
        result = run_together(partial(_as_one_of_many, teacher, student, there, options), workers, ray, resume)
    return replace(result, path=output / MODEL_FILE)


def _as_one_of_many(
    teacher: str, student: str | None, output: Path, options: DistillOptions, resume: bool
) -> DistillResult:
    return distill(teacher, student, output, options, resume=resume)


def _refuse_contradictions(options: DistillOptions, student: str | None) -> None:
    if student is not None and options.shape != FreshShape():
        raise SmidgenError("A student that exists has its shape. Leave out --layers and the like, or say 'new'.")
    if options.divergence.hard == 1 and (options.on_policy or options.cache_teacher):
        raise SmidgenError("With --hard 1 the teacher is not asked. Leave out --on-policy and --cache-teacher, or it.")
    if options.matching.layers is not None and not options.matching.wanted:
        raise SmidgenError("--match-layers is for --match-hidden and --match-relations. Add one of them, or leave it.")
    if options.matching.wanted and (options.cache_teacher or options.divergence.hard == 1):
        other = "--cache-teacher" if options.cache_teacher else "--hard 1"
        raise SmidgenError(f"Matching needs a teacher that runs, and with {other} it does not. Leave out one of them.")
    if options.on_policy and options.cache_teacher:
        raise SmidgenError("What the student will write cannot be cached before. Leave out one of the two.")


def _train(
    lesson: Lesson, student: Trainee, plan: TrainingOptions, workspace: Workspace, stack: ExitStack, resume: bool,
    team: Team,
) -> TrainingResult:  # fmt: skip
    """All steps. stack: closes what the training needs open."""
    options, output = lesson.options, workspace.folder.parent
    device = team.device if student.movable else torch.device("cpu")
    say(f"{lesson.text.describe()}; {options.batch} rows of {lesson.context} tokens a step.")
    tell(plan, _counted(lesson))
    if device.type == "cpu":
        say(lesson.memory(plan, team.size).describe())
    if team.writes:
        _room(lesson, student).refuse_full(workspace.folder)
    aims = writer_first(team, lambda: lesson.aims(workspace, device))
    writer = _students_writer(lesson, student, workspace, stack) if options.on_policy else None
    trainee = aims.trainee(student)
    reports = Reports(
        "Distilling", output / "metrics.jsonl", _writers(lesson, output) if team.writes else [],
        training_operations(lesson.config, lesson.context) + aims.operations,
    )  # fmt: skip
    trainer = Trainer(
        trainee, aims.learned, lesson.batches(writer), plan, workspace.step("training").folder,
        watch=Measured(lesson.held_out(), aims.measured, options.keep).watch(
            trainee, max(1, options.steps // _EVALUATIONS)
        ),
        reports=reports, team=team,
    )  # fmt: skip
    return trainer.run(resume)


def _plan(lesson: Lesson, workspace: Workspace, team: Team) -> TrainingOptions:
    """What the training will do, as it was decided when it began; but within the memory that is allowed now."""

    def within_memory(plan: TrainingOptions) -> TrainingOptions:
        fit = lesson.fitted(team.size)
        return replace(plan, rows_at_once=fit.rows, gradient_checkpointing=fit.checkpointing)

    options = lesson.options
    plan = writer_first(team, lambda: decided(workspace, lambda: within_memory(_schedule(lesson))))
    plan = plan if options.memory is None else within_memory(plan)
    return replace(plan, checkpoint_every=options.checkpoint_every or plan.checkpoint_every)  # changes no result


def _schedule(lesson: Lesson) -> TrainingOptions:
    """The plan of the training, without what is decided by memory."""
    options = lesson.options
    fresh = lesson.plan is not None
    rate = careful_rate(options.steps) if lesson.quantized else _RATES["fresh" if fresh else "trained"]
    return TrainingOptions(
        options.steps,
        learning_rate=options.learning_rate or rate,
        schedule=options.schedule,
        weight_decay=_FRESH_DECAY if fresh else 0.0,
        optimizer=options.optimizer,
        checkpoint_every=options.checkpoint_every or max(1, options.steps // _SAVES),
        seed=options.seed,
    )


def _counted(lesson: Lesson) -> Counted:
    return "codes" if lesson.quantized else "weights"


def _passes(lesson: Lesson) -> float:
    """How often the text is read. What the student writes itself is new every time."""
    options = lesson.options
    return options.steps * options.batch * (1 - options.on_policy) / lesson.text.rows


def _room(lesson: Lesson, trainee: Trainee) -> Room:
    """What all of the work takes of the disk."""
    trained = sum(tensor.numel() for tensor in trainee.tensors().values())
    result = lesson.begun_as.file.size if lesson.plan is None else 2 * trained
    if lesson.options.on_policy and lesson.plan is None:
        result *= 2  # with the file that llama.cpp writes from
    rows = min(lesson.text.rows, lesson.options.steps * lesson.options.batch)
    said = _SAID * rows * lesson.context if lesson.options.cache_teacher else 0
    return Room(checkpoint_room(trained), result + said)


def _parts(lesson: Lesson, trainee: Trainee) -> Mapping[str, Part]:
    """What is written. A student of one's own keeps its types."""
    return trainee.parts() if lesson.plan is not None else in_their_types(lesson.begun_as, trainee.parts())


def _students_writer(lesson: Lesson, student: Trainee, workspace: Workspace, stack: ExitStack) -> StudentWriter:
    """Writes for the student: llama.cpp where it can read the student's file, our decoder for a fresh one."""
    if lesson.plan is not None:
        return DecoderWriter(student, lesson.tokenizer.eos_ids)
    threads = lesson.options.threads
    return stack.enter_context(EngineWriter(lesson.begun_as, student, workspace.folder, threads=threads))


def _writers(lesson: Lesson, output: Path) -> list[Writer]:
    writers: list[Writer] = []
    if lesson.options.tensorboard:
        writers.append(TensorBoard(output / "tensorboard"))
    if lesson.options.trackio:
        writers.append(Trackio("smidgen", lesson.fingerprint()))
    return writers


def _parameters(lesson: Lesson, trained: TrainingResult) -> dict[str, Any]:
    """For the file's history."""
    options = lesson.options
    parameters: dict[str, Any] = {
        "teacher": lesson.taught_by.sha256(), "steps": trained.steps, "tokens": trained.tokens, "seed": options.seed,
        "loss": "cross-entropy" if options.divergence.hard == 1 else options.divergence.kind,
    }  # fmt: skip
    if lesson.plan is not None:  # from which it can be seen which layers correspond
        layers = list(lesson.plan.layers) if lesson.begun_as_slices else []
        parameters["begun_as"] = {"layers": layers, "of": len(lesson.taught_by.config.layers)}
    if options.matching.wanted:
        parameters["matching"] = asdict(options.matching)
    return parameters


def _summary(lesson: Lesson, trained: TrainingResult) -> str:
    """One sentence, without its full stop."""
    if lesson.plan is None:
        begun = "trained through the lattice of its types" if lesson.quantized else "all weights trained"
    else:
        begun = f"{len(lesson.plan.layers)} layers of width {lesson.config.hidden}, begun "
        begun += "with slices of it" if lesson.begun_as_slices else "at random"
    name = lesson.taught_by.origin.title(lesson.taught_by.file.metadata)
    on_text_alone = lesson.options.divergence.hard == 1
    how = f"Shaped after {name}, trained on text alone" if on_text_alone else f"Distilled from {name}"
    return f"{how}: {begun}, {trained.tokens} tokens in {trained.steps} steps"


def _notes(lesson: Lesson, trained: TrainingResult) -> list[str]:
    """What a person should know."""
    notes = [*lesson.misfits, *lesson.text.notes]
    if lesson.quantized:
        notes += not_trained(lesson.begun_as)
    return [*notes, *what_did_not_help(trained, "student")]
