"""Matrices in an ONNX graph: multiplied with, and looked up in.

A quantized matrix keeps its codes and its scales. ONNX Runtime's operators for such matrices, MatMulNBits and
GatherBlockQuantized, take groups of 32 whole numbers of 4 or 8 bits and compute scale · (number − zero point), where
the zero point is the middle of the numbers unless one is given. So

    Q4_0    one number of 4 bits: code + 8
    Q4_1    one number of 4 bits with zero point 0, and the shift of each group times the sum of what meets the group
    Q8_0    two numbers of 4 bits, 16 · (high − 8) + low = code; or one of 8 bits: code + 128
    Q5_0    the same, and Q5_1 with shifts

On processors ONNX Runtime has a kernel for numbers of 4 bits that multiplies with float32 as it is. For 8 bits it has
one only where the activations are rounded to 8 bits too, and otherwise decodes the whole matrix for every token: 34 ms
for 8192 × 640 on one core, where the two halves take 3 ms. (matmul_nbits.cc of ONNX Runtime 1.32.) A shift that is
given as a zero point of its own, in float32, has no kernel either, and would not be exact.

Scales stand in the file as the 16 bits that they are. What is made of them by the graph (float32, times 16) is computed
once, when it is loaded.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from smidgen.errors import BadFile, printable
from smidgen.exporting.codes import GROUP, Codes, decoded_pieces, part_of_codes
from smidgen.exporting.onnx.graph import Graph
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.safetensors_writer import Stored
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.shapes import Float, Integer, UInt8

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_FLOAT32_ACTIVATIONS, _INT8_ACTIVATIONS = 1, 4  # of MatMulNBits' `accuracy_level`


class Matrix:
    """A matrix [out, in] of the model."""

    @abstractmethod
    def times(self, x: ir.Value) -> ir.Value:
        """matrix · x, for every x [..., in]."""

    @abstractmethod
    def rows(self, numbers: ir.Value) -> ir.Value:
        """The rows with these numbers, one after the other along a new last axis."""


@dataclass(frozen=True)
class Digits:
    """Whole numbers without a sign that are made of codes.

    bits: of each.  of: how.  weight: the factor on the group's scale.  centred: whether the middle of the numbers
    stands for zero; else 0 does.
    """

    name: str
    bits: int
    of: Callable[[Integer[Tensor, "rows cols"]], Integer[Tensor, "rows cols"]]
    weight: int = 1
    centred: bool = True


_WHOLE = Digits("codes", 8, lambda codes: codes.to(torch.int16) + 128)
_HIGH = Digits("high", 4, lambda codes: (codes.to(torch.int16) + 128) >> 4, weight=16)
_LOW = Digits("low", 4, lambda codes: (codes.to(torch.int16) + 128) & 15, centred=False)
_DIGITS = {
    types.Q4_0: (Digits("codes", 4, lambda codes: codes + 8),),
    types.Q4_1: (Digits("codes", 4, lambda codes: codes, centred=False),),
    types.Q8_0: (_HIGH, _LOW),
    types.Q5_0: (_HIGH, _LOW),
    types.Q5_1: (_HIGH, _LOW),
}
_SHIFTED = {types.Q4_1, types.Q5_1}


class Matrices:
    """Puts matrices of a model into a graph.

    int8: whether what meets a quantized matrix is rounded to 8 bits: quicker, and not exact.
    dtype: of matrices without codes that are kept; None for what they are, or float16 where they are quantized.
    """

    def __init__(self, graph: Graph, checkpoint: Checkpoint, int8: bool, dtype: torch.dtype | None) -> None:
        self._graph, self._checkpoint, self._int8, self._dtype = graph, checkpoint, int8, dtype
        self._sums: dict[ir.Value, ir.Value] = {}

    def get(self, name: str, multiplied: bool = True) -> Matrix:
        """A parameter. multiplied: whether it is, and not only looked up in."""
        kind = self._checkpoint.kind(name)
        if kind not in _DIGITS:
            return _Plain(self._graph, self._checkpoint, name, self._dtype or PLAIN.get(kind.name, torch.float16))
        digits = _DIGITS[kind]
        if len(digits) > 1 and (self._int8 or not multiplied):
            digits = (_WHOLE,)
        level = _INT8_ACTIVATIONS if self._int8 else _FLOAT32_ACTIVATIONS
        return _Coded(self._graph, self._checkpoint, name, digits, level, self._group_sums)

    def _group_sums(self, x: ir.Value, groups: int) -> ir.Value:
        """[..., in] → [..., groups]. Several matrices meet the same x."""
        if x not in self._sums:
            apart = self._graph.add("Reshape", x, self._graph.integers(0, 0, groups, GROUP))
            self._sums[x] = self._graph.add("ReduceSum", apart, self._graph.integers(-1), keepdims=0)
        return self._sums[x]


class _Coded(Matrix):
    """Whole numbers, and scales and perhaps shifts of 32 of them."""

    def __init__(
        self, graph: Graph, checkpoint: Checkpoint, name: str, digits: tuple[Digits, ...], level: int,
        group_sums: Callable[[ir.Value, int], ir.Value],
    ) -> None:  # fmt: skip
        self._graph, self._checkpoint, self._name = graph, checkpoint, name
        self._digits, self._level, self._group_sums = digits, level, group_sums
        self._out, self._in = checkpoint.shape(name)
        self._groups = self._in // GROUP
        scale = self._read("scale", torch.float16, self._groups, lambda codes: self._finite(codes.scale))
        self._scale = _as_float32(graph, graph.stored(scale))
        self._scales = [self._times_weight(one) for one in digits]
        self._zeros = None if digits[-1].centred else self._zero_points()
        self._shift = None
        if checkpoint.kind(name) in _SHIFTED:
            shift = self._read("shift", torch.float16, self._groups, lambda codes: self._finite(codes.shift))
            self._shift = _as_float32(graph, graph.stored(shift))

    def times(self, x: ir.Value) -> ir.Value:
        """See `Matrix`."""
        parts = [
            self._graph.contrib(
                "MatMulNBits", x, self._numbers(one, (self._out, self._groups, GROUP * one.bits // 8)), scale,
                None if one.centred else self._zeros, K=self._in, N=self._out, bits=one.bits, block_size=GROUP,
                accuracy_level=self._level,
            )
            for one, scale in zip(self._digits, self._scales, strict=True)
        ]  # fmt: skip
        if self._shift is not None:
            parts.append(_product(self._graph, self._group_sums(x, self._groups), self._shift))
        return self._sum(parts)

    def rows(self, numbers: ir.Value) -> ir.Value:
        """See `Matrix`."""
        parts = [
            self._graph.contrib(
                "GatherBlockQuantized", self._numbers(one, (self._out, self._in * one.bits // 8)), numbers, scale,
                None if one.centred else self._zeros, bits=one.bits, block_size=GROUP, gather_axis=0, quantize_axis=1,
            )
            for one, scale in zip(self._digits, self._scales, strict=True)
        ]  # fmt: skip
        found = self._sum(parts)
        if self._shift is None:
            return found
        apart = self._graph.add("Reshape", found, self._graph.integers(0, 0, self._groups, GROUP))
        shifts = self._graph.add("Unsqueeze", self._graph.add("Gather", self._shift, numbers), self._graph.integers(-1))
        return self._graph.add("Reshape", self._graph.add("Add", apart, shifts), self._graph.integers(0, 0, self._in))

    def _sum(self, parts: list[ir.Value]) -> ir.Value:
        total = parts[0]
        for part in parts[1:]:
            total = self._graph.add("Add", total, part)
        return total

    def _times_weight(self, digits: Digits) -> ir.Value:
        if digits.weight == 1:
            return self._scale
        return self._graph.add("Mul", self._scale, self._graph.number(digits.weight))

    def _zero_points(self) -> ir.Value:
        """Zero for every group, two to a byte; made when the graph is loaded."""
        shape = self._graph.integers(self._out, -(-self._groups // 2))
        return self._graph.add("ConstantOfShape", shape, value=ir.tensor(np.zeros(1, np.uint8)))

    def _finite(self, numbers: Float[Tensor, "rows groups"] | None) -> Float[Tensor, "rows groups"]:
        """Raises BadFile where they are not."""
        if numbers is None or not torch.isfinite(numbers).all():
            raise BadFile(
                f"{printable(self._checkpoint.path)}: {self._name} holds scales that are not finite numbers; the file "
                "is damaged or was badly converted: get it again"
            )
        return numbers

    def _numbers(self, digits: Digits, shape: tuple[int, ...]) -> ir.Value:
        packed = self._read(digits.name, torch.uint8, self._in * digits.bits // 8, partial(_packed, digits))
        return self._graph.stored(packed, shape)

    def _read(self, part: str, dtype: torch.dtype, columns: int, of: Callable[[Codes], Tensor]) -> Stored:
        return part_of_codes(self._checkpoint, self._name, part, dtype, columns, of)


class _Plain(Matrix):
    """One number for each weight."""

    def __init__(self, graph: Graph, checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> None:
        self._graph = graph
        pieces = partial(decoded_pieces, checkpoint, name, dtype)
        self._weight = graph.stored(Stored(name, dtype, checkpoint.shape(name), pieces))

    def times(self, x: ir.Value) -> ir.Value:
        """See `Matrix`."""
        return _product(self._graph, x, _as_float32(self._graph, self._weight))

    def rows(self, numbers: ir.Value) -> ir.Value:
        """See `Matrix`."""
        return _as_float32(self._graph, self._graph.add("Gather", self._weight, numbers))


def _product(graph: Graph, x: ir.Value, matrix: ir.Value) -> ir.Value:
    """matrix · x of float32."""
    return graph.contrib("FusedMatMul", x, matrix, transB=1)


def _as_float32(graph: Graph, value: ir.Value) -> ir.Value:
    known = value.type is not None and value.dtype == ir.DataType.FLOAT
    return value if known else graph.add("Cast", value, to=int(ir.DataType.FLOAT))


def _packed(digits: Digits, codes: Codes) -> UInt8[Tensor, "rows bytes"]:
    """As both operators take them: of two numbers that share a byte the first is in the lower half."""
    numbers = digits.of(codes.codes).to(torch.uint8)
    return numbers if digits.bits == 8 else numbers[:, 0::2] | (numbers[:, 1::2] << 4)


def is_kept(kind: BlockType) -> bool:
    """Whether a matrix of this type is written with the very numbers that it has."""
    return kind in _DIGITS or kind.name in PLAIN
