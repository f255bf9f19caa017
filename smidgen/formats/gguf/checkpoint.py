"""A GGUF file as a checkpoint."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Self

import numpy as np

from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.gguf.contents import describe, tensors_for, without_unread
from smidgen.formats.gguf.reader import GGUFFile, MetadataValue
from smidgen.model.config import ModelConfig
from smidgen.model.families import Family, Transform
from smidgen.numerics.block_types import BlockType

_HASH_BYTES = 2**20


class GGUFCheckpoint(Checkpoint):
    """A model in a GGUF file, or in several that are its parts. Fused queries, keys and values are seen as three."""

    def __init__(self, file: GGUFFile, family: Family, config: ModelConfig) -> None:
        super().__init__(file.path, family, config, family.gguf_layout(config))
        self._file = file

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Maps a file, once it is known to hold exactly the parameters of the configuration that it describes.

        Raises BadFile for a damaged file and missing or wrongly shaped tensors, Unsupported for an unknown
        architecture, features the decoder lacks, and tensors it has no use for.
        """
        file = GGUFFile.open(path)
        try:
            family, config = describe(file)
        except BaseException:
            file.close()
            raise
        tensors = without_unread(family, config, tensors_for(family, file))
        return cls(replace(file, tensors=tensors), family, config)

    @property
    def file(self) -> GGUFFile:
        """The file itself."""
        return self._file

    @property
    def tokenizer_metadata(self) -> Mapping[str, MetadataValue]:
        """All of the header, which the tokenizer's part is in."""
        return self._file.metadata

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def release(self) -> None:
        """Gives the pages of weights that were read back to the system."""
        self._file.release()

    def transform(self, name: str) -> Transform:
        """How a parameter's rows move between the file and the model."""
        return self.family.gguf_transform(name, self.config)

    def _stored_kind(self, tensor: str) -> BlockType:
        return self._file.tensors[tensor].kind

    def _stored_rows(self, tensor: str) -> np.ndarray:
        return self._file.packed(tensor)

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for path in self._file.paths:  # of several parts, as of all of them in one file
            with path.open("rb") as stream:
                while chunk := stream.read(_HASH_BYTES):
                    digest.update(chunk)
        return digest.hexdigest()
