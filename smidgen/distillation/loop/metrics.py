"""How a training goes, for programs (a line of JSON per step), for TensorBoard and trackio, and for whoever waits.

The share of peak is model FLOPs utilisation (PaLM, arXiv:2204.02311, appendix B): the operations that the mathematics
needs (a forward pass, and twice that for the backward pass; what gradient checkpointing computes again is not counted)
over what the machine does at most, which a short matrix product measures.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch

from smidgen.errors import SmidgenError, printable
from smidgen.model.config import ModelConfig
from smidgen.model.operations import forward_operations
from smidgen.numerics.precision import fast_product_dtype

_PROBE, _PROBE_ON_DEVICE = 1024, 8192
_BACKWARD = 2


def training_operations(config: ModelConfig, context: int) -> float:
    """Floating point operations per token of a step of training, over rows of `context` tokens."""
    return (1 + _BACKWARD) * forward_operations(config, context)


@cache
def peak_operations(device: torch.device) -> float:
    """Floating point operations per second of a large matrix product, in the number format that is quickest."""
    on_cpu = device.type == "cpu"
    size = _PROBE if on_cpu else _PROBE_ON_DEVICE
    factor = torch.ones(size, size, dtype=fast_product_dtype() if on_cpu else torch.bfloat16, device=device)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        product = factor @ factor
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


class Writer(Protocol):
    """Somebody else who wants the numbers."""

    def write(self, values: Mapping[str, Any]) -> None:
        """One step's."""
        ...

    def close(self) -> None:
        """There are no more."""
        ...


class JsonLines:
    """`metrics.jsonl`: a line for each step, written at once.

    done: steps that a resumed training does not do again; lines after those are of an earlier attempt and go.
    Raises SmidgenError where it cannot be written.
    """

    def __init__(self, path: Path, done: int = 0) -> None:
        self._path = path
        kept = [line for line in self._lines() if line["step"] <= done] if done else []
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise self._cannot(error) from error
        for line in kept:
            self.write(line)

    def write(self, values: Mapping[str, Any]) -> None:
        """One line."""
        try:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._cannot(error) from error

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()

    def _lines(self) -> list[dict[str, Any]]:
        """Whole lines that are there; a killed process may have left half of one."""
        found = []
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):
                    found.append(json.loads(line))
        return found

    def _cannot(self, error: OSError) -> SmidgenError:
        reason = error.strerror or "the disk may be full"
        return SmidgenError(f"{printable(self._path)} cannot be written ({reason}); check the folder and its disk")


class TensorBoard:
    """Event files that TensorBoard reads, in a folder."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise SmidgenError('TensorBoard is not installed. Get it with: pip install "smidgen[train]"') from error
        self._writer = SummaryWriter(str(folder))

    def write(self, values: Mapping[str, Any]) -> None:
        """A point on every curve."""
        for name, value in _numbers(values).items():
            self._writer.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()


class Trackio:
    """A trackio run, kept on this machine."""

    def __init__(self, project: str, settings: Mapping[str, Any]) -> None:
        try:
            self._trackio: Any = import_module("trackio")
        except ImportError as error:
            raise SmidgenError('trackio is not installed. Get it with: pip install "smidgen[train]"') from error
        self._trackio.init(project=project, config=dict(settings))

    def write(self, values: Mapping[str, Any]) -> None:
        """One step."""
        self._trackio.log(_numbers(values), step=values["step"])

    def close(self) -> None:
        """End the run."""
        self._trackio.finish()


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name != "step" and isinstance(value, int | float)}
