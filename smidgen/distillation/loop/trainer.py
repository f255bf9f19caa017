"""The training loop: for every kind of trainee, objective and text.

One step reads one batch, in micro-batches of a few rows whose gradients add up, so that memory depends on those alone.
The loss is divided by the weight of the whole batch, not row by row, or tokens of short rows would count more.
Gradients are clipped to a global norm (Pascanu et al. 2013, arXiv:1211.5063).

A training is a function of its options, its batches and where it starts: stopped and resumed from a checkpoint it ends
in the same bytes, on a CPU and unless it is limited by time.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from smidgen.distillation.loop.average import Average
from smidgen.distillation.loop.checkpoints import Best, BestInMemory, Checkpoints, Snapshot
from smidgen.distillation.loop.metrics import JsonLines, Writer, peak_operations, training_operations
from smidgen.distillation.loop.optimizer import Optimizer, OptimizerKind, Schedule, schedule_factor
from smidgen.distillation.loop.pace import Pace
from smidgen.distillation.loop.watch import Change, Losses, Watch
from smidgen.distillation.students.trainee import Objective, Trainee
from smidgen.distillation.team.team import Alone, Team, writer_first
from smidgen.distillation.text.batch import Batch, Batches
from smidgen.errors import SmidgenError, printable
from smidgen.progress import Task, track
from smidgen.stopping import Stopped, Wish, between_steps

# Of the options, those that a resumed training may have otherwise: they do not change what comes out, but for the order
# in which numbers are added up.
_FREE = ("checkpoint_every", "rows_at_once", "gradient_checkpointing")


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    steps: batches to learn from.  learning_rate: at its highest.  warmup: share of the training in which it rises.
    schedule, floor: how it falls afterwards, and to which share of the highest.  clip: largest norm of the gradient.
    rows_at_once: rows of a batch that are computed together; None for all.  checkpoint_every: steps; 0 for never.
    average_over: steps of whose tensors the average is what is evaluated and kept; 0 for the tensors as they are.
    seconds: stop before they are used up; the schedule of the learning rate then ends with the time.
    bf16: for whoever makes the objective: compute layers in bfloat16; None where that is quick.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup: float = 0.05
    schedule: Schedule = "cosine"
    floor: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    optimizer: OptimizerKind = "adamw"
    rows_at_once: int | None = None
    bf16: bool | None = None
    gradient_checkpointing: bool = False
    checkpoint_every: int = 0
    average_over: int = 0
    seed: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class TrainingResult:
    """What came of a training.

    steps: that were done.  tokens: positions that were learned from.  loss: of the last step; None without a step.
    evaluations: step before which, and what came out; the lower the better.  kept: the one of them whose tensors the
    trainee has now, for a reason (`why`), `chosen` as the best or not.  change: on what chose nothing, from the start
    to what was kept; None where nobody asks.
    stopped: "steps" where all were done, "seconds" or "patience".
    """

    steps: int
    tokens: int
    seconds: float
    loss: float | None
    evaluations: Sequence[tuple[int, float]]
    kept: tuple[int, float] | None
    stopped: str
    change: Change | None = None
    why: str = ""
    chosen: bool = False


def what_did_not_help(trained: TrainingResult, trainee: str) -> list[str]:
    """A line where what was learned has not made a model better; or no line.  trainee: model, student."""
    if trained.kept is not None and trained.kept[0] == 0 and trained.steps:
        return [f"Nothing learned helped on held-out text: what was written is the {trainee} as it was."]
    if trained.change is not None and trained.change.is_worse:
        return [f"The {trainee} got worse on held-out text. Give more text, fewer steps, or a lower learning rate."]
    return []


@dataclass
class _State:
    """What changes from step to step, beside tensors."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float | None = None
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    before: Losses | None = None

    @classmethod
    def of(cls, progress: Mapping[str, Any]) -> "_State":
        """From a checkpoint's JSON."""
        evaluations, before = [(step, value) for step, value in progress["evaluations"]], progress.get("before")
        before = None if before is None else Losses(**{name: tuple(values) for name, values in before.items()})
        return cls(**{**progress, "evaluations": evaluations, "before": before})


@runtime_checkable
class Rated(Protocol):
    """A trainee whose tensors do not all learn at the same rate."""

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate by tensor name; 1 where absent."""
        ...


@dataclass(frozen=True)
class Reports:
    """Who is told how a training goes.

    label: of the bar.  metrics: file with a line of JSON per step.  writers: who else wants the numbers.
    operations: per token and step; None to count the trainee's own.
    """

    label: str = "Training"
    metrics: Path | None = None
    writers: Sequence[Writer] = ()
    operations: float | None = None


class Trainer:
    """Trains a trainee. With `rates` (`Rated`) it can slow down or speed up single tensors.

    folder: for checkpoints; None to keep none.  fingerprint: what the training depends on beside the options, to refuse
    the checkpoints of another.  watch: None where nobody asks how good it is.  team: the processes that train together.
    """

    def __init__(
        self,
        trainee: Trainee,
        objective: Objective,
        batches: Batches,
        options: TrainingOptions,
        folder: Path | None = None,
        *,
        fingerprint: Mapping[str, Any] | None = None,
        watch: Watch | None = None,
        reports: Reports | None = None,
        team: Team | None = None,
    ) -> None:
        self._trainee, self._objective, self._batches, self._options = trainee, objective, batches, options
        self._folder, self._fingerprint = folder, dict(fingerprint or {})
        self._watch, self._reports = watch, reports or Reports()
        self._team: Team = team or Alone()
        self._team.begin(trainee)
        self._tensors = trainee.tensors()
        self._device = next(iter(self._tensors.values())).device
        rates = trainee.rates() if isinstance(trainee, Rated) else {}
        self._optimizer = Optimizer(self._tensors, options.optimizer, options.weight_decay, rates)
        self._average = Average(self._tensors, options.average_over) if options.average_over else None
        self._state, self._pace = _State(), Pace(options.seconds)
        self._checkpoints: Checkpoints | None = None
        self._best: Best = BestInMemory()
        self._last: Losses | None = None  # evaluation

    def run(self, resume: bool = False) -> TrainingResult:
        """Train to the end.

        Raises SmidgenError where the loss or a gradient is not a number (naming the batch; the last checkpoint stays),
        where a checkpoint cannot be written, or belongs to another training. Raises Stopped, after the step in hand
        and with a checkpoint, where Ctrl-C or SIGTERM has asked for an end.
        """
        torch.manual_seed(self._options.seed)
        self._trainee.decoder.checkpointing = self._options.gradient_checkpointing
        self._open(resume)
        self._pace.go_on_after(self._state.seconds)
        writers = self._open_writers()
        try:
            with (
                between_steps() as wish,
                track(self._reports.label, self._options.steps, most_seconds=self._pace.left()) as task,
            ):
                task.skip(self._state.step)
                stopped = self._loop(task, writers, wish)
        finally:
            for writer in writers:
                writer.close()
        kept = self._put_back_what_is_kept()
        change = self._change()
        self._team.end(self._trainee)
        state, seconds = self._state, self._pace.elapsed()
        return TrainingResult(
            state.step, state.tokens, seconds, state.loss, tuple(state.evaluations), kept, stopped, change,
            "" if self._watch is None else self._watch.why,
            self._watch is not None and self._watch.keep == "best",
        )  # fmt: skip

    def _loop(self, task: Task, writers: Sequence[Writer], wish: Wish) -> str:
        """All steps, until something ends them; returns what."""
        state, options = self._state, self._options
        every = 0 if self._watch is None else self._watch.every
        if not state.evaluations:
            self._measure()
        while state.step < options.steps:
            if number := int(self._team.same(float(wish.number or 0))):
                self._stop(number)
            if self._hopeless():
                return "patience"
            if self._team.same(float(self._pace.is_over())):
                self._measure()
                return "seconds"
            line = self._learn()
            if state.step == options.steps or (every and state.step % every == 0):
                line |= self._measure()
            for writer in writers:
                writer.write(line)
            if options.checkpoint_every and (state.step % options.checkpoint_every == 0 or state.step == options.steps):
                self._save()
            task.describe(_in_words(line))
            task.advance()
        return "steps"

    def _stop(self, number: int) -> None:
        """Somebody wants an end, by this signal."""
        self._save()
        kept = self._checkpoints is not None
        told = "is saved" if kept else "is lost"
        raise Stopped(number, f"Stopped after step {self._state.step} of {self._options.steps}, which {told}.", kept)

    def _learn(self) -> dict[str, Any]:
        """One step; returns what is to be reported of it."""
        state, options, began = self._state, self._options, time.monotonic()
        batch = self._batches.batch(state.step)
        sums = self._team.total(self._gradients(batch))
        tokens, positions, weight = sums.pop("tokens"), sums.pop("positions"), batch.weight()
        means = {name: value / weight for name, value in sums.items()}
        norm = self._gradient_norm()
        self._refuse_numbers_gone_wrong(batch, means["loss"], norm)
        self._clip(norm)
        share = max((state.step + 1) / options.steps, self._team.same(self._pace.share()))
        rate = options.learning_rate * schedule_factor(options.schedule, share, options.warmup, options.floor)
        self._optimizer.step(rate)
        if self._average is not None:
            self._average.add(state.step + 1)
        seconds = time.monotonic() - began
        self._pace.stepped(seconds)
        state.step, state.tokens = state.step + 1, state.tokens + int(tokens)
        state.seconds, state.loss = self._pace.elapsed(), means["loss"]
        return {
            "step": state.step, **means, "learning_rate": rate, "grad_norm": norm, "tokens": int(tokens),
            "tokens_per_s": round(tokens / seconds, 1),
            "share_of_peak": self._share_of_peak(batch, positions / seconds), "seconds": round(state.seconds, 3),
        }  # fmt: skip

    def _gradients(self, batch: Batch) -> dict[str, float]:
        """Put the gradients of a batch into the tensors; returns sums over what this process has read of it."""
        weight = batch.weight()
        if not weight > 0:
            where = f"{_named(batch)} (step {self._state.step + 1})"
            raise SmidgenError(f"There is nothing to learn from in {where}. Leave it out.")
        mine = self._team.share(batch)
        rows = mine.ids.shape[0]
        at_once = self._options.rows_at_once or rows
        sums = {"loss": 0.0, "tokens": 0.0, "positions": 0.0}
        self._trainee.prepare()
        for start in range(0, rows, at_once):
            part = mine.rows(slice(start, start + at_once)).to(self._device)
            loss, more = self._objective(self._trainee.decoder, part)
            (loss / weight).backward()
            counts = {"tokens": float((part.weights > 0).sum()), "positions": float(part.ids.numel())}
            for name, value in {**more, "loss": float(loss.detach()), **counts}.items():
                sums[name] = sums.get(name, 0.0) + value
        self._trainee.collect()
        self._team.add_up(self._tensors)
        return sums

    def _gradient_norm(self) -> float:
        """Of all tensors together."""
        gradients = [tensor.grad for tensor in self._tensors.values() if tensor.grad is not None]
        return float(self._team.whole(torch.nn.utils.get_total_norm(gradients)))

    def _clip(self, norm: float) -> None:
        if self._options.clip and norm > self._options.clip:
            for tensor in self._tensors.values():
                if tensor.grad is not None:
                    tensor.grad.mul_(self._options.clip / norm)

    def _refuse_numbers_gone_wrong(self, batch: Batch, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        what = f"The loss is {loss}" if not math.isfinite(loss) else f"The norm of the gradient is {norm}"
        kept = "" if self._checkpoints is None else f" The last checkpoint is in {printable(self._folder)}."
        raise SmidgenError(
            f"{what} at step {self._state.step + 1}, in {_named(batch)}.{kept} "
            "Look at that text, or train with a lower learning rate."
        )

    def _share_of_peak(self, batch: Batch, positions_per_s: float) -> float:
        """Model FLOPs utilisation, 0 to 1."""
        operations = self._reports.operations or training_operations(self._trainee.decoder.config, batch.ids.shape[1])
        return round(operations * positions_per_s / (self._team.size * peak_operations(self._device)), 4)

    def _hopeless(self) -> bool:
        best = self._best.found
        if self._watch is None or not self._watch.patience or best is None:
            return False
        return sum(step > best[0] for step, _ in self._state.evaluations) >= self._watch.patience

    @torch.no_grad()
    def _measure(self) -> dict[str, float]:
        """Evaluate, unless that was just done, and keep the tensors if they are the best so far and that is wanted."""
        state, watch = self._state, self._watch
        if watch is None or (state.evaluations and state.evaluations[-1][0] == state.step):
            return {}
        began = time.monotonic()
        with nullcontext() if self._average is None else self._average.in_place():
            self._trainee.prepare()
            self._last = watch.evaluate()
            value = self._team.same(self._last.mean)
            if math.isnan(value):
                raise SmidgenError(
                    f"The evaluation after step {state.step} gives {value}. Train with a lower learning rate."
                )
            if not state.evaluations and watch.report is not None:
                state.before = watch.report()
            elif not state.evaluations and watch.keep == "last":
                state.before = self._last
            state.evaluations.append((state.step, value))
            if watch.keep == "best" and (self._best.found is None or value < self._best.found[1]):
                self._best.keep(self._whole_tensors(), state.step, value)
        self._pace.evaluated(time.monotonic() - began)
        return {"evaluation": value}

    def _put_back_what_is_kept(self) -> tuple[int, float] | None:
        """Give the trainee the tensors that are kept, if it has not got them, and make its decoder fit them."""
        kept = self._best.found
        if self._watch is not None and self._watch.keep == "last":
            kept = self._state.evaluations[-1]
            if self._average is not None:
                self._average.take_their_place()
        elif kept is not None and (kept[0] != self._state.step or self._average is not None):
            self._fill(self._best.tensors())
        self._trainee.prepare()
        return kept

    @torch.no_grad()
    def _change(self) -> Change | None:
        """From the start to what is kept, on what chose nothing."""
        watch, before = self._watch, self._state.before
        if watch is None or before is None:
            return None
        if watch.report is not None:
            return Change.between(before, watch.report())
        # a training that was resumed at its end has not evaluated yet
        return Change.between(before, self._last or watch.evaluate())

    def _open(self, resume: bool) -> None:
        """Find the checkpoint to go on from, if there is one."""
        if self._folder is None:
            return
        options = {name: value for name, value in asdict(self._options).items() if name not in _FREE}
        writes = self._team.writes
        fingerprint = {**options, **self._fingerprint}
        make = partial(Checkpoints, self._folder, fingerprint, resume=resume, writes=writes)
        self._checkpoints = writer_first(self._team, make)
        self._best = self._checkpoints.best
        snapshot = self._checkpoints.load()
        if snapshot is not None:
            self._state = _State.of(snapshot.progress)
            self._fill(snapshot.tensors)
            self._optimizer.load({name: self._part_of_state(name, value) for name, value in snapshot.optimizer.items()})
            if self._average is not None:
                self._average.load(
                    {name: self._team.part(mean, self._tensors[name]) for name, mean in snapshot.average.items()}
                )
            torch.set_rng_state(snapshot.random)

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        tensors = self._whole_tensors()
        state = {name: self._team.whole(value) for name, value in self._optimizer.state().items()}
        means = {} if self._average is None else self._average.state()
        average = {name: self._team.whole(mean) for name, mean in means.items()}
        if self._team.writes:
            self._checkpoints.save(Snapshot(asdict(self._state), tensors, state, average, torch.get_rng_state()))

    def _open_writers(self) -> list[Writer]:
        if not self._team.writes:
            return []
        metrics = self._reports.metrics
        lines = [] if metrics is None else [JsonLines(metrics, self._state.step)]
        return [*lines, *self._reports.writers]

    def _whole_tensors(self) -> dict[str, Tensor]:
        return {name: self._team.whole(tensor) for name, tensor in self._tensors.items()}

    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self._tensors.items():
            tensor.detach().copy_(self._team.part(values[name], tensor))

    def _part_of_state(self, name: str, value: Tensor) -> Tensor:
        """Of what the optimizer keeps of a tensor; numbers such as its steps are not divided."""
        tensor = self._tensors[name.rpartition("/")[0]]
        return self._team.part(value, tensor) if value.shape == tensor.shape else value


def _named(batch: Batch) -> str:
    return printable(batch.name) if batch.name else "a batch without a name"


def _in_words(line: Mapping[str, Any]) -> str:
    """The few numbers that somebody watches."""
    share = line["share_of_peak"]  # above 1 where the machine was busy while its peak was measured
    peak = f", {100 * share:.0f}% of the processor's peak" if share is not None and share <= 1 else ""
    return f"loss {line['loss']:.3f}, {line['tokens_per_s']:.0f} tokens/s{peak}"
