"""The plan tried before it is carried out: how quick such a file is, and how much memory it takes.

What a file will do on this machine depends on its types and shapes, hardly on its numbers. So a file with the planned
types is written, in which a few rows of each matrix, plainly rounded, stand again and again; and the engine that
measures the result measures this one in the same way. That takes seconds, and what the formulas of `budget` leave out
is in it: short rows, many small matrices, the copies that llama.cpp makes. Limits are corrected by what was found,
until the plan does what was asked.

Such a file is quicker than a real one: by 3 to 5% (SmolLM2 135M; with all rows of all matrices, but in another order,
still by 5%; with zeros by 13%). So that much is taken off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from smidgen.cutting.limits import Limits
from smidgen.cutting.plan import Choice, layout
from smidgen.cutting.quantize import Quantization
from smidgen.cutting.recipe import CutOptions
from smidgen.engines.llama_cpp.bench import measure_speed
from smidgen.errors import BudgetError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.gguf.reader import TensorInfo
from smidgen.formats.gguf.writer import write_gguf
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.progress import say
from smidgen.quantization.compensate import compensate
from smidgen.sizes import format_size

_TRIES = 5
_SPARE = 0.01  # of what was asked: two measurements differ by as much
_ENOUGH = 0.04  # better than that by more is worth another plan
_BINDING = 0.98  # of a limit that is used up, so that a wider one would be used
_MISSED = 0.05  # that the best plan may be worse than what was asked
_REPEATS = 3
_INSIDE = 0.15  # of the way between two trials, at least, where the next one is
_ROWS = 256
_QUICKER = 1.04  # than the real model


@dataclass(frozen=True)
class Rehearsed:
    """tokens_per_s: None where the machine was too busy.

    sentence: what was in the way of measuring; None where nothing was.
    """

    tokens_per_s: float | None
    resident_bytes: int
    sentence: str | None

    def describe(self) -> str:
        """For people."""
        speed = "" if self.tokens_per_s is None else f"decodes {self.tokens_per_s:.1f} tokens/s and "
        return f"{speed}takes {format_size(self.resident_bytes)} of memory"


def rehearse(checkpoint: Checkpoint, choices: list[Choice], folder: Path, options: CutOptions) -> Rehearsed:
    """Measure a file of these types and no meaning, which is written into `folder` and removed again.

    It is run with the threads of `options`, and keeps keys and values as they say.
    """
    path = folder / "rehearsal.gguf"
    planned = layout(checkpoint, {choice.name: choice.kind for choice in choices})
    encoded = {choice.name: choice.kind for choice in choices if not choice.keep}

    def packed(tensor: str) -> np.ndarray:
        checkpoint.release()
        stored = checkpoint.file.packed(tensor)
        return stored if tensor not in encoded else _filled(stored, checkpoint.file.tensors[tensor], encoded[tensor])

    try:
        write_gguf(path, planned.metadata, planned.metadata_types, planned.tensors, packed)
        (found,) = measure_speed([path], options.threads, repeats=_REPEATS, contexts=(), kv=[options.kv])
    finally:
        path.unlink(missing_ok=True)
    sentence = found["busy"]["sentence"] if found["reason"] is None else f"It could not be timed: {found['reason']}."
    rate = found["decode_tokens_per_s"]
    return Rehearsed(None if rate is None else rate / _QUICKER, found["resident_bytes"], sentence)


def _filled(stored: np.ndarray, info: TensorInfo, kind: BlockType) -> np.ndarray:
    """A matrix of a type, made of a few of its rows.  stored: its bytes as they are."""
    some = decode(torch.from_numpy(np.array(stored[:_ROWS])), info.kind)
    rounded = compensate(some, kind, torch.ones(info.shape[-1])).numpy()
    return np.resize(rounded, (len(stored), rounded.shape[1]))


def settle_plan(
    plan: Callable[[Limits], Quantization], limits: Limits, options: CutOptions, folder: Path
) -> tuple[Quantization, Limits, Rehearsed]:
    """The plan that does what was asked when it is tried, the limits it was made with, and what it did.

    plan: makes one within limits.
    Raises BudgetError where none does, within 5%, and says what the best one did.
    """
    best: tuple[Quantization, Limits, Rehearsed] | None = None
    seconds: list[tuple[float, float]] = []
    for _ in range(_TRIES):
        try:
            planned = plan(limits)
        except BudgetError:  # so the limits that were corrected cannot be kept to
            if best is None:
                raise
            break
        found = rehearse(planned.checkpoint, planned.choices, folder, options)
        say(f"Tried with weights of no meaning: the planned file {found.describe()}.")
        if best is None or _short(found, options) < _short(best[2], options) or _short(found, options) <= 0:
            best = planned, limits, found
        if found.tokens_per_s is not None:
            seconds.append((planned.seconds, 1 / found.tokens_per_s))
        corrected = _corrected(planned, limits, found, options, seconds)
        if corrected is None:
            break
        limits = corrected
    assert best is not None
    refuse_missed(best[2], options)
    return best


def refuse_missed(found: Rehearsed, options: CutOptions, what: str = "The best plan") -> None:
    """Raises BudgetError where a plan that was tried is worse than what was asked by more than 5%."""
    if options.speed is not None and found.tokens_per_s is not None:
        if found.tokens_per_s < (1 - _MISSED) * options.speed:
            busy = "" if found.sentence is None else f" {found.sentence}"
            raise BudgetError(
                f"{what} decodes {found.tokens_per_s:.1f} tokens/s here, so --speed {options.speed:g} cannot be had: "
                f"ask for {0.98 * found.tokens_per_s:.3g} or less, or leave out layers or tokens too.{busy}"
            )
    if options.ram is not None:
        if found.resident_bytes > (1 + _MISSED) * options.ram:
            raise BudgetError(
                f"{what} takes {format_size(found.resident_bytes)} of memory here, so --ram {format_size(options.ram)} "
                f"cannot be had: ask for {format_size(int(1.02 * found.resident_bytes))} or more, or leave out layers "
                "or tokens too."
            )


def _short(found: Rehearsed, options: CutOptions) -> float:
    """By which part a plan falls short of what was asked; 0 or less where it does not."""
    short = -1.0
    if options.speed is not None and found.tokens_per_s is not None:
        short = max(short, options.speed / found.tokens_per_s - 1)
    if options.ram is not None:
        short = max(short, found.resident_bytes / options.ram - 1)
    return short


def _corrected(
    planned: Quantization, limits: Limits, found: Rehearsed, options: CutOptions, seconds: Sequence[tuple[float, float]]
) -> Limits | None:
    """Limits with which the next plan comes nearer to what was asked; None where this one is near enough.

    seconds: of all trials so far: predicted for the weights, and measured for a whole token.
    """
    corrected = limits
    if options.ram is not None:
        spare = options.ram - found.resident_bytes
        if spare < 0 or (spare > _ENOUGH * options.ram and planned.size > _BINDING * limits.nbytes):
            corrected = replace(corrected, nbytes=limits.nbytes + spare - int(_SPARE * options.ram))
    pace = limits.pace
    if pace is not None and options.speed is not None and found.tokens_per_s is not None:
        spare = 1 / options.speed - 1 / found.tokens_per_s  # seconds a token
        if spare < 0 or (spare > _ENOUGH / options.speed and planned.seconds > _BINDING * pace.limit):
            limit = _between(seconds, (1 - _SPARE) / options.speed)
            corrected = replace(corrected, pace=replace(pace, limit=limit))
    if options.fit is not None:
        corrected = replace(corrected, nbytes=min(corrected.nbytes, options.fit))
    return None if corrected == limits else corrected


def _between(trials: Sequence[tuple[float, float]], wanted: float) -> float:
    """Predicted seconds whose plan should take `wanted`: between a trial that was quicker and one that was slower,
    where there are both; else as much more or less as the last one missed."""
    quicker = max((trial for trial in trials if trial[1] <= wanted), default=None)
    slower = min((trial for trial in trials if trial[1] > wanted), default=None)
    if quicker is None or slower is None or quicker[0] >= slower[0]:
        predicted, measured = trials[-1]
        return predicted + wanted - measured
    way = (wanted - quicker[1]) / (slower[1] - quicker[1])
    return quicker[0] + min(max(way, _INSIDE), 1 - _INSIDE) * (slower[0] - quicker[0])
