"""A folder in Hugging Face layout as a checkpoint, and as the GGUF file that a conversion of it would be.

Weights stay where they are and are decoded on demand. `FolderAsGGUF` answers what a GGUF file would be asked (metadata
with the tokenizer, tensors with their types, packed bytes), so that cutting, measuring and converting know one kind of
model only.
"""

import os
import re
from collections.abc import Collection
from functools import cached_property
from math import prod
from typing import Any, Self

import numpy as np

from smidgen.errors import Unsupported, printable
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.gguf.reader import DEFAULT_ALIGNMENT, MetadataValue, TensorInfo
from smidgen.formats.gguf.vocabulary import PHI3_NAMES, PHI3_TOKENS
from smidgen.formats.gguf.writer import gguf_types
from smidgen.formats.hf.contents import FolderContents, describe_folder
from smidgen.formats.hf.folder import HFFolder
from smidgen.formats.hf.safetensors_reader import F64, StoredTensor, narrowed
from smidgen.formats.hf.tokenizer import tokenizer_metadata
from smidgen.model.families import Transform
from smidgen.model.parameters import is_matrix
from smidgen.model.tokenizers.text_rules import STRIP_RIGHT
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.progress import say_once

_PHI3 = re.compile("|".join(PHI3_NAMES), re.IGNORECASE)


class FolderCheckpoint(Checkpoint):
    """A model in Hugging Face layout."""

    def __init__(self, folder: HFFolder, contents: FolderContents) -> None:
        super().__init__(folder.path, contents.family, contents.config, contents.layout)
        self.folder = folder
        self._contents = contents

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Maps a folder's weights, once it is known to hold exactly the parameters of its configuration.

        Raises BadFile and Unsupported as `formats.hf.contents.describe_folder`.
        """
        folder = HFFolder.open(path)
        try:
            contents = describe_folder(folder)
        except BaseException:
            folder.close()
            raise
        return cls(folder, contents)

    @property
    def file(self) -> "FolderAsGGUF":
        """The GGUF file that a conversion would write."""
        return self._as_gguf

    @property
    def tokenizer_metadata(self) -> dict[str, MetadataValue]:
        """As a conversion would write it."""
        return self.tokenizer_header[0]

    @cached_property
    def tokenizer_header(self) -> tuple[dict[str, MetadataValue], dict[str, tuple[int, ...]]]:
        """Values and GGUF value types of what a conversion would write of the tokenizer."""
        return tokenizer_metadata(self.path, self.config.vocabulary)

    @cached_property
    def _as_gguf(self) -> "FolderAsGGUF":
        return FolderAsGGUF(self)

    def close(self) -> None:
        """Lets go of the files."""
        self.folder.close()

    def release(self) -> None:
        """Gives the pages of weights that were read back to the system."""
        self.folder.release()

    def transform(self, name: str) -> Transform:
        """How a parameter stands to the one in the folder."""
        return self.family.hf_transform(name, self._contents.written)

    def packed(self, name: str) -> np.ndarray:
        """As `Checkpoint.packed`; what is stored as float64 as float32, a copy."""
        rows = super().packed(name)
        return narrowed(rows) if self._is_wide(name) else rows

    def _packed_rows(self, name: str, numbers: np.ndarray, columns: tuple[int, int]) -> np.ndarray:
        if not self._is_wide(name):
            return super()._packed_rows(name, numbers, columns)
        return narrowed(super().packed(name)[:, F64.row_bytes(columns[0]) : F64.row_bytes(columns[1])][numbers])

    def _is_wide(self, name: str) -> bool:
        return self._stored(self.layout.places[name].tensor).kind is F64

    def _stored_kind(self, tensor: str) -> BlockType:
        kind = self._stored(tensor).kind
        return types.F32 if kind is F64 else kind

    def _stored_rows(self, tensor: str) -> np.ndarray:
        return self.folder.packed(self._contents.stored[tensor])

    def _stored(self, tensor: str) -> StoredTensor:
        return self.folder.weights[self._contents.stored[tensor]]

    def _hash(self) -> str:
        return self.folder.sha256()


class FolderAsGGUF:
    """What `GGUFFile` answers, for a folder. Matrices keep their 16 or 32 bits, vectors become float32."""

    def __init__(self, checkpoint: FolderCheckpoint) -> None:
        self._checkpoint = checkpoint
        self._layout = checkpoint.family.gguf_layout(checkpoint.config)
        self._architecture, self._vectors = checkpoint.family.to_gguf(checkpoint.config)

    @property
    def alignment(self) -> int:
        """Of the tensors' offsets, in bytes."""
        return DEFAULT_ALIGNMENT

    @property
    def size(self) -> int:
        """Bytes of the folder's weights."""
        return self._checkpoint.folder.nbytes

    @property
    def metadata(self) -> dict[str, MetadataValue]:
        """What the header would say: name, architecture, tokenizer."""
        return self._header[0]

    @property
    def metadata_types(self) -> dict[str, tuple[int, ...]]:
        """The GGUF value types of `metadata`."""
        return self._header[1]

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor by name, those that belong to the configuration first."""
        return self._tensors

    @cached_property
    def _tensors(self) -> dict[str, TensorInfo]:
        found = {name: (vector.shape, types.F32) for name, vector in self._vectors.items()}
        for tensor, members in self._layout.members.items():
            kinds = {self._kind(name) for name in members}
            if len(kinds) > 1:
                raise Unsupported(f"the parts of {tensor} are stored as {sorted(kind.name for kind in kinds)}")
            found[tensor] = (self._layout.shapes[tensor], kinds.pop())
        return {
            name: TensorInfo(name, shape, kind, 0, prod(shape[:-1]) * kind.row_bytes(shape[-1]))
            for name, (shape, kind) in found.items()
        }

    def packed(self, name: str) -> np.ndarray:
        """A tensor's bytes, uint8 [rows, row bytes]."""
        if name in self._vectors:
            return self._vectors[name].reshape(1, -1).view(np.uint8)
        parts = [self._part(member) for member in self._layout.members[name]]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _kind(self, name: str) -> BlockType:
        return self._checkpoint.kind(name) if is_matrix(name) else types.F32

    def _part(self, name: str) -> np.ndarray:
        """One parameter's bytes, rows as GGUF files have them."""
        model, move = self._checkpoint, self._checkpoint.family.gguf_transform(name, self._checkpoint.config)
        if is_matrix(name):
            return move.rows_to_file(model.packed(name))  # the folder's rows stand in the model's order
        values = move.rows_to_file(model.tensor(name).numpy())
        rows = 1 if values.ndim == 1 else len(values)
        return np.ascontiguousarray(values).reshape(rows, -1).view(np.uint8)

    @cached_property
    def _header(self) -> tuple[dict[str, MetadataValue], dict[str, tuple[int, ...]]]:
        model = self._checkpoint
        values: dict[str, Any] = {"general.architecture": model.family.gguf.architecture}
        tokenizer, tokenizer_types = model.tokenizer_header
        name = model.origin.name.rpartition("/")[2]
        strips, tokens = STRIP_RIGHT in tokenizer, tokenizer["tokenizer.ggml.tokens"]
        shown = _name_for_llama_cpp(name, tokens if strips and isinstance(tokens, list) else ())
        if strips and not _PHI3.search(shown):
            say_once(
                f"{printable(name)}: some special tokens swallow the white space after them. smidgen does that; "
                "llama.cpp can do it for the vocabulary of Phi-3 only, and keeps that white space.",
                about=model.path,
            )
        values |= {"general.type": "model", "general.name": shown} | self._architecture
        metadata: dict[str, MetadataValue] = {
            key: np.array(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return metadata | tokenizer, {key: gguf_types(value) for key, value in values.items()} | tokenizer_types


def _name_for_llama_cpp(name: str, stripping: Collection[str]) -> str:
    """What `general.name` may be. llama.cpp reads how special tokens treat white space from it: of a model that is
    called phi3 or phi-3 they swallow what follows, and one called modern-bert needs a mask. A folder's name is no such
    statement, and llama.cpp fails where the tokens for it are missing; so it gets a space there.

    stripping: the vocabulary of a model whose tokens do swallow what follows; of others nothing.
    """
    if all(token in stripping for token in PHI3_TOKENS):
        return name if _PHI3.search(name) else f"{name} (Phi-3)"
    return re.sub(r"(phi)-?(?=3)|(modern)-(?=bert)", lambda word: f"{word[1] or word[2]} ", name, flags=re.IGNORECASE)
