"""What the quantizer keeps of an unfinished cut, part by part.

A part is one safetensors file with the packed bytes of its matrices; figures about them are in its header.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile
from typing import Any

import torch
from torch import Tensor

from smidgen.calibration.outputs import OutputMoment
from smidgen.errors import BadFile, printable
from smidgen.formats.workspace import Workspace
from smidgen.numerics.block_types import BY_NAME, BlockType
from smidgen.quantization.encode import Encoded
from smidgen.shapes import UInt8


@dataclass(frozen=True)
class Outcome:
    """What is reported of one matrix; the figures are those of `Encoded`."""

    kind: BlockType
    shrinkage: float | None
    rounded_rows: int
    loss: float
    rounding_loss: float
    tokens: int
    effective_tokens: float

    @property
    def compensated(self) -> bool:
        """Whether the errors of all its rows were compensated."""
        return self.shrinkage is not None and self.rounded_rows == 0


class QuantWorkspace(Workspace):
    """A workspace that knows quantized matrices."""

    def save_run(self, name: str, number: int, encoded: Encoded) -> None:
        """Keep some rows of a matrix outside of the blocks, runs in order from 0."""
        self.save(_run(name, number), {name: encoded})

    def has_run(self, name: str, number: int) -> bool:
        """Whether these are there."""
        return self.has(_run(name, number))

    def runs(self, name: str) -> Iterator[UInt8[Tensor, "_rows bytes"]]:
        """The bytes of a matrix, some rows at a time, by canonical name."""
        for part in self._parts(name):
            yield self.load_tensor(part, name)

    def _parts(self, name: str) -> list[str]:
        """The parts that hold a matrix: its block, or the runs of its rows."""
        pieces = name.split(".")
        if pieces[0] == "blocks":
            return [f"block-{pieces[1]}"]
        return list(takewhile(self.has, (_run(name, number) for number in count())))

    def save(self, part: str, encoded: Mapping[str, Encoded]) -> None:
        """Keep the matrices of one part."""
        notes = {name: json.dumps(_figures(matrix)) for name, matrix in encoded.items()}
        self.save_tensors(part, {name: matrix.packed for name, matrix in encoded.items()}, notes)

    def save_outputs(self, index: int, outputs: Mapping[str, OutputMoment]) -> None:
        """Keep what is known of the outputs of one block's matrices, in half the bytes."""
        runs = {f"{name}:{place}": run for name, moment in outputs.items() for place, run in enumerate(moment.runs)}
        self.save_tensors(f"outputs-{index}", {name: run.bfloat16() for name, run in runs.items()})

    def outputs(self, index: int, name: str) -> OutputMoment | None:
        """What `save_outputs` kept of a matrix, by canonical name; None where nothing was.

        Raises BadFile where the folder is that of an earlier version, which kept nothing of any matrix.
        """
        part = f"outputs-{index}"
        if not self.has(part):
            raise BadFile(f"{printable(self.folder)} was begun by another version. Remove it to begin anew.")
        with self._opened(part) as file:
            places = [key for key in file.keys() if key.startswith(f"{name}:")]
            runs = [file.get_tensor(f"{name}:{place}").float() for place in range(len(places))]
        return OutputMoment(runs) if runs else None

    def drop_outputs(self, index: int) -> None:
        """Remove them, once the block is done: they are large."""
        self._path(f"outputs-{index}").unlink(missing_ok=True)

    def packed(self, name: str) -> tuple[BlockType, UInt8[Tensor, "rows bytes"]]:
        """Type and bytes of one matrix, by canonical name."""
        runs = list(self.runs(name))
        return self.outcome(name).kind, runs[0] if len(runs) == 1 else torch.cat(runs)

    def outcome(self, name: str) -> Outcome:
        """What is reported of one matrix."""
        found = [_outcome(self.notes(part)[name]) for part in self._parts(name)]
        return found[0] if len(found) == 1 else _together(found)


def _run(name: str, number: int) -> str:
    return f"{name}-{number}"


def _together(runs: Sequence[Outcome]) -> Outcome:
    """What is reported of a matrix whose rows were encoded in runs."""
    shrinkages = [run.shrinkage for run in runs if run.shrinkage is not None]
    return replace(
        runs[0],
        shrinkage=max(shrinkages, default=None),
        rounded_rows=sum(run.rounded_rows for run in runs),
        loss=sum(run.loss for run in runs),
        rounding_loss=sum(run.rounding_loss for run in runs),
    )


_FIGURES = ("shrinkage", "rounded_rows", "loss", "rounding_loss", "tokens", "effective_tokens")


def _figures(matrix: Encoded) -> dict[str, Any]:
    return {"kind": matrix.kind.name} | {name: getattr(matrix, name) for name in _FIGURES}


def _outcome(text: str) -> Outcome:
    value = json.loads(text)
    return Outcome(BY_NAME[value["kind"]], **{name: value[name] for name in _FIGURES})
