"""Rotary positions in a TFLite graph: what `model.rope` computes, for the positions that are given."""

import numpy as np
import torch

from smidgen.exporting.litert import operators as op
from smidgen.exporting.litert.model import Graph, Value
from smidgen.model.config import Rotary
from smidgen.model.rope_scaling import LongRopeScaling


class Rotations:
    """Cosines and sines of the new tokens, made once for all layers that turn alike.

    positions: float32 [position].
    """

    def __init__(self, graph: Graph, positions: Value) -> None:
        self._graph, self._positions = graph, positions
        self._tables: dict[Rotary, tuple[Value, Value]] = {}

    def rotated(self, x: Value, rotary: Rotary) -> Value:
        """Queries or keys [1, heads, position, head], turned."""
        graph, head = self._graph, x.shape[-1]
        cosines, sines = self._table(rotary)
        turning = op.part(graph, x, 0, rotary.width) if rotary.width < head else x
        half = rotary.width // 2
        second = op.scaled(graph, op.part(graph, turning, half, rotary.width), -1)
        swapped = op.concatenate(graph, [second, op.part(graph, turning, 0, half)])
        turned = op.add(graph, op.multiply(graph, turning, cosines), op.multiply(graph, swapped, sines))
        return turned if turning is x else op.concatenate(graph, [turned, op.part(graph, x, rotary.width, head)])

    def _table(self, rotary: Rotary) -> tuple[Value, Value]:
        """[1, 1, position, width]; both halves hold the same angles."""
        if rotary not in self._tables:
            graph, length = self._graph, self._positions.shape[0]
            places = op.reshape(graph, self._positions, 1, 1, length, 1)
            angles = op.multiply(graph, places, self._frequencies(rotary))
            both = op.concatenate(graph, [angles, angles])
            magnitude = 1.0 if rotary.scaling is None else rotary.scaling.magnitude
            cosines, sines = (
                op.scaled(graph, turn(graph, both), magnitude) for turn in (op.cosine, op.sine)
            )  # fmt: skip
            self._tables[rotary] = cosines, sines
        return self._tables[rotary]

    def _frequencies(self, rotary: Rotary) -> Value:
        """Radians per position of each pair, [1, 1, 1, width/2]."""
        graph = self._graph
        if not isinstance(rotary.scaling, LongRopeScaling):
            return op.constant(graph, _frequencies(rotary, 0))
        original = rotary.scaling.original_context
        is_long = op.at_least(graph, op.largest(graph, self._positions), op.number(graph, original))
        long, short = (op.constant(graph, _frequencies(rotary, length)) for length in (original + 1, original))
        return op.chosen(graph, op.reshape(graph, is_long, 1, 1, 1, 1), long, short)


def _frequencies(rotary: Rotary, length: int) -> np.ndarray:
    """In the float32 arithmetic of `model.rope`."""
    periods = rotary.base ** (torch.arange(0, rotary.width, 2, dtype=torch.float32) / rotary.width)
    if rotary.scaling is not None:
        periods = periods * torch.tensor(rotary.scaling.divisors(rotary.base, rotary.width, length))
    return (1.0 / periods).float().reshape(1, 1, 1, -1).numpy()
