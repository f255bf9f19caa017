"""Constants of an OpenVINO graph. OpenVINO uses the memory of larger ones where it is, so they are kept beside it."""

from collections.abc import Sequence

import numpy as np
import openvino as ov
import openvino.opset15 as op

#: What operators take and give.
Value = ov.Node

_TO_THE_END = np.iinfo(np.int64).max


class Graph:
    """What a model is built from."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []

    def stored(self, numbers: np.ndarray, shape: Sequence[int], kind: ov.Type) -> Value:
        """Numbers of any type, as bytes [rows, bytes]; of two that share a byte the first is in the lower half."""
        self._kept.append(numbers)
        return op.constant(ov.Tensor(numbers, ov.Shape(list(shape)), kind), shared_memory=True)


def number(value: float) -> Value:
    """A float32."""
    return op.constant(np.array(value, np.float32))


def integers(*values: int) -> Value:
    """A list of int64."""
    return op.constant(np.array(values, np.int64))


def integer(value: int) -> Value:
    """One int64, not in a list."""
    return op.constant(np.array(value, np.int64))


def as_float32(value: Value) -> Value:
    """The same numbers, exactly."""
    return value if value.get_element_type() == ov.Type.f32 else op.convert(value, "f32")


def reshaped(value: Value, *shape: int) -> Value:
    """0 stands for a size that stays, -1 for what is left."""
    return op.reshape(value, integers(*shape), special_zero=True)


def part(value: Value, start: int, stop: int | None = None) -> Value:
    """Of the last axis; None for to its end."""
    end = _TO_THE_END if stop is None else stop
    return op.slice(value, integers(start), integers(end), integers(1), integers(-1))


def size(value: Value, axis: int) -> Value:
    """Of one axis, an int64."""
    return op.gather(op.shape_of(value, "i64"), integer(axis), integer(0))
