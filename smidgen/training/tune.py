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
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from smidgen.bounds import MOST, MOST_THREADS, MOST_WORKERS, several, within
from smidgen.distillation.loop.trainer import Reports, Trainer, TrainingOptions, TrainingResult, Watch
from smidgen.distillation.objectives.losses import LanguageObjective
from smidgen.distillation.students.lattice import LatticeStudent, careful_rate, not_trained, trains_on_lattice
from smidgen.distillation.students.lora import Adapted, LoraOptions
from smidgen.distillation.students.trainee import Plain, Trainee
from smidgen.distillation.team.team import Team, joined, started_again, writer_first
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.adapters import read_adapter, write_gguf_lora, write_peft
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Derived, Part, write_derived
from smidgen.formats.effort import Effort
from smidgen.formats.hub.catalogue import MODEL_FILE, ModelName, model_word
from smidgen.formats.opening import open_checkpoint, open_model
from smidgen.formats.parts import load_decoder
from smidgen.formats.workspace import Workspace
from smidgen.numerics.precision import is_quick
from smidgen.owned import settle
from smidgen.progress import say
from smidgen.publishing.companions import WORK, claim_output, refuse_output, write_tuning_notes
from smidgen.shell import path_of
from smidgen.training.day import bound_to, day_of
from smidgen.training.examples import read_training_examples
from smidgen.training.merging import MergeOptions, fits_in_memory, is_on_lattice, trained_in
from smidgen.training.together import run_together

_CONTEXT = 1024
_TOKENS_AT_ONCE = 4096
_EVALUATIONS, _SAVES = 4, 10
_NEARLY_ALL = 0.99
#: Learning rates: of adapters as in QLoRA (arXiv:2305.14314, table 9), a tenth of it for whole weights.
_RATES = {"lora": 2e-4, "full": 2e-5}


@dataclass(frozen=True)
class TuneOptions:
    """How to tune.

    steps: batches to learn from; None for `epochs` passes over the examples.  learning_rate: None for a usual one.
    batch: rows of `context` tokens that a step learns from, each with as many examples as fit; None for 4, fewer where
    there are few examples.  context: None for 1024, or the model's own if that is shorter.
    lora: of new adapters.  adapter: go on from this one (a folder of PEFT, or adapter.gguf).  full: train all weights.
    merge: write model.gguf with the adapter in it.  on_prompts: learn from questions too.  skip_bad: pass over
    malformed lines.  raw: give prompts with completions to the model as they stand, without its chat template.
    held_out: share of the examples that are kept aside to measure on.
    """

    steps: int | None = None
    epochs: float = 3.0
    learning_rate: float | None = None
    batch: int | None = None
    context: int | None = None
    lora: LoraOptions = field(default_factory=LoraOptions)
    adapter: Path | None = None
    full: bool = False
    merge: bool = False
    on_prompts: bool = False
    skip_bad: bool = False
    raw: bool = False
    held_out: float = 0.05
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        """Raises SmidgenError for options that mean nothing."""
        for name, least, most in (
            ("steps", 1, MOST), ("batch", 1, MOST), ("context", 8, MOST), ("seed", 0, MOST),
            ("threads", 1, MOST_THREADS),
        ):  # fmt: skip
            within(name, getattr(self, name), least, most)
        for name, least, most in (("epochs", 0.01, 1e6), ("learning_rate", 1e-9, 1), ("held_out", 0, 0.9)):
            within(name, getattr(self, name), least, most, whole=False)
        if self.adapter is not None:
            object.__setattr__(self, "adapter", path_of(self.adapter))


@dataclass
class TuneResult:
    """What came of it. Losses are nats per token of answer, on the held-out examples; None where there are none.

    written: names of files in `path`.  after: with the best weights met in training, which are the ones written.
    merged: of model.gguf, opened again.  evaluations: step, and the loss before it.
    """

    path: Path
    written: list[str]
    examples: int = 0
    held_out: int = 0
    steps: int = 0
    tokens: int = 0
    before: float | None = None
    after: float | None = None
    merged: float | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    evaluations: Sequence[tuple[int, float]] = ()

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(
            {
                "path": str(self.path), "written": self.written, "examples": self.examples, "held_out": self.held_out,
                "steps": self.steps, "tokens": self.tokens, "loss_before": self.before, "loss_after": self.after,
                "loss_of_model": self.merged, "seconds": self.seconds, "notes": self.notes,
                "evaluations": self.evaluations,
            }
        )  # fmt: skip

    def figures(self) -> list[str]:
        """The loss before and after, in words."""
        if self.before is None or self.after is None:
            return []
        lines = [f"Loss on {self.held_out} held-out examples: {self.before:.4f} before, {self.after:.4f} after."]
        if self.merged is not None:
            lines.append(f"Loss of model.gguf, read back: {self.merged:.4f}{self._kept()}.")
        return lines

    def _kept(self) -> str:
        """How much of an adapter's gain the model has, where that is less than all."""
        if self.before is None or self.after is None or self.merged is None or self.after >= self.before:
            return ""
        kept = (self.before - self.merged) / (self.before - self.after)
        return f": {100 * max(0.0, kept):.0f}% of what the adapter gained" if kept < _NEARLY_ALL else ""

    def describe(self, model: str) -> str:
        """What a person wants to know at the end, in a few lines."""
        lines = [f"{self.path}: {', '.join(self.written)}, in {self.seconds:.0f} s", *self.notes, *self.figures()]
        folder = model_word(self.path)
        use = folder if "model.gguf" in self.written else f"{model_word(model)} --lora {folder}"
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
    with joined() as team, open_model(model) as checkpoint:
        refuse_output(output, checkpoint.origin)
        options = replace(options, context=_context(checkpoint, options))
        resume = resume or started_again()
        day = day_of(output / WORK, resume, team)
        tuning = _Tuning(checkpoint, files, None if valid is None else Path(valid), options, team, day)
        workspace = tuning.open_workspace(output, resume)
        with Effort(workspace, began=started, notes=team.writes) as effort:
            result = tuning.run(workspace, output, resume)
        if team.writes:
            result.seconds = effort.seconds
            done = [_summary(options, result), *result.figures()]
            write_tuning_notes(output, checkpoint, result.written, done, result.evaluations)
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
    return run_together(partial(tune, model, data, output, options, valid), workers, ray, resume)


def _refuse_contradictions(data: Sequence[Path], options: TuneOptions) -> None:
    if not data and options.adapter is None:
        raise SmidgenError("there is nothing to learn from; give examples with --data FILE.jsonl.")
    if options.full and (options.adapter is not None or options.merge):
        raise SmidgenError("--full trains the model's own weights: leave out --adapter and --merge.")


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
        self, checkpoint: Checkpoint, data: Sequence[Path], valid: Path | None, options: TuneOptions, team: Team,
        day: datetime,
    ) -> None:  # fmt: skip
        self._checkpoint, self._options, self._team = checkpoint, options, team
        self._context, self._day = options.context or _CONTEXT, day
        self._examples = read_training_examples(
            checkpoint, data, valid, context=self._context, on_prompts=options.on_prompts, raw=options.raw,
            skip_bad=options.skip_bad, held_out=options.held_out, seed=options.seed, date=day,
        )  # fmt: skip
        self._objective = LanguageObjective(is_quick(team.device))

    def open_workspace(self, output: Path, resume: bool) -> Workspace:
        """`output/work`, bound to everything that the result depends on."""
        resume = resume or not self._team.writes
        return writer_first(self._team, partial(Workspace.open, output / WORK, self._fingerprint(), resume=resume))

    def run(self, workspace: Workspace, output: Path, resume: bool) -> TuneResult:
        """Train, and write everything but the notes."""
        examples, options, writes = self._examples, self._options, self._team.writes
        if writes:
            claim_output(output, self._checkpoint.origin)
        trainee = self._trainee()
        result = TuneResult(output, [], len(examples.learned), len(examples.held_out), notes=[*examples.notes])
        if examples.learned:
            self._train(trainee, workspace, result, resume)
        if isinstance(trainee, Adapted) and writes:
            self._write_adapter(trainee, result)
        if options.full or options.merge:
            parts = self._parts(trainee, workspace, result, resume)
            if writes:
                self._write_model(parts, result)
        self._team.same(0)  # nobody leaves before all is written
        return result

    def _fingerprint(self) -> dict[str, Any]:
        options = self._options
        settings = {key: value for key, value in asdict(options).items() if key not in ("threads", "merge", "skip_bad")}
        adapter = None if options.adapter is None else str(options.adapter)
        day = bound_to(self._day, self._checkpoint.file.metadata)
        return {
            "model": self._checkpoint.sha256(),
            "data": self._examples.sha256(),
            **settings,
            "adapter": adapter,
            **day,
        }

    def _trainee(self) -> Trainee:
        checkpoint, options = self._checkpoint, self._options
        if options.full:
            quantized = any(trains_on_lattice(checkpoint.kind(name)) for name in checkpoint.names())
            return LatticeStudent(checkpoint) if quantized else Plain(load_decoder(checkpoint))
        if options.adapter is not None:
            adapter = read_adapter(options.adapter, checkpoint)
            return Adapted.continued(load_decoder(checkpoint), adapter, options.lora.dropout)
        return Adapted(load_decoder(checkpoint), replace(options.lora, seed=options.seed))

    # -- training ----------------------------------------------------------------------------------------------------

    def _train(self, trainee: Trainee, workspace: Workspace, result: TuneResult, resume: bool) -> None:
        """Train, and note in `result` how that went."""
        examples, options = self._examples, self._options
        batches, rows = examples.batches(options.batch)
        steps = options.steps or math.ceil(len(batches) * options.epochs / rows)
        say(
            f"{len(examples.learned)} examples in {len(batches)} rows of {self._context} tokens; "
            f"{steps} steps of {rows} rows. {len(examples.held_out)} examples are held out."
        )
        if isinstance(trainee, LatticeStudent):
            rate = careful_rate(steps)
        else:
            rate = _RATES["lora" if isinstance(trainee, Adapted) else "full"]
        training = TrainingOptions(
            steps,
            learning_rate=options.learning_rate or rate,
            rows_at_once=self._rows_at_once(),
            checkpoint_every=max(1, steps // _SAVES),
            seed=options.seed,
        )
        trained = Trainer(
            trainee, self._objective, batches, training, workspace.folder / "training",
            watch=self._watch(trainee, max(1, steps // _EVALUATIONS)),
            reports=Reports("Tuning", result.path / "metrics.jsonl"), team=self._team,
        ).run(resume)  # fmt: skip
        _note(trained, result)
        if isinstance(trainee, LatticeStudent):
            result.notes += not_trained(self._checkpoint)

    def _rows_at_once(self) -> int:
        return max(1, _TOKENS_AT_ONCE // self._context)

    def _watch(self, trainee: Trainee, every: int) -> Watch | None:
        if not self._examples.held_out:
            return None
        return Watch(lambda: self._examples.loss(trainee.decoder, self._objective), every)

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
        checkpoint, examples, options = self._checkpoint, self._examples, self._options
        if not is_on_lattice(checkpoint, trainee):
            return trainee.parts_in(checkpoint)
        if not examples.learned or not fits_in_memory(checkpoint, trainee):
            why = "this machine has not the memory" if examples.learned else "that takes examples (--data)"
            result.notes.append(
                f"Rounded onto the model's types, not trained into them ({why}): that loses most of what an adapter "
                "has learned. Use it beside the model."
            )
            return trainee.parts_in(checkpoint)
        batches, _ = examples.batches(options.batch)
        evaluate = partial(examples.loss, objective=self._objective) if examples.held_out else None
        wanted = MergeOptions(result.steps, self._rows_at_once(), options.seed)
        folder = workspace.step("merging")
        return trained_in(trainee, checkpoint, batches, evaluate, wanted, folder, self._team, resume)

    def _write_model(self, parts: Mapping[str, Part], result: TuneResult) -> None:
        """model.gguf, measured as it was written."""
        summary = _summary(self._options, result)
        step = {"step": "tune", "parameters": _parameters(self._options, result), "summary": summary}
        path = result.path / MODEL_FILE
        write_derived(self._checkpoint, Derived(self._checkpoint.config, parts), path, step)
        result.written.append(path.name)
        if self._examples.held_out:
            with open_checkpoint(path) as written:
                result.merged = self._examples.loss(load_decoder(written), self._objective)


def _note(trained: TrainingResult, result: TuneResult) -> None:
    result.steps, result.tokens = trained.steps, trained.tokens
    result.written.append("metrics.jsonl")
    if trained.best is None:
        return
    result.before, result.after, result.evaluations = trained.evaluations[0][1], trained.best[1], trained.evaluations
    if trained.best[0] == 0:
        result.notes.append("Nothing learned helped on the held-out examples: what was written is the model as it was.")


def _parameters(options: TuneOptions, result: TuneResult) -> dict[str, Any]:
    lora = {} if options.full else {"rank": options.lora.rank, "targets": list(options.lora.targets)}
    return {"full": options.full, "steps": result.steps, "tokens": result.tokens, "seed": options.seed, **lora}


def _summary(options: TuneOptions, result: TuneResult) -> str:
    how = "All weights tuned" if options.full else "Tuned with low-rank adapters (LoRA)"
    return f"{how} on {result.examples} examples, {result.tokens} tokens of answers in {result.steps} steps."
