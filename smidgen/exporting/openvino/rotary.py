"""Rotary positions in an OpenVINO graph: what `model.rope` computes, for the positions that are given."""

import openvino.opset15 as op
import torch

from smidgen.exporting.openvino.graph import Value, as_float32, integer, integers, number, part
from smidgen.model.config import Rotary
from smidgen.model.rope_scaling import LongRopeScaling


class Rotations:
    """Cosines and sines of the new tokens, made once for all layers that turn alike.

    positions: int64 [batch, position].
    """

    def __init__(self, positions: Value) -> None:
        self._positions = positions
        self._places = op.unsqueeze(op.convert(positions, "f32"), integers(-1))
        self._tables: dict[Rotary, tuple[Value, Value]] = {}

    def rotated(self, x: Value, rotary: Rotary, head: int) -> Value:
        """Queries or keys [batch, heads, position, head], turned."""
        cosines, sines = self._table(rotary)
        turning = part(x, 0, rotary.width) if rotary.width < head else x
        half = rotary.width // 2
        swapped = op.concat([op.multiply(part(turning, half), number(-1)), part(turning, 0, half)], -1)
        turned = op.add(op.multiply(turning, cosines), op.multiply(swapped, sines))
        return turned if turning is x else op.concat([turned, part(x, rotary.width)], -1)

    def _table(self, rotary: Rotary) -> tuple[Value, Value]:
        """[batch, 1, position, width]; both halves hold the same angles."""
        if rotary not in self._tables:
            angles = op.multiply(self._places, self._frequencies(rotary))
            both = op.unsqueeze(op.concat([angles, angles], -1), integers(1))
            magnitude = 1.0 if rotary.scaling is None else rotary.scaling.magnitude
            cosines, sines = (table if magnitude == 1 else op.multiply(table, number(magnitude))
                              for table in (op.cos(both), op.sin(both)))  # fmt: skip
            self._tables[rotary] = cosines, sines
        return self._tables[rotary]

    def _frequencies(self, rotary: Rotary) -> Value:
        """Radians per position of each pair, [width/2]."""
        if not isinstance(rotary.scaling, LongRopeScaling):
            return _frequencies(rotary, 0)
        original = rotary.scaling.original_context
        last = op.reduce_max(self._positions, integers(0, 1), keep_dims=False)
        is_long = op.greater_equal(last, integer(original))
        return op.select(is_long, _frequencies(rotary, original + 1), _frequencies(rotary, original))


def _frequencies(rotary: Rotary, length: int) -> Value:
    """In the float32 arithmetic of `model.rope`."""
    periods = rotary.base ** (torch.arange(0, rotary.width, 2, dtype=torch.float32) / rotary.width)
    if rotary.scaling is not None:
        periods = periods * torch.tensor(rotary.scaling.divisors(rotary.base, rotary.width, length))
    return as_float32(op.constant((1.0 / periods).numpy()))
