"""Tuning: a model learns from examples of your own. LoRA adapters by default, all of its weights on request.

Examples in (`training_examples`) → packed rows → training, with the loss on held-out examples before and after → what
was learned, written: an adapter in PEFT's layout and as GGUF, or a model with it merged in. A model whose weights are
quantized keeps its types: an adapter stands beside them, or is put into their lattice (`merging`), and with `full` the
lattice itself is trained through. What was written is opened again and measured.

What an interrupted training needs is in `DIR/work`, and goes when all is written.
"""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeGuard

import torch

from smidgen.bounds import MOST_WORKERS, several, within
from smidgen.distillation.loop.memory import Fitted, fitted, planned
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
from smidgen.distillation.loop.watch import Change, Measured, losses_of
from smidgen.distillation.objectives.losses import LanguageObjective
from smidgen.distillation.students.lattice import LatticeStudent, careful_rate, not_trained
from smidgen.distillation.students.lora import Adapted
from smidgen.distillation.students.trainee import Trainee
from smidgen.distillation.team.team import Team, joined, started_again, writer_first
from smidgen.distillation.text.packing import PackedBatches
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.adapters import write_gguf_lora, write_peft
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Derived, Part, in_their_types, write_derived
from smidgen.formats.effort import Effort
from smidgen.formats.hub.catalogue import MODEL_FILE, ModelName, model_word
from smidgen.formats.opening import open_checkpoint, open_model
from smidgen.formats.workspace import Workspace
from smidgen.numerics.precision import is_quick
from smidgen.owned import settle
from smidgen.progress import say
from smidgen.publishing.companions import (
    WORK,
    LossCurve,
    claim_output,
    refuse_output,
    remove_others,
    write_tuning_notes,
)
from smidgen.shell import as_word, path_of
from smidgen.stopping import resumable
from smidgen.training.begun import begun
from smidgen.training.examples import read_training_examples
from smidgen.training.learner import Learner
from smidgen.training.merging import MergeOptions, disk_needed, fits_in_memory, is_on_lattice, merging_bytes, trained_in
from smidgen.training.options import TuneOptions
from smidgen.training.together import run_together

_CONTEXT = 1024
_TOKENS_AT_ONCE = 4096
_EVALUATIONS, _SAVES = 4, 10
_NEARLY_ALL = 0.99
_FREE = ("threads", "merge", "skip_bad", "memory")  # options that a resumed tuning may have otherwise
#: Learning rates: of adapters as in QLoRA (arXiv:2305.14314, table 9), a tenth of it for whole weights.
_RATES: dict[Counted, float] = {"adapter": 2e-4, "weights": 2e-5}


@dataclass
class TuneResult:
    """What came of it. Losses are nats per token of answer, on the held-out examples; None where there are none.

    written: names of files in `path`.  change: to the state that was written, which is that after `kept` steps, for a
    reason (`why`), `chosen` as the best or not.  passes: over the examples.  learning_rate: at its highest.  rows: of a
    step.  merged: of model.gguf, opened again.  evaluations: step, and the loss before it.
    """

    path: Path
    written: list[str]
    examples: int = 0
    held_out: int = 0
    steps: int = 0
    tokens: int = 0
    change: Change | None = None
    kept: int | None = None
    why: str = ""
    chosen: bool = False
    passes: float = 0.0
    learning_rate: float | None = None
    rows: int = 0
    merged: float | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    evaluations: Sequence[tuple[int, float]] = ()

    @property
    def before(self) -> float | None:
        """The loss before."""
        return None if self.change is None else self.change.before

    @property
    def after(self) -> float | None:
        """The loss of what was written."""
        return None if self.change is None else self.change.after

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(
            {
                "path": str(self.path), "written": self.written, "examples": self.examples, "held_out": self.held_out,
                "steps": self.steps, "tokens": self.tokens, "loss_before": self.before, "loss_after": self.after,
                "loss_noise": None if self.change is None else self.change.noise, "kept": self.kept,
                "loss_of_model": self.merged, "seconds": self.seconds, "notes": self.notes,
                "evaluations": self.evaluations,
            }
        )  # fmt: skip

    def figures(self) -> list[str]:
        """The loss before and after, in words."""
        if self.change is None:
            return []
        lines = [f"Loss on held-out examples: {self.change}."]
        lines.append(f"Written is the state after {self.kept} of {self.steps} steps, {self.why}.")
        if self.merged is not None:
            lines.append(f"Loss of model.gguf, read back: {self.merged:.4f}{self._kept()}.")
        return lines

    def _kept(self) -> str:
        """How much of an adapter's gain the model has, where that is less than all."""
        if self.before is None or self.after is None or self.merged is None or self.after >= self.before:
            return ""
        kept = (self.before - self.merged) / (self.before - self.after)
        return f": {100 * max(0.0, kept):.0f}% of what was gained" if kept < _NEARLY_ALL else ""

    def describe(self, model: str) -> str:
        """What a person wants to know at the end, in a few lines."""
        lines = [f"{self.path}: {', '.join(self.written)}, in {self.seconds:.0f} s", *self.notes, *self.figures()]
        folder = model_word(self.path)
        use = folder if "model.gguf" in self.written else f"{as_word(model)} --lora {folder}"
        return "\n".join([*lines, f"Try it: smidgen chat {use}"])


def tune(
    model: ModelName, data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], output: str | os.PathLike[str],
    options: TuneOptions | None = None, valid: str | os.PathLike[str] | None = None, resume: bool = False, **given: Any,
) -> TuneResult:  # fmt: skip
    """Tune `model` on the examples of JSON Lines files and write what it learned into the folder `output`.

    model: a name, a path or a loaded `Model`. data: a file or several; none at all writes `options.adapter` again, in
    all formats, and merged if asked for. valid: examples to measure on, in place of held-out ones. resume: go on where
    the same tuning was interrupted. given: options by their names (`epochs=2`), instead of `options` or to change some
    of them.

    Raises SmidgenError, BadFile or Unsupported for bad input, the first malformed line among it unless it is to be
    skipped, an unwritable or full disk, and for `resume` with other settings than the interrupted tuning had.
    """
    started = time.monotonic()
    output = path_of(output)
    files = [path_of(file) for file in several("data", data)]
    options = TuneOptions(**given) if options is None else replace(options, **given)
    _refuse_contradictions(files, options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with ExitStack() as stack:
        team, checkpoint = stack.enter_context(joined()), stack.enter_context(open_model(model))
        refuse_output(output, checkpoint.origin)
        options = replace(options, context=_context(checkpoint, options))
        resume = resume or started_again()
        day = stack.enter_context(begun(output, team, resume))
        tuning = _Tuning(checkpoint, files, None if valid is None else Path(valid), options, team)
        workspace = tuning.open_workspace(output, day, resume)
        with Effort(workspace, began=started, notes=team.writes) as effort:
            result = tuning.run(workspace, output, resume)
        if team.writes:
            result.seconds = effort.seconds
            done = [_summary(options, result), *result.notes, *result.figures(), *_settings(options, result)]
            losses = LossCurve(result.evaluations, result.kept, "examples", result.chosen)
            write_tuning_notes(output, checkpoint, result.written, done, losses)
            result.written.append("README.md")
            settle(output)
            workspace.finish()
        return result


def tune_together(
    model: str, data: Sequence[Path], output: Path, options: TuneOptions, workers: int, *,
    valid: Path | None = None, ray: str | None = None, resume: bool = False,
) -> TuneResult:  # fmt: skip
    """`tune` by several processes that share every batch: of this machine, or of the Ray cluster at an address.

    Where one of them dies, all go on from the last checkpoint. A script that calls this needs its
    `if __name__ == "__main__":`.
    """
    within("workers", workers, 1, MOST_WORKERS)
    work = partial(tune, model, data, output, options, valid)
    if ray is not None:  # its processes run in folders of their own
        from smidgen.training.on_cluster import for_any_folder

        adapter = None if options.adapter is None else options.adapter.absolute()
        options, valid = replace(options, adapter=adapter), None if valid is None else valid.absolute()
        files = [path.absolute() for path in data]
        work = partial(tune, for_any_folder(model), files, output.absolute(), options, valid)
    with resumable(Workspace(output / WORK).holds_work):
        return replace(run_together(work, workers, ray, resume), path=output)


def _refuse_contradictions(data: Sequence[Path], options: TuneOptions) -> None:
    if not data and options.adapter is None:
        raise SmidgenError("there is nothing to learn from; give examples with --data FILE.jsonl.")
    if options.full and (options.adapter is not None or options.merge):
        raise SmidgenError("--full trains the model's own weights: leave out --adapter and --merge.")
    if options.blocks is not None and not options.full:
        raise SmidgenError("--blocks says which of the model's own weights learn. Add --full, or leave it out.")


def _context(checkpoint: Checkpoint, options: TuneOptions) -> int:
    longest = checkpoint.config.context_length
    if options.context is None:
        return min(_CONTEXT, longest)
    if options.context > longest:
        raise SmidgenError(f"--context {options.context} is more than the {longest} tokens the model was trained for.")
    return options.context


class _Tuning:
    """One model and the examples that it learns from."""

    def __init__(
        self, checkpoint: Checkpoint, data: Sequence[Path], valid: Path | None, options: TuneOptions, team: Team
    ) -> None:
        self._checkpoint, self._options, self._team = checkpoint, options, team
        self._context = options.context or _CONTEXT
        self._examples = read_training_examples(
            checkpoint, data, valid, context=self._context, on_prompts=options.on_prompts, raw=options.raw,
            skip_bad=options.skip_bad, held_out=options.held_out, seed=options.seed,
        )  # fmt: skip
        self._learner = Learner(checkpoint, options, team)
        self._objective = LanguageObjective(is_quick(team.device))
        self._measured = Measured(self._examples.held_out, self._objective, options.keep)
        self._warnings = refuse_idle_rate(self._schedule(), self._learner.counted) if self._examples.learned else []

    @cached_property
    def _batching(self) -> tuple[PackedBatches, int]:
        """Batches of an epoch, and rows of each."""
        return self._examples.batches(self._options.batch)

    def open_workspace(self, output: Path, day: str, resume: bool) -> Workspace:
        """`output/work`, bound to everything that the result depends on. day: on which it began."""
        resume, fingerprint = resume or not self._team.writes, {**self._fingerprint(), "day": day}
        return writer_first(self._team, partial(Workspace.open, output / WORK, fingerprint, resume=resume))

    def run(self, workspace: Workspace, output: Path, resume: bool) -> TuneResult:
        """Train, and write everything but the notes."""
        examples, options, writes = self._examples, self._options, self._team.writes
        if writes:
            claim_output(output, self._checkpoint.origin)
        plan = self._plan(workspace) if examples.learned else None
        trainee = self._learner.make()
        if plan is not None and self._merges_by_training(trainee):
            self._merging(trainee)  # which may be refused, better now than after the training
        result = TuneResult(output, [], len(examples.learned), examples.measured, notes=[*examples.notes])
        if plan is not None:
            self._train(trainee, plan, workspace, result, resume)
        if writes:
            (output / MODEL_FILE).unlink(missing_ok=True)  # an older one, which would seem to hold what is new
        if isinstance(trainee, Adapted) and writes:
            self._write_adapter(trainee, result)
        if options.full or options.merge:
            parts = self._parts(trainee, workspace, result, resume)
            if writes:
                self._write_model(parts, result)
        if writes:
            remove_others(output, result.written)
        self._team.same(0)  # nobody leaves before all is written
        return result

    def _fingerprint(self) -> dict[str, Any]:
        options = self._options
        settings = {key: value for key, value in asdict(options).items() if key not in _FREE}
        adapter = None if options.adapter is None else str(options.adapter)
        return {"model": self._checkpoint.sha256(), "data": self._examples.sha256(), **settings, "adapter": adapter}

    def _plan(self, workspace: Workspace) -> TrainingOptions:
        """What the training will do, as it was decided when it began; but within the memory that is allowed now."""
        plan = writer_first(self._team, partial(decided, workspace, self._decide))
        return plan if self._options.memory is None else self._within_memory(plan)

    def _decide(self) -> TrainingOptions:
        return self._within_memory(self._schedule())

    def _within_memory(self, plan: TrainingOptions) -> TrainingOptions:
        return replace(plan, rows_at_once=self._fitted.rows, gradient_checkpointing=self._fitted.checkpointing)

    def _schedule(self) -> TrainingOptions:
        """The plan of the training, without what is decided by memory."""
        (batches, rows), options, counted = self._batching, self._options, self._learner.counted
        steps = options.steps or math.ceil(len(batches) * options.epochs / rows)
        return TrainingOptions(
            steps,
            learning_rate=options.learning_rate or _RATES.get(counted) or careful_rate(steps),
            checkpoint_every=max(1, steps // _SAVES),
            seed=options.seed,
        )

    @cached_property
    def _fitted(self) -> Fitted:
        """How it fits in memory."""
        config, held = self._checkpoint.config, self._learner.held()
        rows = min(self._rows_at_once(), -(-self._batching[1] // self._team.size))
        if self._team.device.type != "cpu":
            return Fitted(rows, checkpointing=False, needed=0)
        return fitted(config, held, self._context, rows, most=self._options.memory)

    # -- training ----------------------------------------------------------------------------------------------------

    def _train(
        self, trainee: Trainee, plan: TrainingOptions, workspace: Workspace, result: TuneResult, resume: bool
    ) -> None:
        """Train, and note in `result` how that went."""
        examples, (batches, rows) = self._examples, self._batching
        say(
            f"{len(examples.learned)} examples in {len(batches)} rows of {self._context} tokens, {rows} a step: "
            f"{plan.steps * rows / len(batches):.1f} passes. {examples.measured} examples are held out."
        )
        tell(plan, self._learner.counted)
        if self._team.device.type == "cpu":
            rows_at_once = plan.rows_at_once or rows
            config, held, again = self._checkpoint.config, self._learner.held(), plan.gradient_checkpointing
            say(planned(config, held, self._context, rows_at_once, again).describe())
        result.passes, result.learning_rate, result.rows = plan.steps * rows / len(batches), plan.learning_rate, rows
        result.notes += [*self._warnings, *warning_of_passes(result.passes)]
        for note in result.notes:
            say(note)
        if self._team.writes:
            self._room(trainee).refuse_full(workspace.folder)
        trained = Trainer(
            trainee, self._objective, batches, plan, workspace.folder / "training",
            watch=self._measured.watch(trainee, max(1, plan.steps // _EVALUATIONS)),
            reports=Reports("Tuning", result.path / "metrics.jsonl"), team=self._team,
        ).run(resume)  # fmt: skip
        _note(trained, result)
        if isinstance(trainee, LatticeStudent):
            result.notes += not_trained(self._checkpoint)

    def _room(self, trainee: Trainee) -> Room:
        """What all of the work takes of the disk."""
        trained = sum(tensor.numel() for tensor in trainee.tensors().values())
        others = self._checkpoint.file.size if self._options.full or self._options.merge else 8 * trained
        if self._options.merge and isinstance(trainee, Adapted) and is_on_lattice(self._checkpoint, trainee):
            others += disk_needed(self._checkpoint, trainee)
        return Room(checkpoint_room(trained), others)

    def _rows_at_once(self) -> int:
        return max(1, _TOKENS_AT_ONCE // self._context)

    # -- writing -----------------------------------------------------------------------------------------------------

    def _write_adapter(self, trainee: Adapted, result: TuneResult) -> None:
        """The adapter in all formats that can hold it."""
        checkpoint, output = self._checkpoint, result.path
        adapter, metadata = trainee.adapter(), checkpoint.file.metadata
        try:
            base = checkpoint.origin.base_model(metadata)
            write_peft(adapter, checkpoint, output, base, self._options.lora.dropout)
            result.written += ["adapter_model.safetensors", "adapter_config.json"]
        except Unsupported as error:
            result.notes.append(f"No adapter for transformers: {error}")
        title = checkpoint.origin.title(metadata)
        write_gguf_lora(adapter, checkpoint, output / "adapter.gguf", f"Adapter for {title}")
        result.written.append("adapter.gguf")

    def _parts(self, trainee: Trainee, workspace: Workspace, result: TuneResult, resume: bool) -> Mapping[str, Part]:
        """What model.gguf has otherwise than the model."""
        if not isinstance(trainee, Adapted):
            return trainee.parts()
        checkpoint, examples = self._checkpoint, self._examples
        if self._merges_by_training(trainee):
            fit = self._merging(trainee)
            wanted = MergeOptions(result.steps, fit.rows, self._options.seed, fit.checkpointing)
            folder, batches = workspace.step("merging"), self._batching[0]
            return trained_in(trainee, checkpoint, batches, self._measured, wanted, folder, self._team, resume)
        if is_on_lattice(checkpoint, trainee):
            why = "this machine has not the memory" if examples.learned else "that takes examples (--data)"
            result.notes.append(
                f"Rounded onto the model's types, not trained into them ({why}): that loses most of what an adapter "
                "has learned. Use it beside the model."
            )
        return trainee.parts_in(checkpoint)

    def _merges_by_training(self, trainee: Trainee) -> TypeGuard[Adapted]:
        """Whether an adapter is trained into the lattice of a model, not just added or rounded."""
        if not (self._options.merge and isinstance(trainee, Adapted) and self._examples.learned):
            return False
        return is_on_lattice(self._checkpoint, trainee) and fits_in_memory(self._checkpoint, trainee)

    def _merging(self, trainee: Adapted) -> Fitted:
        """How that fits in memory."""
        rows, held = min(self._batching[1], self._rows_at_once()), merging_bytes(self._checkpoint, trainee)
        return fitted(self._checkpoint.config, held, self._context, rows, most=self._options.memory)

    def _write_model(self, parts: Mapping[str, Part], result: TuneResult) -> None:
        """model.gguf, measured as it was written."""
        summary = _summary(self._options, result)
        step = {"step": "tune", "parameters": _parameters(self._options, result), "summary": summary}
        path = result.path / MODEL_FILE
        kept = in_their_types(self._checkpoint, parts) if self._options.full else parts
        write_derived(self._checkpoint, Derived(self._checkpoint.config, kept), path, step)
        result.written.append(path.name)
        if rows := self._measured.reporting:
            with open_checkpoint(path) as written:
                result.merged = losses_of(self._learner.frozen(written), self._objective, rows).mean


def _note(trained: TrainingResult, result: TuneResult) -> None:
    result.steps, result.tokens = trained.steps, trained.tokens
    result.written.append("metrics.jsonl")
    if trained.kept is None:
        return
    result.change, result.evaluations = trained.change, trained.evaluations
    result.kept, result.why, result.chosen = trained.kept[0], trained.why, trained.chosen
    result.notes += what_did_not_help(trained, "model")


def _parameters(options: TuneOptions, result: TuneResult) -> dict[str, Any]:
    lora = {} if options.full else {"rank": options.lora.rank, "targets": list(options.lora.targets)}
    blocks = {} if options.blocks is None else {"blocks": list(options.blocks)}
    done = {"steps": result.steps, "tokens": result.tokens}
    return {"full": options.full, **blocks, **done, "seed": options.seed, **lora}


def _summary(options: TuneOptions, result: TuneResult) -> str:
    how = "All weights tuned" if options.full else "Tuned with low-rank adapters (LoRA)"
    if options.blocks is not None:
        first, last = options.blocks
        how = f"Blocks {first} to {last} tuned" if first < last else f"Block {first} tuned"
    of = f"{result.examples} examples"
    if 0 < result.passes < 1:
        of = f"about {max(1, round(result.passes * result.examples))} of {of}"
    return f"{how} on {of}, {result.tokens} tokens of answers in {result.steps} steps."


def _settings(options: TuneOptions, result: TuneResult) -> list[str]:
    """What it takes to do it again, where something was learned."""
    if result.learning_rate is None:
        return []
    how = ""
    if options.adapter is not None:
        how = f"gone on from {options.adapter.name}, "
    elif not options.full:
        lora = options.lora
        how = f"rank {lora.rank}, alpha {2.0 * lora.rank if lora.alpha is None else lora.alpha:g}, "
        how += "rank-stabilized, " if lora.stabilized else ""
    step = f"{result.rows} rows of {options.context} tokens a step"
    return [f"Settings: {how}learning rate {result.learning_rate:g}, {step}, seed {options.seed}."]
