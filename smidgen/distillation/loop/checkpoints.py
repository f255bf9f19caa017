"""What an interrupted training needs to go on as if nothing had happened: safetensors and JSON, never pickle.

A checkpoint is one file that takes its name in one step (`atomic`), so that a crash, a full disk or a power cut leaves
the one before. The best tensors so far are a file of their own, written only when they change.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from smidgen.formats.workspace import Workspace

_LAST, _BEST = "checkpoint", "best"
_TENSOR, _OPTIMIZER, _AVERAGE, _RANDOM = "tensor/", "optimizer/", "average/", "random"


@dataclass(frozen=True)
class Snapshot:
    """A training between two steps.

    progress: plain data: the step that comes next, what was counted and measured.  tensors: what is trained.
    optimizer: its state by name.  average: of the tensors, if there is one.  random: the state of torch's random
    numbers.
    """

    progress: dict[str, Any]
    tensors: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    average: dict[str, Tensor]
    random: Tensor


class Checkpoints:
    """The folder of one training.

    fingerprint: what the training depends on. Raises SmidgenError where `resume` finds another one's files, with the
    setting that differs.  writes: whether this process does; where several train together, one.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], *, resume: bool, writes: bool = True) -> None:
        if writes:
            self._workspace = (Workspace.resume if resume else Workspace.start)(folder, fingerprint)
        else:  # another process of the team does it
            self._workspace = Workspace(folder)
        self.best = BestOnDisk(self._workspace, writes=writes)

    def save(self, snapshot: Snapshot) -> None:
        """Replace the checkpoint. Raises SmidgenError where it cannot be written; the one before stays."""
        tensors = {_TENSOR + name: value.detach().cpu() for name, value in snapshot.tensors.items()}
        tensors |= {_OPTIMIZER + name: value.detach().cpu() for name, value in snapshot.optimizer.items()}
        tensors |= {_AVERAGE + name: value.detach().cpu() for name, value in snapshot.average.items()}
        self._workspace.save_tensors(
            _LAST, tensors | {_RANDOM: snapshot.random}, {"progress": json.dumps(snapshot.progress)}
        )

    def load(self) -> Snapshot | None:
        """The checkpoint, or None where there is none yet."""
        if not self._workspace.has(_LAST):
            return None
        found = self._workspace.load_tensors(_LAST)

        def under(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}

        progress = json.loads(self._workspace.notes(_LAST)["progress"])
        return Snapshot(progress, under(_TENSOR), under(_OPTIMIZER), under(_AVERAGE), found[_RANDOM])

    def finish(self) -> None:
        """Remove the folder: the training is done."""
        self._workspace.finish()


class Best(Protocol):
    """Keeps the tensors that were evaluated best.

    found: before which step that was, and what came out; None before the first evaluation.
    """

    @property
    def found(self) -> tuple[int, float] | None: ...

    def keep(self, tensors: Mapping[str, Tensor], step: int, value: float) -> None:
        """These are better."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What was kept last."""
        ...


class BestInMemory:
    """Where there is no folder."""

    def __init__(self) -> None:
        self.found: tuple[int, float] | None = None
        self._tensors: dict[str, Tensor] = {}

    def keep(self, tensors: Mapping[str, Tensor], step: int, value: float) -> None:
        """Copy them."""
        if self._tensors:
            for name, tensor in tensors.items():
                self._tensors[name].copy_(tensor)
        else:
            self._tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self.found = step, value

    def tensors(self) -> dict[str, Tensor]:
        """The copies."""
        return self._tensors


class BestOnDisk:
    """In the folder of the training. A resumed one finds what an interrupted one kept."""

    def __init__(self, workspace: Workspace, *, writes: bool) -> None:
        self._workspace, self._writes = workspace, writes
        self.found: tuple[int, float] | None = None
        if workspace.has(_BEST):
            notes = workspace.notes(_BEST)
            self.found = int(notes["step"]), float(notes["value"])

    def keep(self, tensors: Mapping[str, Tensor], step: int, value: float) -> None:
        """Write them."""
        if self._writes:
            notes = {"step": str(step), "value": repr(value)}
            self._workspace.save_tensors(_BEST, {name: tensor.cpu() for name, tensor in tensors.items()}, notes)
        self.found = step, value

    def tensors(self) -> dict[str, Tensor]:
        """Read them."""
        return self._workspace.load_tensors(_BEST)
