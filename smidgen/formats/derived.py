"""A model made from another by leaving parts out or changing them: what every pruning step ends in.

What is left as it was moves as packed bytes and is never decoded; what was changed is stored in 16 bits (32 where the
original has them). The result is a GGUF file like any other, so the next step, and every command, can take it. Its
metadata say what was done to it, step by step (`formats.history`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smidgen.errors import SmidgenError, printable
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.claims import as_ours
from smidgen.formats.gguf.reader import MetadataValue
from smidgen.formats.gguf.writer import STRING_TYPES, TensorPlan, gguf_types, write_gguf
from smidgen.formats.history import HISTORY, with_step
from smidgen.model.config import ModelConfig
from smidgen.model.families import Layout
from smidgen.model.parameters import Shape, parameter_shapes
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.progress import track
from smidgen.shapes import Float, UInt8

_LARGEST_FLOAT16 = 65504.0
_PIECE_BYTES = 2**26  # of a matrix, written at once
_FLOATS = (types.F32, types.F16, types.BF16)


@dataclass(frozen=True)
class Kept:
    """A parameter of the original as it is stored.

    name: canonical, in the original.  rows: which of its rows, in the model's order; None for all. Matrices only.
    """

    name: str
    rows: np.ndarray | None = None


@dataclass(frozen=True)
class Changed:
    """A parameter with new values, asked for once, when it is written.

    kind: F32, F16 or BF16, for a matrix; None for F16, or F32 where the original's embedding has that.
    """

    values: Callable[[], Float[Tensor, "..."]]
    kind: BlockType | None = None


@dataclass(frozen=True)
class Packed:
    """A matrix with new values that are in a block format already: bytes, rows in the model's order. Asked for once."""

    kind: BlockType
    rows: Callable[[], UInt8[Tensor, "rows bytes"]]


Part = Kept | Changed | Packed


@dataclass(frozen=True)
class Tokens:
    """A tokenizer: all metadata keys under `tokenizer.`, and their GGUF types."""

    metadata: Mapping[str, MetadataValue]
    types: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Derived:
    """What to write.

    config: of the new model.  parts: canonical name in the new model → where it comes from; a name that is absent is
    kept under the same name.  tokenizer: None for the original's.  came_of_it: figures for the history, known only now.
    """

    config: ModelConfig
    parts: Mapping[str, Part] = field(default_factory=dict)
    tokenizer: Tokens | None = None
    came_of_it: Mapping[str, Any] = field(default_factory=dict)


def in_their_types(checkpoint: Checkpoint, parts: Mapping[str, Part]) -> dict[str, Part]:
    """Parts of which those with new values are stored as `checkpoint` has them, where that is a type of floats."""
    names = set(checkpoint.names())

    def kept(name: str, part: Part) -> Part:
        if not isinstance(part, Changed) or name not in names or checkpoint.kind(name) not in _FLOATS:
            return part
        return replace(part, kind=checkpoint.kind(name))

    return {name: kept(name, part) for name, part in parts.items()}


def write_derived(checkpoint: Checkpoint, derived: Derived, path: Path, step: Mapping[str, Any]) -> None:
    """Write `derived` as a GGUF file, with `step` added to its history. Atomic, one tensor in memory at a time.

    Raises Unsupported, before anything is written, for a configuration that GGUF cannot hold for this architecture;
    SmidgenError where the file cannot be written, or a new value is beyond float16.
    """
    architecture, vectors = checkpoint.family.to_gguf(derived.config)
    layout = checkpoint.family.gguf_layout(derived.config)
    writer = _Writer(checkpoint, derived, layout, vectors)
    metadata, metadata_types = _header(checkpoint, derived, architecture, step)
    plans = [TensorPlan(name, vector.shape, types.F32) for name, vector in vectors.items()]
    plans += [TensorPlan(name, shape, writer.kind(name)) for name, shape in layout.shapes.items()]
    size = sum(plan.nbytes for plan in plans)
    with track(f"Writing after {step['step']}", size, in_bytes=True) as task:

        def packed(tensor: str) -> Iterator[np.ndarray]:
            for piece in writer.pieces(tensor):
                yield piece
                task.advance(piece.nbytes)
                checkpoint.release()

        write_gguf(path, *as_ours(metadata, metadata_types, plans), plans, packed)


def _header(
    checkpoint: Checkpoint, derived: Derived, architecture: Mapping[str, Any], step: Mapping[str, Any]
) -> tuple[dict[str, MetadataValue], dict[str, tuple[int, ...]]]:
    """The original's metadata, with the new model's settings, tokenizer and history."""
    file, prefix = checkpoint.file, f"{checkpoint.family.gguf.architecture}."
    same = derived.config == checkpoint.config  # then every setting stays as the file says it, to the byte
    replaced = [] if same else [prefix]
    if derived.tokenizer is not None:
        replaced.append("tokenizer.")
    metadata: dict[str, MetadataValue] = {
        key: value for key, value in file.metadata.items() if not key.startswith(tuple(replaced))
    }
    metadata_types = {key: file.metadata_types[key] for key in metadata}
    for key, value in ({} if same else architecture).items():
        metadata[key] = np.array(value) if isinstance(value, list) else value
        metadata_types[key] = gguf_types(value)
    if derived.tokenizer is not None:
        metadata |= derived.tokenizer.metadata
        metadata_types |= derived.tokenizer.types
    metadata[HISTORY], metadata_types[HISTORY] = with_step(file.metadata, {**step, **derived.came_of_it}), STRING_TYPES
    return metadata, metadata_types


class _Writer:
    """The tensors of the new file, from parts of the old one."""

    def __init__(
        self, checkpoint: Checkpoint, derived: Derived, layout: Layout, vectors: Mapping[str, np.ndarray]
    ) -> None:
        self._checkpoint, self._derived, self._layout, self._vectors = checkpoint, derived, layout, vectors
        self._shapes = parameter_shapes(derived.config)
        self._wide = types.F32 if checkpoint.kind("embedding.weight") is types.F32 else types.F16

    def kind(self, tensor: str) -> BlockType:
        """A tensor keeps its type where all of it is kept."""
        members = self._layout.members[tensor]
        if len(self._shapes[members[0]]) == 1:
            return types.F32
        kinds = {self._part_kind(self._part(name)) for name in members}
        return kinds.pop() if len(kinds) == 1 else self._wide

    def _part_kind(self, part: Part) -> BlockType:
        if isinstance(part, Changed):
            return part.kind or self._wide
        return part.kind if isinstance(part, Packed) else self._checkpoint.kind(part.name)

    def pieces(self, tensor: str) -> Iterator[np.ndarray]:
        """A tensor's bytes, uint8 [rows, row bytes], some rows at a time where they are kept as they are."""
        if tensor in self._vectors:
            yield self._vectors[tensor].reshape(1, -1).view(np.uint8)
            return
        kind = self.kind(tensor)
        for name in self._layout.members[tensor]:
            part = self._part(name)
            if isinstance(part, Kept) and self._is_as_it_was(name, part, kind):
                yield from self._kept_pieces(name, part)
            else:
                yield self._rows(name, kind)

    def _is_as_it_was(self, name: str, part: Part, kind: BlockType) -> bool:
        """Whether a matrix's packed rows can be taken as they are."""
        return not isinstance(part, Changed) and len(self._shapes[name]) > 1 and self._part_kind(part) is kind

    def _kept_pieces(self, name: str, part: Kept) -> Iterator[np.ndarray]:
        """Packed rows in the file's order."""
        rows, order = self._checkpoint.packed(part.name), self._checkpoint.transform(part.name).order
        chosen = np.arange(len(rows)) if part.rows is None else part.rows
        chosen = chosen if order is None else order[chosen]
        if len(chosen) != self._shapes[name][0]:
            raise ValueError(f"{name} has {len(chosen)} rows, {self._shapes[name][0]} are needed")
        chosen = self._checkpoint.family.gguf_transform(name, self._derived.config).rows_to_file(chosen)
        at_once = max(1, _PIECE_BYTES // rows.shape[1])
        for start in range(0, len(chosen), at_once):
            yield rows[chosen[start : start + at_once]]

    def _part(self, name: str) -> Part:
        return self._derived.parts.get(name, Kept(name))

    def _rows(self, name: str, kind: BlockType) -> np.ndarray:
        """One parameter's bytes as `kind`, rows as GGUF files have them."""
        part, move = self._part(name), self._checkpoint.family.gguf_transform(name, self._derived.config)
        if isinstance(part, Packed) and self._is_as_it_was(name, part, kind):
            rows = part.rows().numpy()
            if rows.shape[0] != self._shapes[name][0]:
                raise ValueError(f"{name} has {rows.shape[0]} rows, {self._shapes[name][0]} are needed")
            return move.rows_to_file(rows)
        values = self._values(part)
        _refuse_other_shape(name, tuple(values.shape), self._shapes[name])
        return _stored(name, move.rows_to_file(values.numpy()), kind)

    def _values(self, part: Part) -> Float[Tensor, "..."]:
        if isinstance(part, Changed):
            return part.values()
        if isinstance(part, Packed):
            return decode(part.rows(), part.kind)
        if part.rows is None:
            return self._checkpoint.tensor(part.name)
        return self._checkpoint.gather(part.name, torch.from_numpy(part.rows))


def _refuse_other_shape(name: str, found: Shape, wanted: Shape) -> None:
    if found != wanted:
        raise ValueError(f"{name} is {found}, {wanted} is needed")


def _stored(name: str, values: np.ndarray, kind: BlockType) -> np.ndarray:
    """Float values as the bytes of 32- or 16-bit rows."""
    rows = 1 if values.ndim == 1 else len(values)
    if kind is types.BF16:
        nearest = torch.from_numpy(np.ascontiguousarray(values)).bfloat16()
        return nearest.view(torch.uint8).numpy().reshape(rows, -1)
    if kind is not types.F32 and float(np.abs(values).max(initial=0.0)) > _LARGEST_FLOAT16:
        raise SmidgenError(
            f"{printable(name)} would hold values beyond float16. Calibrate on other text with --text, or prune less."
        )
    dtype = np.float32 if kind is types.F32 else np.float16
    return np.ascontiguousarray(values, dtype).reshape(rows, -1).view(np.uint8)
