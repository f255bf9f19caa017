"""Attention in a TFLite graph, with keys and values of what came before as inputs and outputs.

Their buffers belong to LiteRT-LM, which hands in the ones that came out before, or the very same memory for both. Each
has places for as many tokens as the model reads, and the new ones are written at their place. The mask that LiteRT-LM
gives says which places may be seen: those of the text so far. What a window hides is added here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from smidgen.exporting.litert import operators as op
from smidgen.exporting.litert.layers import Layers
from smidgen.exporting.litert.model import Graph, Value
from smidgen.exporting.litert.rotary import Rotations
from smidgen.model.config import LayerConfig

_HIDDEN = -40000.0  # in place of what is added to a score: finite in every type that a runtime may compute with


class Masks:
    """What is added to scores.

    given: float32 [1, 1, position, places].  positions: float32 [position].
    """

    def __init__(self, graph: Graph, given: Value, positions: Value) -> None:
        self._graph, self._positions = graph, positions
        self._made: dict[int | None, Value] = {None: given}

    def get(self, window: int | None) -> Value:
        """[1, 1, position, places]."""
        if window not in self._made:
            graph, (length, places) = self._graph, self._made[None].shape[2:]
            queries = op.reshape(graph, self._positions, 1, 1, length, 1)
            keys = op.constant(graph, np.arange(places, dtype=np.float32).reshape(1, 1, 1, places))
            far = op.at_least(graph, op.subtract(graph, queries, keys), op.number(graph, float(window or 0)))
            self._made[window] = op.chosen(graph, far, op.number(graph, _HIDDEN), self._made[None])
        return self._made[window]


class Cache:
    """Keys and values of every layer.

    first: int32 [1], the place of the first new token.  places: for how many tokens there is room.
    """

    def __init__(self, graph: Graph, first: Value, places: int) -> None:
        self._graph, self._places = graph, places
        zero = op.integers(graph, 0)
        self._corner = op.concatenate(graph, [zero, zero, first, zero])

    def extend(self, name: str, new: Value) -> Value:
        """Stores keys or values [1, heads, position, head] and gives those of all places."""
        _, heads, _, width = new.shape
        past = self._graph.input(name, (1, heads, self._places, width))
        extended = op.updated(self._graph, past, new, self._corner)
        self._graph.output(name, extended)
        return extended


@dataclass(frozen=True)
class Attention:
    """Writes the attention of layers into a graph."""

    layers: Layers
    rotations: Rotations
    masks: Masks
    cache: Cache

    def attended(self, x: Value, index: int, layer: LayerConfig) -> Value:
        """The attention's output, for what its norm gives it."""
        graph, prefix, (_, length, _) = self.layers.graph, f"blocks.{index}.attention", x.shape
        queries = self._placed(x, f"{prefix}.query", layer.heads, layer)
        keys = self.cache.extend(f"kv_cache_k_{index}", self._placed(x, f"{prefix}.key", layer.kv_heads, layer))
        values = self._heads(x, f"{prefix}.value", layer.kv_heads, layer)
        values = self.cache.extend(f"kv_cache_v_{index}", values)
        mixed = self._mixed(queries, keys, values, layer)
        side_by_side = op.transpose(graph, op.reshape(graph, mixed, 1, layer.heads, length, layer.head_dim), 0, 2, 1, 3)
        together = op.reshape(graph, side_by_side, 1, length, layer.heads * layer.head_dim)
        return self.layers.linear(together, f"{prefix}.output", layer.output_bias)

    def _mixed(self, queries: Value, keys: Value, values: Value, layer: LayerConfig) -> Value:
        """[1, kv_heads, group · position, head]: query heads that share keys stand one after the other."""
        graph, (_, _, length, width), places = self.layers.graph, queries.shape, keys.shape[2]
        group = layer.heads // layer.kv_heads
        stacked = op.reshape(
            graph, op.scaled(graph, queries, layer.attention_scale), 1, layer.kv_heads, group * length, width
        )
        scores = op.products(graph, stacked, keys, transposed=True)
        if layer.attention_cap is not None:
            scores = op.soft_cap(graph, scores, layer.attention_cap)
        apart = op.reshape(graph, scores, layer.kv_heads, group, length, places)
        shares = op.softmax(graph, op.add(graph, apart, self.masks.get(layer.window)))
        return op.products(graph, op.reshape(graph, shares, *scores.shape), values)

    def _placed(self, x: Value, name: str, heads: int, layer: LayerConfig) -> Value:
        """Queries or keys, normed and turned, where the layer does that."""

        def normed(apart: Value) -> Value:
            return self.layers.norm(apart, f"{name}_norm") if layer.qk_norm else apart

        apart = self._heads(x, name, heads, layer, normed)
        return apart if layer.rotary is None else self.rotations.rotated(apart, layer.rotary)

    def _heads(
        self, x: Value, name: str, heads: int, layer: LayerConfig, change: Callable[[Value], Value] = lambda x: x
    ) -> Value:
        """[1, heads, position, head]."""
        graph, length = self.layers.graph, x.shape[1]
        apart = op.reshape(graph, self.layers.linear(x, name, layer.qkv_bias), 1, length, heads, layer.head_dim)
        return op.transpose(graph, change(apart), 0, 2, 1, 3)
