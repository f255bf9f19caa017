"""Matrices in an OpenVINO graph: multiplied with, and looked up in.

A quantized matrix keeps its codes and its scales: a constant of whole numbers of 4 or 8 bits [rows, groups, 32], times
a constant of float16 [rows, groups, 1], both made float32 before, since their product has more digits than float16.
OpenVINO knows this pattern, keeps the constants in memory as they are, and multiplies with them.

    Q4_0    i4: code
    Q4_1    u4: code, and the shift of each group times the sum of what meets the group
    Q8_0    i8: code

A shift could stand as a zero point only where it is a whole multiple of the scale, which it is not.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from math import prod

import numpy as np
import openvino as ov
import openvino.opset15 as op
import torch
from torch import Tensor

from smidgen.exporting.codes import BITS, GROUP, Codes, decoded_pieces, pieces_of_codes
from smidgen.exporting.openvino.graph import Graph, Value, as_float32, integer, integers, reshaped
from smidgen.formats.checkpoint import Checkpoint
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.shapes import Float, UInt8

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_FLOATS = {torch.float32: ov.Type.f32, torch.float16: ov.Type.f16, torch.bfloat16: ov.Type.bf16}
_CODES = {types.Q4_0: ov.Type.i4, types.Q4_1: ov.Type.u4, types.Q8_0: ov.Type.i8}
_SCALE_BYTES = 2


class Matrix:
    """A matrix [out, in] of the model."""

    @abstractmethod
    def times(self, x: Value) -> Value:
        """matrix · x, for every x [..., in]."""

    @abstractmethod
    def rows(self, numbers: Value) -> Value:
        """The rows with these numbers, along a new last axis."""


class Matrices:
    """Puts matrices of a model into a graph.

    dtype: of matrices that are quantized in a way that OpenVINO does not hold; None for float16, and for those that are
    not quantized as they are.
    """

    def __init__(self, graph: Graph, checkpoint: Checkpoint, dtype: torch.dtype | None) -> None:
        self._graph, self._checkpoint, self._dtype = graph, checkpoint, dtype
        self._sums: dict[int, tuple[Value, Value]] = {}

    def get(self, name: str) -> Matrix:
        """A parameter, read and put into the graph."""
        kind = self._checkpoint.kind(name)
        if kind in BITS:
            return _Coded(self._graph, self._checkpoint, name, self._group_sums)
        return _Plain(self._graph, self._checkpoint, name, plain_dtype(kind, self._dtype))

    def _group_sums(self, x: Value, groups: int) -> Value:
        """[..., in] → [..., groups]. Several matrices meet the same x, which is kept lest another takes its place."""
        if id(x) not in self._sums:
            self._sums[id(x)] = x, op.reduce_sum(reshaped(x, 0, 0, groups, GROUP), integers(-1), keep_dims=False)
        return self._sums[id(x)][1]


class _Coded(Matrix):
    """Whole numbers, and scales and perhaps shifts of 32 of them."""

    def __init__(
        self, graph: Graph, checkpoint: Checkpoint, name: str, group_sums: Callable[[Value, int], Value]
    ) -> None:
        kind, (rows, columns) = checkpoint.kind(name), checkpoint.shape(name)
        self._columns, self._groups, self._group_sums = columns, columns // GROUP, group_sums
        codes, scale, shift = _read(checkpoint, name)
        numbers = op.convert(graph.stored(codes, (rows, self._groups, GROUP), _CODES[kind]), "f32")
        scales = op.convert(graph.stored(scale, (rows, self._groups, 1), ov.Type.f16), "f32")
        self._weight = op.reshape(op.multiply(numbers, scales), integers(rows, columns), special_zero=False)
        self._shift = None
        if shift is not None:
            self._shift = op.convert(graph.stored(shift, (rows, self._groups), ov.Type.f16), "f32")

    def times(self, x: Value) -> Value:
        """See `Matrix`."""
        product = _product(x, self._weight)
        if self._shift is None:
            return product
        return op.add(product, _product(self._group_sums(x, self._groups), self._shift))

    def rows(self, numbers: Value) -> Value:
        """See `Matrix`."""
        found = op.gather(self._weight, numbers, integer(0))
        if self._shift is None:
            return found
        shifts = op.unsqueeze(op.gather(self._shift, numbers, integer(0)), integers(-1))
        return reshaped(op.add(reshaped(found, 0, 0, self._groups, GROUP), shifts), 0, 0, self._columns)


class _Plain(Matrix):
    """One number for each weight."""

    def __init__(self, graph: Graph, checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> None:
        rows, columns = checkpoint.shape(name)
        numbers = _filled(rows, columns * dtype.itemsize, decoded_pieces(checkpoint, name, dtype))
        self._weight = as_float32(graph.stored(numbers, (rows, columns), _FLOATS[dtype]))

    def times(self, x: Value) -> Value:
        """See `Matrix`."""
        return _product(x, self._weight)

    def rows(self, numbers: Value) -> Value:
        """See `Matrix`."""
        return op.gather(self._weight, numbers, integer(0))


def plain_dtype(kind: BlockType, wished: torch.dtype | None) -> torch.dtype:
    """Of a matrix whose type OpenVINO does not hold."""
    return wished or PLAIN.get(kind.name, torch.float16)


def is_kept(kind: BlockType) -> bool:
    """Whether a matrix of this type is written with the very numbers that it has."""
    return kind in BITS or kind.name in PLAIN


def stored_bytes(checkpoint: Checkpoint, name: str, dtype: torch.dtype | None) -> int:
    """What a matrix takes in the file."""
    kind, values = checkpoint.kind(name), prod(checkpoint.shape(name))
    if kind not in BITS:
        return values * plain_dtype(kind, dtype).itemsize
    return values * BITS[kind] // 8 + values // GROUP * _SCALE_BYTES * (2 if kind == types.Q4_1 else 1)


def _product(x: Value, matrix: Value) -> Value:
    return op.matmul(x, matrix, transpose_a=False, transpose_b=True)


def _read(checkpoint: Checkpoint, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Codes, scales and shifts as bytes, each with all rows of a matrix."""
    kind, (rows, columns) = checkpoint.kind(name), checkpoint.shape(name)
    codes = np.empty((rows, columns * BITS[kind] // 8), np.uint8)
    scale = np.empty((rows, columns // GROUP * _SCALE_BYTES), np.uint8)
    shift = np.empty_like(scale) if kind == types.Q4_1 else None
    start = 0
    for piece in pieces_of_codes(checkpoint, name):
        some = slice(start, start := start + len(piece.codes))
        codes[some], scale[some] = _packed(piece, BITS[kind]), _bytes(piece.scale)
        if shift is not None and piece.shift is not None:
            shift[some] = _bytes(piece.shift)
    return codes, scale, shift


def _packed(piece: Codes, bits: int) -> UInt8[np.ndarray, "rows bytes"]:
    """As OpenVINO holds them: of two numbers that share a byte the first is in the lower half."""
    codes = piece.codes.contiguous().numpy().view(np.uint8)
    return codes if bits == 8 else codes[:, 0::2] & 15 | codes[:, 1::2] << 4


def _filled(rows: int, row_bytes: int, pieces: Iterator[Tensor]) -> UInt8[np.ndarray, "rows bytes"]:
    filled, start = np.empty((rows, row_bytes), np.uint8), 0
    for piece in pieces:
        filled[start : (start := start + len(piece))] = _bytes(piece)
    return filled


def _bytes(values: Float[Tensor, "rows cols"]) -> UInt8[np.ndarray, "rows bytes"]:
    return values.contiguous().view(torch.uint8).numpy()
