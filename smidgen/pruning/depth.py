"""Taking whole layers out: which ones the predictions can do without.

Two measures of a layer. The cheap one is its block influence, 1 − cos(x, y) between what enters it and what leaves it,
averaged over tokens (Men et al. 2024, ShortGPT, arXiv:2403.03853, eq. 1), which is reported only. What decides is its
damage: the KL divergence of the predictions once it is gone (`calibration.effect`).

The search is greedy, as layers stand in for each other: a pair of neighbours is missed more than each alone, or no more
than one. After each removal the candidates are measured again: the neighbours of what went, of which that is hardest to
tell, and those that promised the least added damage when they were last measured, a few at a time, until the best is
below all that the others promised (the accelerated greedy algorithm, Minoux 1978, https://doi.org/10.1007/BFb0006528).
That spares most measurements, and loses nothing as long as the added damage of a layer far off only grows.
The first time every layer is measured.

Where an engine goes by the number of a layer (SmolLM3 has no positions in every fourth), taking out one layer changes
what all later ones are. So a candidate is a run of neighbours without which the file format can still say what each
layer is: one layer where it carries the pattern, else whole periods, or the last layers. Runs compete by their added
damage per layer.

Cost: L candidates run through L/2 layers each and the head, at first; later rounds a few of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from smidgen.calibration.effect import Effect
from smidgen.calibration.walk import advance
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Changed, Derived, Kept
from smidgen.formats.parts import embed, load_block
from smidgen.formats.workspace import Workspace
from smidgen.model.config import ModelConfig
from smidgen.model.families import Family
from smidgen.model.parameters import block_shapes
from smidgen.progress import track
from smidgen.pruning.refit import refit
from smidgen.shapes import Int

_TOKENS = 2048  # of calibration text that candidates are run on
_POSITIONS = 1024  # of these, where the head is asked
_LOT = 4  # candidates measured together before the next ones are thought about
_STATE_BYTES = 2**30  # of the states of candidates that are on their way at the same time

Run = tuple[int, ...]  # neighbours among the layers that are left, by their number in the original


@dataclass(frozen=True)
class DepthPlan:
    """Which layers go. Numbers are those of the original.

    kept: what stays, ascending.  removed: what was taken out together, in this order.
    damage: KL in nats per token on calibration text after each removal, without compensation.
    influence: block influence of every layer.  alone: damage of each candidate taken out of the whole model.
    """

    kept: tuple[int, ...]
    removed: tuple[Run, ...]
    damage: tuple[float, ...]
    influence: tuple[float, ...]
    alone: dict[Run, float]

    def report(self) -> dict[str, Any]:
        """As in the card."""
        gone = sorted(layer for run in self.removed for layer in run)
        return {
            "step": "depth",
            "summary": f"{len(self.influence)} → {len(self.kept)} layers, without {', '.join(map(str, gone))}",
            "layers": len(self.kept),
            "removed": [list(run) for run in self.removed],
            "damage": list(self.damage),
            "block_influence": list(self.influence),
            "damage_alone": {"-".join(map(str, run)): damage for run, damage in self.alone.items()},
        }


def search(
    checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], layers: int, workspace: Workspace
) -> DepthPlan:
    """Which `layers` layers to keep, found on a part of the calibration text `windows`.

    Raises SmidgenError for a number that cannot be, Unsupported where no file could say what is left. Every finished
    round stays in `workspace`.
    """
    config = checkpoint.config
    if not 0 < layers < len(config.layers):
        raise SmidgenError(
            f"{layers} layers cannot be kept of {len(config.layers)}; ask for 1 to {len(config.layers) - 1}."
        )
    checkpoint.family.to_gguf(_config_of(config, range(layers)))  # the last layers may always go, where any may
    sample = _sample(windows)
    found = _Progress.load(workspace) or _Progress(block_influence(checkpoint, sample))
    wanted = len(config.layers) - layers
    with track("Finding the layers that matter least", wanted) as task:
        task.skip(sum(map(len, found.removed)))
        effect = None
        while (room := wanted - sum(map(len, found.removed))) > 0:
            effect = effect or Effect(checkpoint, sample, _POSITIONS)
            found = _remove_one(checkpoint, sample, effect, found, room)
            found.save(workspace)
            task.advance(len(found.removed[-1]))
    return DepthPlan(
        tuple(_left(config, found.removed)), found.removed, found.damage, found.influence, dict(found.alone)
    )


def apply(
    checkpoint: Checkpoint, plan: DepthPlan, windows: Int[Tensor, "windows position"],
    workspace: Workspace, compensate: bool = True,
) -> Derived:  # fmt: skip
    """The model without those layers; what remains is refitted on `windows` where `compensate` says so."""
    config = checkpoint.config
    derived = _config_of(config, plan.kept)
    parts: dict[str, Kept | Changed] = {
        f"blocks.{new}.{name}": Kept(f"blocks.{old}.{name}")
        for new, old in enumerate(plan.kept)
        for name in block_shapes(config.layers[old], config.hidden)
    }
    if compensate:
        with track("Refitting the layers that stay", len(plan.kept)) as task:
            parts |= refit(checkpoint, plan.kept, None, windows, workspace, task)
    return Derived(derived, parts)


@torch.no_grad()
def block_influence(checkpoint: Checkpoint, windows: Int[Tensor, "windows position"]) -> tuple[float, ...]:
    """1 − cos between what enters and what leaves each layer, mean over tokens."""
    states, influences = embed(checkpoint, windows), []
    for index in range(len(checkpoint.config.layers)):
        before = states.clone()
        advance(load_block(checkpoint, index), states)
        checkpoint.release()
        influences.append(1 - float(functional.cosine_similarity(before, states, dim=-1).double().mean()))
    return tuple(influences)


def candidates(family: Family, config: ModelConfig, kept: Sequence[int], most: int) -> list[Run]:
    """Runs of up to `most` of the layers `kept` without which a GGUF file can say what the others are.

    Longer ones are left out once a run of some length may begin anywhere: then those are enough.
    """
    found: list[Run] = []
    for length in range(1, min(most, len(kept) - 1) + 1):
        starts = range(len(kept) - length + 1)
        runs = [
            tuple(kept[start : start + length])
            for start in starts
            if _can_be_said(family, _config_of(config, [*kept[:start], *kept[start + length :]]))
        ]
        found += runs
        if len(runs) == len(starts):
            break
    return found


@torch.no_grad()
def damages(
    checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], effect: Effect,
    kept: Sequence[int], runs: Sequence[Run],
) -> dict[Run, float]:  # fmt: skip
    """KL of the predictions of the layers `kept` without each run of them.

    All go through a layer while it is loaded; each parts from the common states where its run begins.
    """
    states = embed(checkpoint, windows)
    at_once = max(1, _STATE_BYTES // (4 * states.numel()))
    if len(runs) > at_once:
        parts = [runs[start : start + at_once] for start in range(0, len(runs), at_once)]
        return {
            run: damage for part in parts for run, damage in damages(checkpoint, windows, effect, kept, part).items()
        }
    begun: dict[Run, Tensor] = {}
    last = max(run[0] for run in runs)
    for layer in kept:
        begun |= {run: states.clone() for run in runs if run[0] == layer}
        block = load_block(checkpoint, layer)
        for run, own in begun.items():
            if layer not in run:
                advance(block, own)
        if layer < last:
            advance(block, states)
        checkpoint.release()
    return {run: effect.kl(begun.pop(run)) for run in runs}


@dataclass(frozen=True)
class _Progress:
    """What the search knows after some rounds.

    promised: damage that each candidate added when it was last measured.
    """

    influence: tuple[float, ...]
    removed: tuple[Run, ...] = ()
    damage: tuple[float, ...] = ()
    promised: dict[Run, float] = field(default_factory=dict)
    alone: dict[Run, float] = field(default_factory=dict)

    @staticmethod
    def load(workspace: Workspace) -> "_Progress | None":
        found = workspace.load_json("depth")
        if found is None:
            return None
        return _Progress(
            tuple(found["influence"]),
            tuple(tuple(run) for run in found["removed"]),
            tuple(found["damage"]),
            {tuple(run): damage for run, damage in found["promised"]},
            {tuple(run): damage for run, damage in found["alone"]},
        )

    def save(self, workspace: Workspace) -> None:
        pairs = {"promised": list(self.promised.items()), "alone": list(self.alone.items())}
        workspace.save_json(
            "depth", {"influence": self.influence, "removed": self.removed, "damage": self.damage, **pairs}
        )


def _remove_one(
    checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], effect: Effect, found: _Progress, room: int
) -> _Progress:
    """Measure until the best run is known, and take it out."""
    kept = _left(checkpoint.config, found.removed)
    now = found.damage[-1] if found.damage else 0.0
    waiting = candidates(checkpoint.family, checkpoint.config, kept, room)
    close = _neighbours(kept, found.removed)
    promised = {run: -math.inf if close & set(run) else found.promised.get(run, -math.inf) for run in waiting}
    fresh: dict[Run, float] = {}
    while waiting:
        waiting.sort(key=lambda run: promised[run] / len(run))
        if fresh and min(map(_per_layer, fresh.items())) <= promised[waiting[0]] / len(waiting[0]):
            break
        unknown = sum(promised[run] == -math.inf for run in waiting)
        lot, waiting = waiting[: max(_LOT, unknown)], waiting[max(_LOT, unknown) :]
        for run, damage in damages(checkpoint, windows, effect, kept, lot).items():
            fresh[run] = damage - now
    best = min(fresh.items(), key=_per_layer)[0]
    return _Progress(
        found.influence,
        (*found.removed, best),
        (*found.damage, now + fresh[best]),
        {**promised, **fresh},
        found.alone or fresh,
    )


def _per_layer(measured: tuple[Run, float]) -> float:
    return measured[1] / len(measured[0])


def _neighbours(kept: Sequence[int], removed: Sequence[Run]) -> set[int]:
    """The layers before and behind the run that went last."""
    if not removed:
        return set()
    place = sum(layer < removed[-1][0] for layer in kept)
    return set(kept[max(0, place - 1) : place + 1])


def _left(config: ModelConfig, removed: Sequence[Run]) -> list[int]:
    gone = {layer for run in removed for layer in run}
    return [layer for layer in range(len(config.layers)) if layer not in gone]


def _config_of(config: ModelConfig, kept: Sequence[int]) -> ModelConfig:
    return replace(config, layers=tuple(config.layers[layer] for layer in kept))


def _can_be_said(family: Family, config: ModelConfig) -> bool:
    try:
        family.to_gguf(config)
    except Unsupported:
        return False
    return True


def _sample(windows: Int[Tensor, "windows position"]) -> Int[Tensor, "some position"]:
    """Whole windows, evenly spread, of about `_TOKENS` tokens."""
    some = min(len(windows), max(1, _TOKENS // windows.shape[1]))
    return windows[torch.linspace(0, len(windows) - 1, some).round().long()]
