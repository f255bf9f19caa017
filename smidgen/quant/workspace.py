"""The folder `DIR/work` of an unfinished cut: what `--resume` needs, each file whole or absent.

A part is one safetensors file with the packed bytes of its matrices; figures about them are in its header. The hidden
states are kept once, for the block that comes next. Everything is bound to a fingerprint of what the cut depends on, so
that a resumed cut can only be the same cut.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from smidgen.atomic import replacing
from smidgen.errors import SmidgenError
from smidgen.numerics.block_types import BY_NAME, BlockType
from smidgen.quant.encode import Encoded
from smidgen.shapes import UInt8


@dataclass(frozen=True)
class Outcome:
    """What is reported of one matrix.  loss: tr(ΔW H ΔWᵀ) as kept; rounding_loss: of plain rounding."""

    kind: BlockType
    compensated: bool
    loss: float
    rounding_loss: float


class Workspace:
    """Files of one unfinished cut. Make it with `start` or `resume`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def start(cls, folder: Path, fingerprint: Mapping[str, Any]) -> "Workspace":
        """A fresh workspace; what an earlier cut left there is removed."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        workspace = cls(folder)
        workspace.save_json("fingerprint", fingerprint)
        return workspace

    @classmethod
    def resume(cls, folder: Path, fingerprint: Mapping[str, Any]) -> "Workspace":
        """The workspace of the same cut; a fresh one where there is none.

        Raises SmidgenError where it belongs to a cut with other settings, naming one that differs.
        """
        workspace = cls(folder)
        found = workspace.load_json("fingerprint")
        if found is None:
            return cls.start(folder, fingerprint)
        asked = json.loads(json.dumps(fingerprint))
        for key in sorted(found.keys() | asked.keys()):
            if found.get(key) != asked.get(key):
                raise SmidgenError(
                    f"{folder} belongs to a cut with {key} {found.get(key)!r}, now it is {asked.get(key)!r}. "
                    "Resume with the same settings, or leave out --resume to begin anew."
                )
        return workspace

    def finish(self) -> None:
        """Remove the folder: the cut is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- parts -------------------------------------------------------------------------------------------------------

    def has(self, part: str) -> bool:
        """Whether a part is finished."""
        return self._path(part).exists()

    def save(self, part: str, encoded: Mapping[str, Encoded]) -> None:
        """Keep the matrices of one part."""
        figures = {name: _figures(matrix) for name, matrix in encoded.items()}
        tensors = {name: matrix.packed for name, matrix in encoded.items()}
        self._write(part, save(tensors, {name: json.dumps(value) for name, value in figures.items()}))

    def packed(self, name: str) -> tuple[BlockType, UInt8[Tensor, "rows bytes"]]:
        """Type and bytes of one matrix, by canonical name."""
        with safe_open(self._path(_part_of(name)), "pt") as file:
            return _outcome(file.metadata()[name]).kind, file.get_tensor(name)

    def outcome(self, name: str) -> Outcome:
        """What is reported of one matrix."""
        with safe_open(self._path(_part_of(name)), "pt") as file:
            return _outcome(file.metadata()[name])

    # -- states ------------------------------------------------------------------------------------------------------

    def save_states(self, next_block: int, states: Tensor) -> None:
        """Keep the hidden states that enter block `next_block`. Written after that block's predecessor is."""
        self._write("states", save({"states": states}, {"next_block": str(next_block)}))

    def load_states(self) -> tuple[int, Tensor | None]:
        """The block to go on with, and what enters it; (0, None) at the beginning."""
        if not self.has("states"):
            return 0, None
        with safe_open(self._path("states"), "pt") as file:
            return int(file.metadata()["next_block"]), file.get_tensor("states")

    # -- tensors and plain data --------------------------------------------------------------------------------------

    def save_tensors(self, part: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep named tensors."""
        self._write(part, save(dict(tensors)))

    def load_tensors(self, part: str) -> dict[str, Tensor]:
        """What `save_tensors` kept."""
        with safe_open(self._path(part), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}

    def save_json(self, part: str, value: Any) -> None:
        """Keep plain data."""
        with replacing(self.folder / f"{part}.json", 0) as file:
            file.write(json.dumps(value, indent=1).encode())

    def load_json(self, part: str) -> Any | None:
        """What `save_json` kept, or None."""
        path = self.folder / f"{part}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def _path(self, part: str) -> Path:
        return self.folder / f"{part}.safetensors"

    def _write(self, part: str, data: bytes) -> None:
        with replacing(self._path(part), len(data)) as file:
            file.write(data)


def _part_of(name: str) -> str:
    """The part that holds a matrix: its block, or itself."""
    pieces = name.split(".")
    return f"block-{pieces[1]}" if pieces[0] == "blocks" else name


def _figures(matrix: Encoded) -> dict[str, Any]:
    return {
        "kind": matrix.kind.name, "compensated": matrix.compensated,
        "loss": matrix.loss, "rounding_loss": matrix.rounding_loss,
    }  # fmt: skip


def _outcome(text: str) -> Outcome:
    value = json.loads(text)
    return Outcome(BY_NAME[value["kind"]], value["compensated"], value["loss"], value["rounding_loss"])
