"""Operators of TFLite by what they compute, with the shapes of what comes out.

Numbers of operators and of their settings: `BuiltinOperator` and `BuiltinOptions` in the schema that `model` names.
Where an operator has settings and all of them keep their defaults, an empty table stands there.
"""

import hashlib
from collections.abc import Sequence
from math import prod

import numpy as np
import torch

from smidgen.exporting.litert.flat import Scalar, Table
from smidgen.exporting.litert.model import Graph, Kind, Operator, Value
from smidgen.formats.hf.safetensors_writer import Stored

_NONE = Table({})
_ADD, _SUB = Operator(0, (11, _NONE)), Operator(41, (28, _NONE))
_MUL, _DIV = Operator(18, (21, _NONE)), Operator(42, (29, _NONE))
_LOGISTIC, _TANH = Operator(14), Operator(28)
_GELU_TANH = Operator(150, (116, Table({0: Scalar("Bool", True)})))
_RSQRT, _COS, _SIN = Operator(76), Operator(108, (84, _NONE)), Operator(66)
_KEEPING = 27, Table({0: Scalar("Bool", True)})  # axes of which nothing is left
_MEAN, _SUM = Operator(40, _KEEPING), Operator(74, _KEEPING)
_LARGEST, _SMALLEST = Operator(82, _KEEPING), Operator(89, _KEEPING)
_JOINED = Operator(74, (27, Table({0: Scalar("Bool", False)})))
_UPPER, _LOWER = Operator(55, (39, _NONE)), Operator(57, (39, _NONE))
_ROUND = Operator(116)
_SOFTMAX = Operator(25, (9, Table({0: Scalar("Float32", 1.0)})))
_KEEP_AXES = Operator(9, (8, Table({2: Scalar("Bool", True)})))
_RESHAPE, _TRANSPOSE, _CAST = Operator(22, (17, _NONE)), Operator(39, (26, _NONE)), Operator(53, (37, _NONE))
_SLICE, _UPDATE = Operator(65, (48, _NONE)), Operator(151, (117, _NONE))
_ROWS = Operator(36, (23, Table({0: Scalar("Int32", 0)})))
_DEQUANTIZE = Operator(6, (38, _NONE))
_AT_LEAST, _CHOOSE = Operator(62, (45, _NONE)), Operator(123, (98, _NONE))


def number(graph: Graph, value: float) -> Value:
    """A float32."""
    return constant(graph, np.array([value], np.float32))


def constant(graph: Graph, numbers: np.ndarray) -> Value:
    """Some float32 or int32; the same ones are stored once."""
    kind = Kind.FLOAT32 if numbers.dtype == np.float32 else Kind.INT32
    name = f"{kind.name.lower()}_{hashlib.sha256(repr(numbers.shape).encode() + numbers.tobytes()).hexdigest()[:24]}"
    return graph.stored(Stored.of(name, torch.from_numpy(numbers)), kind, numbers.shape)


def integers(graph: Graph, *values: int) -> Value:
    """A list of int32, as operators take shapes and places."""
    return constant(graph, np.array(values, np.int32))


def add(graph: Graph, left: Value, right: Value) -> Value:
    """left + right, with NumPy's rules for shapes, as for all of two values."""
    return graph.add(_ADD, (left, right), np.broadcast_shapes(left.shape, right.shape))


def subtract(graph: Graph, left: Value, right: Value) -> Value:
    """left − right."""
    return graph.add(_SUB, (left, right), np.broadcast_shapes(left.shape, right.shape))


def multiply(graph: Graph, left: Value, right: Value) -> Value:
    """left · right, number by number."""
    return graph.add(_MUL, (left, right), np.broadcast_shapes(left.shape, right.shape))


def divide(graph: Graph, left: Value, right: Value) -> Value:
    """left / right, number by number."""
    return graph.add(_DIV, (left, right), np.broadcast_shapes(left.shape, right.shape))


def upper(graph: Graph, x: Value, bound: float) -> Value:
    """What is less than the bound becomes the bound."""
    return graph.add(_UPPER, (x, number(graph, bound)), x.shape)


def lower(graph: Graph, x: Value, bound: float) -> Value:
    """What is more than the bound becomes the bound."""
    return graph.add(_LOWER, (x, number(graph, bound)), x.shape)


def rounded(graph: Graph, x: Value) -> Value:
    """To the nearest whole number, halves to even ones."""
    return graph.add(_ROUND, (x,), x.shape)


def scaled(graph: Graph, x: Value, factor: float) -> Value:
    """factor · x."""
    return x if factor == 1 else multiply(graph, x, number(graph, factor))


def sigmoid(graph: Graph, x: Value) -> Value:
    """1 / (1 + exp(−x))."""
    return graph.add(_LOGISTIC, (x,), x.shape)


def gelu_tanh(graph: Graph, x: Value) -> Value:
    """GELU by its approximation with tanh."""
    return graph.add(_GELU_TANH, (x,), x.shape)


def soft_cap(graph: Graph, x: Value, cap: float) -> Value:
    """cap · tanh(x / cap)."""
    return scaled(graph, graph.add(_TANH, (scaled(graph, x, 1 / cap),), x.shape), cap)


def inverse_root(graph: Graph, x: Value) -> Value:
    """1 / √x."""
    return graph.add(_RSQRT, (x,), x.shape)


def cosine(graph: Graph, x: Value) -> Value:
    """Of radians."""
    return graph.add(_COS, (x,), x.shape)


def sine(graph: Graph, x: Value) -> Value:
    """Of radians."""
    return graph.add(_SIN, (x,), x.shape)


def mean(graph: Graph, x: Value) -> Value:
    """Over the last axis, of which 1 is left."""
    return _reduced(graph, _MEAN, x)


def total(graph: Graph, x: Value) -> Value:
    """The sum over the last axis, of which 1 is left."""
    return _reduced(graph, _SUM, x)


def largest(graph: Graph, x: Value) -> Value:
    """Over the last axis, of which 1 is left."""
    return _reduced(graph, _LARGEST, x)


def smallest(graph: Graph, x: Value) -> Value:
    """Over the last axis, of which 1 is left."""
    return _reduced(graph, _SMALLEST, x)


def halves_joined(graph: Graph, x: Value) -> Value:
    """[1, 2n, width] → [1, n, width], the sum of both halves."""
    _, both, width = x.shape
    apart = reshape(graph, x, 2, both // 2, width)
    summed = graph.add(_JOINED, (apart, integers(graph, 0)), (both // 2, width))
    return reshape(graph, summed, 1, both // 2, width)


def _reduced(graph: Graph, operator: Operator, x: Value) -> Value:
    last = len(x.shape) - 1
    return graph.add(operator, (x, integers(graph, last)), (*x.shape[:-1], 1))


def softmax(graph: Graph, x: Value) -> Value:
    """Over the last axis."""
    return graph.add(_SOFTMAX, (x,), x.shape)


def product(graph: Graph, x: Value, matrix: Value) -> Value:
    """matrix · x, for every x [..., in], with a matrix [out, in] of numbers or of codes with scales."""
    return graph.add(_KEEP_AXES, (x, matrix), (*x.shape[:-1], matrix.shape[0]))


def products(graph: Graph, left: Value, right: Value, transposed: bool = False) -> Value:
    """left · right of the last two axes; of right, they may stand the other way round."""
    columns = right.shape[-2] if transposed else right.shape[-1]
    settings = 101, Table({0: Scalar("Bool", False), 1: Scalar("Bool", transposed)})
    return graph.add(Operator(126, settings), (left, right), (*left.shape[:-1], columns))


def reshape(graph: Graph, x: Value, *shape: int) -> Value:
    """The same numbers in the same order."""
    assert prod(shape) == prod(x.shape), (x.shape, shape)
    return graph.add(_RESHAPE, (x, integers(graph, *shape)), shape, x.kind)


def transpose(graph: Graph, x: Value, *axes: int) -> Value:
    """The axes in this order."""
    return graph.add(_TRANSPOSE, (x, integers(graph, *axes)), [x.shape[axis] for axis in axes], x.kind)


def as_float32(graph: Graph, x: Value) -> Value:
    """The same numbers."""
    return x if x.kind == Kind.FLOAT32 else graph.add(_CAST, (x,), x.shape)


def unpacked(graph: Graph, weights: Value) -> Value:
    """float32 of float16 weights, once and not at every call."""
    return weights if weights.kind == Kind.FLOAT32 else graph.add(_DEQUANTIZE, (weights,), weights.shape)


def concatenate(graph: Graph, values: Sequence[Value], axis: int = -1) -> Value:
    """One after the other along an axis."""
    shape = list(values[0].shape)
    shape[axis] = sum(value.shape[axis] for value in values)
    operator = Operator(2, (10, Table({0: Scalar("Int32", axis % len(shape))})))
    return graph.add(operator, values, shape, values[0].kind)


def part(graph: Graph, x: Value, start: int, stop: int) -> Value:
    """Of the last axis."""
    begin, shape = [0] * (len(x.shape) - 1) + [start], (*x.shape[:-1], stop - start)
    return graph.add(_SLICE, (x, integers(graph, *begin), integers(graph, *shape)), shape)


def first(graph: Graph, x: Value) -> Value:
    """[n] → [1], the first of them."""
    return graph.add(_SLICE, (x, integers(graph, 0), integers(graph, 1)), (1,), x.kind)


def rows(graph: Graph, matrix: Value, numbers: Value) -> Value:
    """The rows with these numbers, along a new last axis."""
    return graph.add(_ROWS, (matrix, numbers), (*numbers.shape, matrix.shape[1]), matrix.kind)


def updated(graph: Graph, x: Value, new: Value, start: Value) -> Value:
    """x with `new` written over a part of it. start: int32, the place of its corner."""
    return graph.add(_UPDATE, (x, new, start), x.shape)


def chosen(graph: Graph, which: Value, yes: Value, no: Value) -> Value:
    """From `yes` where that holds, else from `no`."""
    return graph.add(_CHOOSE, (which, yes, no), np.broadcast_shapes(which.shape, yes.shape, no.shape))


def at_least(graph: Graph, x: Value, bound: Value) -> Value:
    """Whether x ≥ bound."""
    return graph.add(_AT_LEAST, (x, bound), np.broadcast_shapes(x.shape, bound.shape), Kind.BOOL)
