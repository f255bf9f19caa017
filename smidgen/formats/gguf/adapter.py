"""LoRA adapters as GGUF files: what llama.cpp takes with `--lora`. Torch-free.

A file says `general.type` adapter, `adapter.type` lora, the architecture of its model, and `adapter.lora.alpha`; for a
tensor T of the model it has `T.lora_a`, rows (rank, in), and `T.lora_b`, rows (out, rank). llama.cpp adds
alpha / rank · B·A to T; for alpha 0 it takes B·A as it is.
https://github.com/ggml-org/llama.cpp/blob/master/convert_lora_to_gguf.py

llama.cpp trusts such a file, and ends the process over some; here every tensor is compared with the model first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from smidgen.errors import BadFile, printable
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.writer import TensorPlan, gguf_types, write_gguf
from smidgen.model.parameters import Shape
from smidgen.numerics import block_types as types

FILE = "adapter.gguf"
_A, _B = ".lora_a", ".lora_b"
_ALPHA = "adapter.lora.alpha"
LARGEST_RANK = 4096


@dataclass(frozen=True)
class GGUFPair:
    """The two matrices of one tensor. a: (rank, in).  b: (out, rank)."""

    a: np.ndarray
    b: np.ndarray


def write_gguf_adapter(path: Path, architecture: str, name: str, alpha: float, pairs: Mapping[str, GGUFPair]) -> None:
    """Write an adapter. pairs: by the model's tensors, rows as the model's file has them. Stored in float32. Atomic."""
    metadata = {
        "general.architecture": architecture, "general.type": "adapter", "general.name": name, "adapter.type": "lora",
        _ALPHA: float(alpha),
    }  # fmt: skip
    arrays = {
        f"{tensor}{suffix}": np.ascontiguousarray(array, np.float32)
        for tensor, pair in pairs.items()
        for suffix, array in ((_A, pair.a), (_B, pair.b))
    }
    plans = [TensorPlan(tensor, array.shape, types.F32) for tensor, array in arrays.items()]
    metadata_types = {key: gguf_types(value) for key, value in metadata.items()}
    write_gguf(path, metadata, metadata_types, plans, lambda tensor: arrays[tensor].reshape(1, -1).view(np.uint8))


def check_gguf_adapter(file: GGUFFile, architecture: str, shapes: Mapping[str, Shape]) -> tuple[float, list[str]]:
    """alpha, and the model's tensors that an adapter is for.

    architecture, shapes: of the model's file. Raises BadFile, in one line, for a file that is no LoRA adapter, is one
    of another model, or has tensors without their other half or in other than 16 or 32 bits.
    """
    shown, metadata = printable(file.path), file.metadata

    def bad(what: str, advice: str = "give the adapter.gguf that `smidgen tune` wrote for this model") -> NoReturn:
        raise BadFile(f"{shown}: {what}; {advice}")

    if metadata.get("general.type") != "adapter" or metadata.get("adapter.type") != "lora":
        bad("is not a LoRA adapter (general.type and adapter.type do not say so)")
    if metadata.get("general.architecture") != architecture:
        found = printable(metadata.get("general.architecture"), 40)
        bad(f"is an adapter for {found} models, this one is {architecture}")
    alpha = metadata.get(_ALPHA)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < 1e6:
        bad(f"{_ALPHA} is {printable(alpha, 40)}, not a number that makes sense")
    halves = [name for name in file.tensors if not name.endswith("_norm.weight")]  # llama.cpp passes over those
    tensors = list(dict.fromkeys(name.removesuffix(_A).removesuffix(_B) for name in halves))
    if not tensors:
        bad("has no tensors")
    for tensor in tensors:
        if what := _wrong(file, tensor, shapes):
            bad(what)
    return float(alpha), tensors


def _wrong(file: GGUFFile, tensor: str, shapes: Mapping[str, Shape]) -> str | None:
    """What is wrong with the pair of one tensor; None where nothing is."""
    name, a, b = printable(tensor, 60), file.tensors.get(tensor + _A), file.tensors.get(tensor + _B)
    if a is None or b is None:
        return f"{name} needs both {_A[1:]} and {_B[1:]}"
    if tensor not in shapes:
        return f"{name} is not a tensor of the model"
    *leading, rows, columns = (1, *shapes[tensor]) if len(shapes[tensor]) == 1 else shapes[tensor]
    rank = b.shape[-1]
    if (*leading, rank, columns) != a.shape or (*leading, rows, rank) != b.shape:
        return f"{name} is {shapes[tensor]} in the model, which {a.shape} and {b.shape} do not fit"
    if rank > LARGEST_RANK:
        return f"{name} has rank {rank}, more than {LARGEST_RANK}"
    if {a.kind, b.kind} - {types.F32, types.F16, types.BF16}:
        return f"{name} is stored as {a.kind.name} and {b.kind.name}, not as F32, F16 or BF16"
    return None


def adapter_file(path: Path) -> Path:
    """The GGUF file of an adapter: itself, or the one in the folder that `smidgen tune` wrote."""
    if not path.is_dir():
        return path
    if not (path / FILE).exists():
        advice = "give the folder that `smidgen tune` wrote, or convert the adapter with `smidgen tune --adapter`"
        raise BadFile(f"{printable(path)} has no {FILE}; {advice}")
    return path / FILE


def refuse_other_adapter(model: Path, adapter: Path) -> None:
    """Raises BadFile unless `adapter` is a LoRA adapter that fits `model`, both GGUF. Reads the headers alone."""
    with GGUFFile.open(model) as base, GGUFFile.open(adapter) as file:
        shapes = {name: info.shape for name, info in base.tensors.items()}
        check_gguf_adapter(file, str(base.metadata.get("general.architecture")), shapes)
