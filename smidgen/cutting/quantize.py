"""The last step of a cut: every matrix into the type that the plan gives it, and the file written.

Survey (what would each type cost?) → plan → quantize block by block → write. All of it is kept in the workspace as it
is finished.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from smidgen.calibration.sample import Sample
from smidgen.calibration.walk import StateShelf
from smidgen.cutting.limits import Limits
from smidgen.cutting.plan import Choice, at_the_bottom, choose, layout, misfitting, refuse_impossible
from smidgen.cutting.portable import are_portable
from smidgen.cutting.reach import to_survey
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.gguf.writer import write_gguf
from smidgen.numerics.block_types import BlockType
from smidgen.quantization.blockwise import quantize
from smidgen.quantization.survey import Survey, survey
from smidgen.quantization.workspace import QuantWorkspace
from smidgen.shapes import Int
from smidgen.sizes import format_size

#: Part of the workspace with what the types cost in the whole model, where that was measured before its vocabulary was
#: trimmed; trimming hardly changes it.
PLANNED_DAMAGE = "planned-damage"


_TENSORS = ("moment", "judges")  # of a sample
_NAMED = 6  # matrices that a line names


@dataclass(frozen=True)
class Quantization:
    """A plan for the types of a model, ready to be carried out.

    windows: to calibrate on.  workspace: what is finished of it.  misfits: lines about rows that fit no type.
    portable: whether every export format can hold it.  damage_of_all: of the best plan with all types, if it is and
    that is known.
    """

    checkpoint: Checkpoint
    choices: list[Choice]
    surveyed: Survey
    windows: Int[Tensor, "windows position"]
    workspace: QuantWorkspace
    misfits: Sequence[str] = ()
    portable: bool = False
    damage_of_all: float | None = None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return layout(self.checkpoint, {choice.name: choice.kind for choice in self.choices}).size

    def write(self, path: Path) -> None:
        """Quantize, and write the file: encoded matrices from the workspace, everything else as it was."""
        checkpoint, workspace = self.checkpoint, self.workspace
        kinds = {name: choice.kind for choice in self.choices if not choice.keep for name in choice.members}
        quantize(checkpoint, kinds, self.surveyed, self.windows, workspace)
        encoded = {choice.name: choice.members for choice in self.choices if not choice.keep}

        def packed(tensor: str) -> Iterator[np.ndarray]:
            checkpoint.release()
            if tensor not in encoded:
                yield checkpoint.file.packed(tensor)
            for name in encoded.get(tensor, ()):
                move = checkpoint.family.gguf_transform(name, checkpoint.config)
                if move.order is None:
                    yield from (rows.numpy() for rows in workspace.runs(name))
                else:
                    yield move.rows_to_file(workspace.packed(name)[1].numpy())

        plan = layout(checkpoint, {choice.name: choice.kind for choice in self.choices})
        write_gguf(path, plan.metadata, plan.metadata_types, plan.tensors, packed)

    def outcomes(self) -> list[dict[str, Any]]:
        """What became of each matrix, for the card. After `write`."""
        tensors: list[dict[str, Any]] = []
        for choice in self.choices:
            entry = {
                "name": choice.name,
                "kind": choice.kind.stored.name,
                "bytes": choice.nbytes,
                "damage": choice.damage,
            }
            if not choice.keep:
                outcomes = [self.workspace.outcome(name) for name in choice.members]
                entry |= {
                    "compensated": all(outcome.compensated for outcome in outcomes),
                    "rounded_rows": sum(outcome.rounded_rows for outcome in outcomes),
                    "loss": _finite(sum(outcome.loss for outcome in outcomes)),
                    "rounding_loss": _finite(sum(outcome.rounding_loss for outcome in outcomes)),
                    "tokens": min(outcome.tokens for outcome in outcomes),
                    "effective_tokens": min(outcome.effective_tokens for outcome in outcomes),
                }
            tensors.append(entry | {"kept": choice.keep})
        return tensors

    def only_rounded(self) -> str:
        """Which matrices are plainly rounded, in whole or in part, for people; empty where none is. After `write`."""
        names = [entry["name"] for entry in self.outcomes() if entry.get("rounded_rows")]
        if not names:
            return ""
        matrices, more = f"{len(names)} matri{'x' if len(names) == 1 else 'ces'}", " …" if len(names) > _NAMED else ""
        return (
            f"Not compensated, or not in all rows, since tokens kept aside lost less by rounding or were too few: "
            f"{matrices} ({', '.join(names[:_NAMED])}{more})."
        )

    @property
    def seconds(self) -> float:
        """That reading the matrices takes for each token; 0 where no speed is asked for."""
        return sum(choice.seconds for choice in self.choices)

    def describe(self, budget: int | None, expected: float) -> str:
        """The plan: how many bytes go into which type, the expected damage of all, and which rows fit no type.

        budget: of bytes; None where no bytes are asked for.
        """
        sizes: dict[str, int] = {}
        for choice in self.choices:
            label = f"{choice.kind.name}{' (as it is)' if choice.keep else ''}"
            sizes[label] = sizes.get(label, 0) + choice.nbytes
        largest = sorted(sizes.items(), key=lambda part: -part[1])
        parts = ", ".join(f"{label} {format_size(nbytes)}" for label, nbytes in largest)
        share = "" if budget is None else f", {100 * self.size / budget:.1f}% of the budget"
        plan = (
            f"Plan: {parts}; file {self.size} bytes{share}. "
            f"Expected KL divergence (estimate): {expected:.3f} nats per token."
        )
        return "\n".join([plan, *self._cost_of_portable(expected), *self.misfits])

    def _cost_of_portable(self, expected: float) -> list[str]:
        """A line with what the best plan with all types would cost; none where all types were to choose from."""
        if not self.portable:
            return []
        if self.damage_of_all is None:
            return [
                f"portable: expected KL {expected:.3f}; with all types it is not known, since a speed was asked for."
            ]
        of_all = expected + self.damage_of_all - sum(choice.damage for choice in self.choices)
        return [f"portable: expected KL {expected:.3f}, {of_all:.3f} with all types."]


def _finite(loss: float) -> float | None:
    """As it can be written: weights may be so large that what they are wrong by is beyond all numbers."""
    return loss if math.isfinite(loss) else None


def plan_types(
    checkpoint: Checkpoint,
    windows: Int[Tensor, "windows position"],
    limits: Limits,
    kinds: Sequence[BlockType],
    seed: int,
    workspace: QuantWorkspace,
) -> Quantization:
    """The types of least damage with which the file keeps to the limits.

    Raises BudgetError, before any work, where there are none.
    """
    refuse_impossible(checkpoint, limits.nbytes, kinds)
    surveyed = surveyed_model(checkpoint, windows, to_survey(checkpoint, kinds, limits), seed, workspace)
    portable = are_portable(kinds)
    chosen = choose(checkpoint, surveyed.damage, limits, portable=portable)
    of_all = None
    if portable and limits.pace is None:
        of_all = sum(choice.damage for choice in choose(checkpoint, surveyed.damage, limits))
    told = misfitting(checkpoint, kinds, at_the_bottom(checkpoint, chosen, kinds))
    return Quantization(checkpoint, chosen, surveyed, windows, workspace, told, portable, of_all)


def surveyed_model(
    checkpoint: Checkpoint,
    windows: Int[Tensor, "windows position"],
    kinds: Sequence[BlockType],
    seed: int,
    workspace: QuantWorkspace,
) -> Survey:
    """The survey, from the workspace where it is done already."""
    damage = workspace.load_json("survey")
    if damage is not None:
        return Survey(damage, workspace.load_tensors("token-weights"), _load_ends(workspace))
    known = workspace.load_json(PLANNED_DAMAGE)
    shelf = StateShelf(workspace.folder)
    surveyed = survey(checkpoint, windows, seed, shelf, kinds if known is None else (), workspace.save_outputs)
    surveyed = surveyed if known is None else replace(surveyed, damage=known)
    workspace.save_tensors("token-weights", surveyed.token_weights)
    _save_ends(workspace, surveyed.ends)
    workspace.save_json("survey", surveyed.damage)
    return surveyed


def _save_ends(workspace: QuantWorkspace, ends: Mapping[str, Sequence[Sample]]) -> None:
    tensors = {
        f"{name}:{place}:{part}": getattr(sample, part)
        for name, samples in ends.items()
        for place, sample in enumerate(samples)
        for part in _TENSORS
    }
    notes = {name: json.dumps([[one.tokens, one.effective] for one in samples]) for name, samples in ends.items()}
    workspace.save_tensors("ends", tensors, notes)


def _load_ends(workspace: QuantWorkspace) -> dict[str, tuple[Sample, ...]]:
    tensors, notes = workspace.load_tensors("ends"), workspace.notes("ends")
    ends: dict[str, tuple[Sample, ...]] = {}
    for name, note in notes.items():
        runs = []
        for place, figures in enumerate(json.loads(note)):
            moment, judges = (tensors[f"{name}:{place}:{part}"] for part in _TENSORS)
            runs.append(Sample(moment, judges, *figures))
        ends[name] = tuple(runs)
    return ends
