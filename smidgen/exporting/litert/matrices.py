"""Matrices in a TFLite graph: multiplied with, and looked up in.

XNNPACK, which computes these graphs on processors, multiplies with whole numbers of 4 bits in groups of 32 that share a
scale. Scales are stored as float16; it rounds them to bfloat16, and refuses those that are not above 0. So a matrix
keeps its codes where all its scales are as `numerics.portable` has them. It knows no groups of 8 bits:

    Q4_0    c
    Q8_0    16 · high + low + 8, with high and low from −8 to 7, which use the same scales; 8 times the scale of each
            group meets the sum of what meets the group
    others  float16 or float32

What meets codes is rounded to 8 bits, by XNNPACK itself, with a scale and a zero point for each token. An exact graph
makes float32 weights of the codes and multiplies with these: for every token anew, which takes its time.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Self

import torch
from torch import Tensor

from smidgen.errors import Unsupported
from smidgen.exporting.codes import GROUP, Codes, pieces_of_codes
from smidgen.exporting.litert import operators as op
from smidgen.exporting.litert.model import Graph, Kind, Value
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.safetensors_writer import Stored
from smidgen.model.parameters import is_matrix
from smidgen.numerics import block_types as types
from smidgen.numerics.portable import has_portable_scales
from smidgen.shapes import Float, Integer, UInt8

_PLAIN = {"F32": torch.float32}
_KINDS = {torch.float32: Kind.FLOAT32, torch.float16: Kind.FLOAT16}
_ROWS_AT_ONCE = 4096  # whose scales are looked at


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
    exact: whether codes are multiplied as float32 weights.
    dtype: of the others; None for float16, or for float32 where they are that.
    """

    kept: frozenset[str]
    exact: bool = False
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint, exact: bool = False, dtype: torch.dtype | None = None) -> Self:
        """For a model whose scales are looked at."""
        names = (name for name in checkpoint.names() if is_matrix(name))
        return cls(frozenset(name for name in names if _is_kept(checkpoint, name)), exact, dtype)

    def plain_dtype(self, checkpoint: Checkpoint, name: str) -> torch.dtype:
        """Of a matrix whose codes are not kept."""
        return self.dtype or _PLAIN.get(checkpoint.kind(name).name, torch.float16)


class Matrices:
    """Puts matrices of a model into a graph."""

    def __init__(self, graph: Graph, checkpoint: Checkpoint, choices: Choices) -> None:
        self._graph, self._checkpoint, self._choices = graph, checkpoint, choices
        self._sums: dict[int, Value] = {}

    def get(self, name: str) -> Matrix:
        """A parameter."""
        if name not in self._choices.kept:
            return _Plain(self._graph, self._checkpoint, name, self._choices.plain_dtype(self._checkpoint, name))
        if self._choices.exact:
            return _Decoded(self._graph, self._checkpoint, name)
        return _Coded(self._graph, self._checkpoint, name, self._group_sums)

    def _group_sums(self, x: Value, groups: int) -> Value:
        """[..., in] → [..., groups]. Several matrices meet the same x."""
        if x.number not in self._sums:
            apart = op.reshape(self._graph, x, *x.shape[:-1], groups, GROUP)
            self._sums[x.number] = op.reshape(self._graph, op.total(self._graph, apart), *x.shape[:-1], groups)
        return self._sums[x.number]


class _Stored(Matrix):
    """Codes as digits, and scales."""

    def __init__(self, graph: Graph, checkpoint: Checkpoint, name: str) -> None:
        self._graph, self._checkpoint, self._name = graph, checkpoint, name
        self._out, self._in = checkpoint.shape(name)
        self._groups = self._in // GROUP
        kind = checkpoint.kind(name)
        self._added = _ADDED[kind]
        scale = self._read("scale", torch.float16, self._groups, lambda codes: codes.scale)
        self._scale = graph.stored(scale, Kind.FLOAT16, (self._out, self._groups))
        self._digits = [(digit.weight, self._codes(digit)) for digit in _DIGITS[kind]]

    def rows(self, numbers: Value) -> Value:
        """See `Matrix`."""
        parts = [(weight, op.rows(self._graph, codes, numbers)) for weight, codes in self._digits]
        return self._decoded(parts, op.rows(self._graph, self._scale, numbers))

    def _decoded(self, digits: list[tuple[int, Value]], scale: Value) -> Value:
        """Weights [..., in] of digits [..., in] and scales [..., groups]."""
        graph, shape = self._graph, digits[0][1].shape
        codes = _sum(graph, [op.scaled(graph, op.as_float32(graph, part), weight) for weight, part in digits])
        if self._added:
            codes = op.add(graph, codes, op.number(graph, self._added))
        apart = op.reshape(graph, codes, prod(shape[:-1]), self._groups, GROUP)
        scales = op.reshape(graph, op.as_float32(graph, scale), prod(shape[:-1]), self._groups, 1)
        return op.reshape(graph, op.multiply(graph, apart, scales), *shape)

    def _codes(self, digit: _Digit) -> Value:
        numbers = self._read(digit.name, torch.uint8, self._in // 2, partial(_packed, digit))
        return self._graph.stored(numbers, Kind.INT4, (self._out, self._in), self._scale)

    def _read(self, part: str, dtype: torch.dtype, columns: int, of: Callable[[Codes], Tensor]) -> Stored:
        def pieces() -> Iterator[Tensor]:
            return map(of, pieces_of_codes(self._checkpoint, self._name))

        return Stored(f"{self._name}.{part}", dtype, (self._out, columns), pieces)


class _Coded(_Stored):
    """Multiplied as it is stored."""

    def __init__(
        self, graph: Graph, checkpoint: Checkpoint, name: str, group_sums: Callable[[Value, int], Value]
    ) -> None:
        super().__init__(graph, checkpoint, name)
        self._group_sums = group_sums

    def times(self, x: Value) -> Value:
        """See `Matrix`."""
        graph = self._graph
        parts = [op.scaled(graph, op.product(graph, x, codes), weight) for weight, codes in self._digits]
        if self._added:
            sums = op.scaled(graph, self._group_sums(x, self._groups), self._added)
            parts.append(op.product(graph, sums, op.unpacked(graph, self._scale)))
        return _sum(graph, parts)


class _Decoded(_Stored):
    """Multiplied as float32 weights."""

    def times(self, x: Value) -> Value:
        """See `Matrix`."""
        return op.product(self._graph, x, self._decoded(self._digits, self._scale))


class _Plain(Matrix):
    """One number for each weight."""

    def __init__(self, graph: Graph, checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> None:
        self._graph = graph
        shape = checkpoint.shape(name)
        self._weight = graph.stored(
            Stored(name, dtype, shape, partial(_rounded, checkpoint, name, dtype)), _KINDS[dtype], shape
        )

    def times(self, x: Value) -> Value:
        """See `Matrix`."""
        return op.product(self._graph, x, op.unpacked(self._graph, self._weight))

    def rows(self, numbers: Value) -> Value:
        """See `Matrix`."""
        return op.as_float32(self._graph, op.rows(self._graph, self._weight, numbers))


def _is_kept(checkpoint: Checkpoint, name: str) -> bool:
    kind, packed = checkpoint.kind(name), checkpoint.packed(name)
    if kind not in _DIGITS:
        return False
    pieces = (packed[start : start + _ROWS_AT_ONCE] for start in range(0, len(packed), _ROWS_AT_ONCE))
    return all(has_portable_scales(torch.from_numpy(piece), kind) for piece in pieces)


def _sum(graph: Graph, parts: list[Value]) -> Value:
    total = parts[0]
    for part in parts[1:]:
        total = op.add(graph, total, part)
    return total


def _packed(digit: _Digit, codes: Codes) -> UInt8[Tensor, "rows bytes"]:
    """Of two numbers that share a byte the first is in the lower half."""
    numbers = (digit.of(codes.codes) & 15).to(torch.uint8)
    return numbers[:, 0::2] | (numbers[:, 1::2] << 4)


def _rounded(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> Iterator[Float[Tensor, "rows cols"]]:
    for values in checkpoint.pieces(name):
        stored = values.to(dtype)
        if not torch.isfinite(stored).all():
            raise Unsupported(
                f"{name} has values that {dtype} cannot hold; choose another --dtype".replace("torch.", "")
            )
        yield stored
