"""Matrices in a TFLite graph: multiplied with, and looked up in.

XNNPACK, which computes these graphs on processors, multiplies with whole numbers of 4 bits in groups of 32 that share a
scale. Scales are stored as float16; it rounds them to bfloat16, and refuses those that are not above 0. So a matrix
keeps its codes where all its scales are as `numerics.portable` has them. It knows no groups of 8 bits:

    Q4_0    c
    Q8_0    16 · high + low + 8, with high and low from −8 to 7, which use the same scales; 8 times the scale of each
            group meets the sum of what meets the group
    others  float16 or float32

XNNPACK rounds what meets codes to 8 bits, a row at a time: to 255 steps from the smallest number of the row, or 0, to
the largest, or 0. For 16 bits each token makes two rows, x rounded to just these steps, and what that leaves, whose
own steps are 255 times finer or more; both are multiplied at once, and added. What is rounded so already stays as it
is. A runtime that rounds nothing computes the same.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor

from smidgen.exporting.codes import GROUP, Codes, decoded_pieces, part_of_codes
from smidgen.exporting.litert import operators as op
from smidgen.exporting.litert.model import Graph, Kind, Value
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.safetensors_writer import Stored
from smidgen.model.parameters import is_matrix
from smidgen.numerics import block_types as types
from smidgen.numerics.portable import has_portable_scales
from smidgen.shapes import Integer, UInt8

_PLAIN = {"F32": torch.float32}
_KINDS = {torch.float32: Kind.FLOAT32, torch.float16: Kind.FLOAT16}
_ROWS_AT_ONCE = 4096  # whose scales are looked at
_STEPS = 255  # of 8 bits
_LEAST = 1e-30  # of what they span, for rows of zeros


class Matrix:
    """A matrix [out, in] of the model."""

    @abstractmethod
    def times(self, x: Value) -> Value:
        """matrix · x, for every x [..., in]."""

    @abstractmethod
    def rows(self, numbers: Value) -> Value:
        """The rows with these numbers, along a new last axis."""


@dataclass(frozen=True)
class _Digit:
    """Whole numbers from −8 to 7 that are made of codes. weight: the factor on the group's scale."""

    name: str
    weight: int
    of: Callable[[Integer[Tensor, "rows cols"]], Integer[Tensor, "rows cols"]]


_DIGITS = {
    types.Q4_0: (_Digit("codes", 1, lambda codes: codes),),
    types.Q8_0: (_Digit("high", 16, lambda codes: codes >> 4), _Digit("low", 1, lambda codes: (codes & 15) - 8)),
}
_ADDED = {types.Q4_0: 0, types.Q8_0: 8}  # to the sum of digits


@dataclass(frozen=True)
class Choices:
    """How the matrices of a model are written.

    kept: canonical names of those whose codes are written as they are.
    int8: whether what meets codes is rounded to 8 bits; else to 16.
    dtype: of the others; None for float16, or for float32 where they are that.
    """

    kept: frozenset[str]
    int8: bool = False
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint, int8: bool = False, dtype: torch.dtype | None = None) -> Self:
        """For a model whose scales are looked at."""
        names = (name for name in checkpoint.names() if is_matrix(name))
        return cls(frozenset(name for name in names if is_kept(checkpoint, name)), int8, dtype)

    def plain_dtype(self, checkpoint: Checkpoint, name: str) -> torch.dtype:
        """Of a matrix whose codes are not kept."""
        return self.dtype or _PLAIN.get(checkpoint.kind(name).name, torch.float16)


class Matrices:
    """Puts matrices of a model into a graph."""

    def __init__(self, graph: Graph, checkpoint: Checkpoint, choices: Choices) -> None:
        self._graph, self._checkpoint, self._choices = graph, checkpoint, choices
        self._met: dict[int, _Met] = {}

    def get(self, name: str) -> Matrix:
        """A parameter."""
        if name not in self._choices.kept:
            return _Plain(self._graph, self._checkpoint, name, self._choices.plain_dtype(self._checkpoint, name))
        return _Coded(self._graph, self._checkpoint, name, self._meet)

    def _meet(self, x: Value) -> "_Met":
        """Several matrices meet the same x."""
        if x.number not in self._met:
            self._met[x.number] = _Met(self._graph, x, not self._choices.int8)
        return self._met[x.number]


class _Met:
    """What meets codes [1, position, in], as rows of 8 bits, and the sums of its groups."""

    def __init__(self, graph: Graph, x: Value, in_two: bool) -> None:
        self._graph, self._x, self._in_two = graph, x, in_two
        self._rows = op.concatenate(graph, self._two(), axis=1) if in_two else x
        self._sums: Value | None = None

    def times(self, codes: Value) -> Value:
        """codes · x, of every row."""
        return op.product(self._graph, self._rows, codes)

    def joined(self, product: Value) -> Value:
        """The rows of each token added."""
        return op.halves_joined(self._graph, product) if self._in_two else product

    def sums(self) -> Value:
        """[1, position, groups]."""
        if self._sums is None:
            (one, length, width), graph = self._x.shape, self._graph
            apart = op.reshape(graph, self._x, one, length, width // GROUP, GROUP)
            self._sums = op.reshape(graph, op.total(graph, apart), one, length, width // GROUP)
        return self._sums

    def _two(self) -> tuple[Value, Value]:
        """x rounded to the steps of its row, and the rest."""
        graph, x = self._graph, self._x
        span = op.subtract(graph, op.upper(graph, op.largest(graph, x), 0), op.lower(graph, op.smallest(graph, x), 0))
        step = op.scaled(graph, op.upper(graph, span, _LEAST), 1 / _STEPS)
        near = op.multiply(graph, op.rounded(graph, op.divide(graph, x, step)), step)
        return near, op.subtract(graph, x, near)


class _Coded(Matrix):
    """Codes as digits, and scales."""

    def __init__(self, graph: Graph, checkpoint: Checkpoint, name: str, meet: Callable[[Value], _Met]) -> None:
        self._graph, self._checkpoint, self._name, self._meet = graph, checkpoint, name, meet
        self._out, self._in = checkpoint.shape(name)
        self._groups = self._in // GROUP
        kind = checkpoint.kind(name)
        self._added = _ADDED[kind]
        scale = self._read("scale", torch.float16, self._groups, lambda codes: codes.scale)
        self._scale = graph.stored(scale, Kind.FLOAT16, (self._out, self._groups))
        self._digits = [(digit.weight, self._codes(digit)) for digit in _DIGITS[kind]]

    def times(self, x: Value) -> Value:
        """See `Matrix`."""
        graph, met = self._graph, self._meet(x)
        found = met.joined(_sum(graph, [op.scaled(graph, met.times(codes), weight) for weight, codes in self._digits]))
        if not self._added:
            return found
        sums = op.scaled(graph, met.sums(), self._added)
        return op.add(graph, found, op.product(graph, sums, op.unpacked(graph, self._scale)))

    def rows(self, numbers: Value) -> Value:
        """See `Matrix`."""
        graph, (one, length) = self._graph, numbers.shape
        digits = [(weight, op.rows(graph, codes, numbers)) for weight, codes in self._digits]
        codes = _sum(graph, [op.scaled(graph, op.as_float32(graph, part), weight) for weight, part in digits])
        if self._added:
            codes = op.add(graph, codes, op.number(graph, self._added))
        apart = op.reshape(graph, codes, one, length, self._groups, GROUP)
        scales = op.as_float32(graph, op.rows(graph, self._scale, numbers))
        weights = op.multiply(graph, apart, op.reshape(graph, scales, one, length, self._groups, 1))
        return op.reshape(graph, weights, one, length, self._in)

    def _codes(self, digit: _Digit) -> Value:
        numbers = self._read(digit.name, torch.uint8, self._in // 2, partial(_packed, digit))
        return self._graph.stored(numbers, Kind.INT4, (self._out, self._in), self._scale)

    def _read(self, part: str, dtype: torch.dtype, columns: int, of: Callable[[Codes], Tensor]) -> Stored:
        return part_of_codes(self._checkpoint, self._name, part, dtype, columns, of)


class _Plain(Matrix):
    """One number for each weight."""

    def __init__(self, graph: Graph, checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> None:
        self._graph = graph
        shape = checkpoint.shape(name)
        self._weight = graph.stored(
            Stored(name, dtype, shape, partial(decoded_pieces, checkpoint, name, dtype)), _KINDS[dtype], shape
        )

    def times(self, x: Value) -> Value:
        """See `Matrix`."""
        return op.product(self._graph, x, op.unpacked(self._graph, self._weight))

    def rows(self, numbers: Value) -> Value:
        """See `Matrix`."""
        return op.as_float32(self._graph, op.rows(self._graph, self._weight, numbers))


def is_kept(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a matrix is written with its own codes and scales. All its scales are looked at."""
    kind, packed = checkpoint.kind(name), checkpoint.packed(name)
    if kind not in _DIGITS:
        return False
    pieces = (packed[start : start + _ROWS_AT_ONCE] for start in range(0, len(packed), _ROWS_AT_ONCE))
    return all(has_portable_scales(torch.from_numpy(piece.copy()), kind) for piece in pieces)


def _sum(graph: Graph, parts: list[Value]) -> Value:
    total = parts[0]
    for part in parts[1:]:
        total = op.add(graph, total, part)
    return total


def _packed(digit: _Digit, codes: Codes) -> UInt8[Tensor, "rows bytes"]:
    """Of two numbers that share a byte the first is in the lower half."""
    numbers = (digit.of(codes.codes) & 15).to(torch.uint8)
    return numbers[:, 0::2] | (numbers[:, 1::2] << 4)
