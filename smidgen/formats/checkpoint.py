"""A model file seen as parameters under their canonical names, decoded only when asked for.

Opening checks that the file holds exactly the parameters of the configuration it describes, in the right shapes, before
a single weight is decoded.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from smidgen.errors import BadFile, printable
from smidgen.formats.catalogue import locate
from smidgen.formats.contents import describe
from smidgen.formats.gguf_reader import GGUFFile
from smidgen.model.config import ModelConfig
from smidgen.model.families import Family, Transform
from smidgen.model.parameters import Shape, parameter_shapes
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.shapes import Float, Int

# Packed bytes decoded at once: bounds what decoding needs beyond its result.
_CHUNK_BYTES = 4 * 2**20
_HASH_BYTES = 2**20


class Checkpoint:
    """A GGUF file as a model. A context manager; weights come from the memory map as they are asked for.

    path, file: where it is, and its header and bytes.  family, config: what it is.
    """

    def __init__(self, file: GGUFFile, family: Family, config: ModelConfig) -> None:
        self.file = file
        self.path: Path = file.path
        self.family = family
        self.config = config
        self._shapes = parameter_shapes(config)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Maps a GGUF file and checks every tensor's presence and shape.

        Raises BadFile for a damaged file or missing or wrongly shaped tensors, Unsupported for an unknown architecture,
        features the decoder lacks, and tensors it has no use for.
        """
        file = GGUFFile.open(path)
        try:
            family, config = describe(file)
        except BaseException:
            file.close()
            raise
        return cls(file, family, config)

    def close(self) -> None:
        """Lets go of the file."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def parameters(self) -> int:
        """How many weights the model has; a tied head counts once."""
        return sum(math.prod(shape) for shape in self._shapes.values())

    def sha256(self) -> str:
        """Hash of the whole file in hexadecimal; read once, then remembered."""
        return self._sha256

    def names(self) -> list[str]:
        """Every parameter's canonical name, in the order in which data meets them."""
        return list(self._shapes)

    def gguf_name(self, name: str) -> str:
        """Name of a parameter in the file."""
        return self.family.gguf_name(name)

    def kind(self, name: str) -> BlockType:
        """How a parameter is stored in the file."""
        return self.file.tensors[self.gguf_name(name)].kind

    def shape(self, name: str) -> Shape:
        """(out, in) for weights, (width,) for norms."""
        return self._shapes[name]

    def transform(self, name: str) -> Transform:
        """How a parameter's rows move between the file and the model."""
        return self.family.transform(name, self.config)

    def packed(self, name: str) -> np.ndarray:
        """A parameter's packed bytes as stored, uint8 [rows, row bytes], rows in the *file's* order (no copy)."""
        return self.file.packed(self.gguf_name(name))

    def tensor(self, name: str) -> Float[Tensor, "..."]:
        """A parameter, decoded to float32, rows in the model's order."""
        shape = self.shape(name)
        rows = shape[0] if len(shape) > 1 else 1
        return self.rows(name, 0, rows).reshape(shape)

    def rows(self, name: str, start: int, stop: int) -> Float[Tensor, "rows cols"]:
        """Rows start … stop-1 of a parameter, decoded to float32; no other row is decoded."""
        order = self.transform(name).order
        return self._decoded(name, slice(start, stop) if order is None else order[start:stop])

    def gather(self, name: str, ids: Int[Tensor, "..."]) -> Float[Tensor, "... cols"]:
        """The rows with these numbers, decoded to float32; each distinct row is decoded once."""
        distinct, places = ids.unique(return_inverse=True)
        wanted = distinct.numpy()
        order = self.transform(name).order
        return self._decoded(name, wanted if order is None else order[wanted])[places]

    def block(self, index: int) -> dict[str, Float[Tensor, "..."]]:
        """State dict of one `Block`, decoded to float32."""
        prefix = f"blocks.{index}."
        return {name.removeprefix(prefix): self.tensor(name) for name in self._shapes if name.startswith(prefix)}

    def _decoded(self, name: str, which: slice | np.ndarray) -> Float[Tensor, "rows cols"]:
        """Rows by their place in the file, decoded in chunks."""
        packed, kind = self.packed(name), self.kind(name)
        numbers = np.arange(packed.shape[0])[which]
        result = torch.empty(len(numbers), self.shape(name)[-1])
        for part in _parts(len(numbers), max(1, _CHUNK_BYTES // packed.shape[1])):
            # Indexing by an array copies the rows out of the read-only map, which torch would warn about.
            result[part] = decode(torch.from_numpy(packed[numbers[part]]), kind)
            if not math.isfinite(result[part].sum()):
                what = f"{printable(self.path)}: {self.gguf_name(name)} holds values that are not finite numbers"
                raise BadFile(f"{what}; the file is damaged or was badly converted: get it again")
        return result

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256()
        with self.path.open("rb") as stream:
            while chunk := stream.read(_HASH_BYTES):
                digest.update(chunk)
        return digest.hexdigest()


def load(model: str | os.PathLike[str]) -> Checkpoint:
    """Opens a catalogue name, a .gguf file or a folder that `cut` wrote. A context manager, as `Checkpoint.open`."""
    return Checkpoint.open(locate(model))


def _parts(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
