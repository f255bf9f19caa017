"""Writes a safetensors file a piece at a time.

The format (https://github.com/huggingface/safetensors#format) is an 8-byte length, a JSON header and the bare numbers;
its library wants all tensors of a file in memory at once, and copies them, so the few lines that write it are here.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smidgen.atomic import replacing
from smidgen.model.parameters import Shape

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.uint32: "U32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """One tensor of a safetensors file.  pieces: its values in order, when they are written; runs of rows."""

    name: str
    dtype: torch.dtype
    shape: Shape
    pieces: Callable[[], Iterator[Tensor]]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "Stored":
        """A tensor that is in memory."""
        return cls(name, tensor.dtype, tuple(tensor.shape), lambda: iter([tensor]))

    @property
    def nbytes(self) -> int:
        """In the file."""
        return prod(self.shape) * self.dtype.itemsize


def write_safetensors(
    path: Path,
    tensors: Sequence[Stored],
    notes: Mapping[str, str],
    written: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a file, whole or not at all.

    notes: text that goes with it.  written: called with the bytes of each tensor after it.
    Raises SmidgenError where it cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(notes)}
    end = 0
    for stored in tensors:
        start, end = end, end + stored.nbytes
        entry = {"dtype": _NAMES[stored.dtype], "shape": stored.shape, "data_offsets": [start, end]}
        header[stored.name] = entry
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path, 8 + len(text) + end) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for stored in tensors:
            for piece in stored.pieces():
                file.write(piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            written(stored.nbytes)
