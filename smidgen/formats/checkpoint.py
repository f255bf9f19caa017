"""A model's files seen as parameters under their canonical names, decoded only when asked for.

What is common to all kinds of files is here. `formats.gguf.checkpoint` and `formats.hf.checkpoint` say how their kind
stores a parameter, and `formats.opening` finds out which kind a path is; for everything else in smidgen they are alike.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from smidgen.closing import Closing
from smidgen.errors import BadFile, printable
from smidgen.formats.gguf.reader import MetadataValue, TensorInfo
from smidgen.formats.hub.origin import Origin
from smidgen.model.config import ModelConfig
from smidgen.model.families import Family, Layout, Transform
from smidgen.model.parameters import Shape, parameter_shapes
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.shapes import Float, Int

# Packed bytes decoded at once: bounds what decoding needs beyond its result.
_CHUNK_BYTES = 4 * 2**20
_PIECE_VALUES = 2**24  # of one of `pieces`


class GGUFView(Protocol):
    """A model as a GGUF file would hold it: a file's own content, or what a conversion would write."""

    @property
    def metadata(self) -> Mapping[str, MetadataValue]:
        """Everything that the header says."""
        ...

    @property
    def metadata_types(self) -> Mapping[str, tuple[int, ...]]:
        """The GGUF value types of `metadata`."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name, in the order of the file."""
        ...

    @property
    def alignment(self) -> int:
        """Of the tensors' offsets, in bytes."""
        ...

    @property
    def size(self) -> int:
        """Bytes on disk of what was opened."""
        ...

    def packed(self, name: str) -> np.ndarray:
        """A tensor's bytes, uint8 [rows, row bytes]."""
        ...


class Checkpoint(Closing):
    """A model on disk. A context manager; weights come from the memory map as they are asked for.

    path: the file or folder.  family, config: what it is.  layout: where each parameter lies.
    origin: where it is from; by its place alone, unless whoever located it knows more.
    """

    def __init__(self, path: Path, family: Family, config: ModelConfig, layout: Layout) -> None:
        self.path = path
        self.origin = Origin.of_path(path)
        self.family = family
        self.config = config
        self.layout = layout
        self._shapes = parameter_shapes(config)
        self._gguf_layout = family.gguf_layout(config)

    # -- what the kinds of files differ in ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def file(self) -> GGUFView:
        """The model as a GGUF file holds it, or would hold it.

        Raises Unsupported for a folder whose configuration a GGUF file cannot state.
        """

    @property
    @abstractmethod
    def tokenizer_metadata(self) -> Mapping[str, MetadataValue]:
        """What a GGUF file says of the tokenizer and the chat template, whether or not it could hold the model."""

    @abstractmethod
    def release(self) -> None:
        """Gives the pages of weights that were read back to the system."""

    @abstractmethod
    def transform(self, name: str) -> Transform:
        """How a parameter stands to its rows on disk."""

    @abstractmethod
    def _stored_kind(self, tensor: str) -> BlockType: ...

    @abstractmethod
    def _stored_rows(self, tensor: str) -> np.ndarray: ...

    @abstractmethod
    def _hash(self) -> str: ...

    # -- what they have in common ------------------------------------------------------------------------------------

    @property
    def parameters(self) -> int:
        """How many weights the model has; a tied head counts once."""
        return sum(math.prod(shape) for shape in self._shapes.values())

    def sha256(self) -> str:
        """Hash of the files in hexadecimal; read once, then remembered."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        return self._hash()

    def names(self) -> list[str]:
        """Every parameter's canonical name, in the order in which data meets them."""
        return list(self._shapes)

    def gguf_name(self, name: str) -> str:
        """The tensor of a GGUF file that a parameter is in; some share one."""
        return self._gguf_layout.places[name].tensor

    def gguf_members(self, tensor: str) -> list[str]:
        """Canonical names of the parameters that are stacked in a tensor of a GGUF file, in order."""
        return self._gguf_layout.members.get(tensor, [])

    def kind(self, name: str) -> BlockType:
        """How a parameter is stored on disk."""
        return self._stored_kind(self.layout.places[name].tensor)

    def shape(self, name: str) -> Shape:
        """(out, in) for weights, (width,) for norms and biases."""
        return self._shapes[name]

    def packed(self, name: str) -> np.ndarray:
        """A parameter's packed bytes as stored, uint8 [rows, row bytes], rows in the *file's* order (no copy)."""
        place, rows = self.layout.places[name], self._stored_rows(self.layout.places[name].tensor)
        return rows if len(self.shape(name)) == 1 else rows[place.start : place.start + place.rows]

    def tensor(self, name: str) -> Float[Tensor, "..."]:
        """A parameter, decoded to float32, rows in the model's order."""
        shape = self.shape(name)
        if len(shape) > 1:
            return self.rows(name, 0, shape[0])
        values, order = self._decoded(name, np.arange(1)).reshape(shape), self.transform(name).order
        return values if order is None else values[torch.from_numpy(order)]

    def rows(self, name: str, start: int, stop: int) -> Float[Tensor, "rows cols"]:
        """Rows start … stop-1 of a matrix, decoded to float32; no other row is decoded."""
        order = self.transform(name).order
        return self._decoded(name, np.arange(start, stop) if order is None else order[start:stop])

    def pieces(self, name: str) -> Iterator[Float[Tensor, "..."]]:
        """A parameter, decoded to float32, some millions of numbers at a time: runs of rows, or a whole vector.

        Raises BadFile, naming the tensor, at numbers that are not finite.
        """
        shape = self.shape(name)
        if len(shape) == 1:
            yield self.tensor(name)
            return
        step = max(1, _PIECE_VALUES // shape[1])
        for start in range(0, shape[0], step):
            yield self.rows(name, start, min(start + step, shape[0]))

    def gather(
        self, name: str, ids: Int[Tensor, "..."], columns: tuple[int, int] | None = None
    ) -> Float[Tensor, "... cols"]:
        """The rows with these numbers, decoded to float32; each distinct row is decoded once.

        columns: the first of those that are wanted, and the first that is not; of others nothing is read where blocks
        end there, too.
        """
        distinct, places = ids.unique(return_inverse=True)
        wanted = distinct.numpy()
        order = self.transform(name).order
        rows = wanted if order is None else order[wanted]
        if columns is None:
            return self._decoded(name, rows)[places]
        if any(column % self.kind(name).block for column in columns):
            return self._decoded(name, rows)[places][..., slice(*columns)]
        return self._decoded(name, rows, columns)[places]

    def block(self, index: int) -> dict[str, Float[Tensor, "..."]]:
        """State dict of one `Block`, decoded to float32."""
        prefix = f"blocks.{index}."
        return {name.removeprefix(prefix): self.tensor(name) for name in self._shapes if name.startswith(prefix)}

    def _packed_rows(self, name: str, numbers: np.ndarray, columns: tuple[int, int]) -> np.ndarray:
        """Rows by their place on disk, of the type `kind`. A copy out of the read-only map, which torch warns about.

        columns: from one to another, at the ends of blocks.
        """
        kind = self.kind(name)
        return self.packed(name)[:, kind.row_bytes(columns[0]) : kind.row_bytes(columns[1])][numbers]

    def _decoded(
        self, name: str, numbers: np.ndarray, columns: tuple[int, int] | None = None
    ) -> Float[Tensor, "rows cols"]:
        """Rows by their place on disk, decoded in chunks."""
        kind, offset = self.kind(name), self.transform(name).offset
        first, end = (0, self.shape(name)[-1]) if columns is None else columns
        result = torch.empty(len(numbers), end - first)
        for part in _parts(len(numbers), max(1, _CHUNK_BYTES // kind.row_bytes(end - first))):
            result[part] = decode(torch.from_numpy(self._packed_rows(name, numbers[part], (first, end))), kind)
            if not math.isfinite(result[part].sum()):
                self._refuse_unfinite(name, result[part], numbers[part])
        return result.add_(offset) if offset else result

    def _refuse_unfinite(self, name: str, rows: Float[Tensor, "rows cols"], numbers: np.ndarray) -> None:
        """Raises BadFile with the place of the first value that is no finite number. (A sum of large ones may be.)"""
        places = (~rows.isfinite()).nonzero()
        if len(places):
            row, column = (int(one) for one in places[0])
            at = f"[{column}]" if len(self.shape(name)) == 1 else f"[{numbers[row]}, {column}]"
            found = f"the first {float(rows[row, column])} at {at}"
            raise BadFile(
                f"{printable(self.path)}: {self.layout.places[name].tensor} holds values that are not finite numbers, "
                f"{found}; the file is damaged or was badly converted: get it again"
            )


def _parts(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
