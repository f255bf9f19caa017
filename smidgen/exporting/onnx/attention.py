"""Attention in an ONNX graph: ONNX Runtime's GroupQueryAttention, with a cache of keys and values beside it.

The operator knows groups of queries, sliding windows, soft caps and the scale. Norms of queries and keys come before
it, and so do rotary positions: the operator could turn queries and keys itself, but wants a table of cosines and sines
of the whole context for that, 67 MB for Gemma 3 270M. Here they are computed for the positions that are new.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from smidgen.errors import Unsupported
from smidgen.exporting.onnx.graph import CONTRIB, Graph
from smidgen.exporting.onnx.layers import Layers
from smidgen.model.config import LayerConfig, Rotary
from smidgen.model.rope_scaling import LongRopeScaling

_HEAD_MULTIPLE = 8  # what the operator takes


def refuse_attention(layer: LayerConfig, index: int) -> None:
    """Raises Unsupported for what the operator does not take."""
    if layer.head_dim % _HEAD_MULTIPLE:
        raise Unsupported(
            f"ONNX Runtime's attention takes heads whose width is divisible by {_HEAD_MULTIPLE}; those of layer "
            f"{index} are {layer.head_dim} wide. Write this model with --to hf or --to gguf."
        )


class Positions:
    """Where tokens stand: how many there are so far, and the cosines and sines of the new ones.

    mask: int64 [batch, total], 1 for every token so far.  ids: int64 [batch, position], of the new ones.
    """

    def __init__(self, graph: Graph, mask: ir.Value, ids: ir.Value) -> None:
        self._graph, self._ids = graph, ids
        last = graph.add("Sub", graph.add("ReduceSum", mask, graph.integers(1), keepdims=0), graph.integers(1))
        #: The last one's place in each row, and how many there are in the longest.
        self.last = graph.add("Cast", last, to=int(ir.DataType.INT32))
        total = graph.add("Gather", graph.add("Shape", mask), graph.constant(np.array(1, np.int64)))
        self.total = graph.add("Cast", total, to=int(ir.DataType.INT32))
        self._flat = graph.add("Cast", graph.add("Reshape", ids, graph.integers(-1, 1)), to=int(ir.DataType.FLOAT))
        self._tables: dict[Rotary, tuple[ir.Value, ir.Value]] = {}
        self._places: ir.Value | None = None

    def rotated(self, x: ir.Value, heads: int, rotary: Rotary) -> ir.Value:
        """Queries or keys [batch, position, heads · head], turned."""
        cosines, sines = self._table(rotary)
        return self._graph.contrib(
            "RotaryEmbedding", x, self._rows(), cosines, sines, num_heads=heads, rotary_embedding_dim=rotary.width
        )

    def _rows(self) -> ir.Value:
        """Which row of the tables each new token has: they are numbered through all rows of the batch."""
        if self._places is None:
            shape = self._graph.add("Shape", self._ids)
            count = self._graph.add("ReduceProd", shape, self._graph.integers(0), keepdims=0)
            zero, one = (self._graph.constant(np.array(number, np.int64)) for number in (0, 1))
            self._places = self._graph.add("Reshape", self._graph.add("Range", zero, count, one), shape)
        return self._places

    def _table(self, rotary: Rotary) -> tuple[ir.Value, ir.Value]:
        """Cosines and sines [tokens, width/2]."""
        if rotary not in self._tables:
            angles = self._graph.add("Mul", self._flat, self._frequencies(rotary))
            magnitude = 1.0 if rotary.scaling is None else rotary.scaling.magnitude
            cosines, sines = (self._graph.add(operator, angles) for operator in ("Cos", "Sin"))
            if magnitude != 1:
                factor = self._graph.number(magnitude)
                cosines, sines = (self._graph.add("Mul", table, factor) for table in (cosines, sines))
            self._tables[rotary] = cosines, sines
        return self._tables[rotary]

    def _frequencies(self, rotary: Rotary) -> ir.Value:
        """Radians per position of each pair, [1, width/2]."""
        if not isinstance(rotary.scaling, LongRopeScaling):
            return self._graph.constant(_frequencies(rotary, 0))
        original = rotary.scaling.original_context
        limit = self._graph.constant(np.array(original, np.int32))
        short, long = (self._graph.constant(_frequencies(rotary, length)) for length in (original, original + 1))
        return self._graph.add("Where", self._graph.add("Greater", self.total, limit), long, short)


def _frequencies(rotary: Rotary, length: int) -> np.ndarray:
    """In the float32 arithmetic of `model.rope`."""
    periods = rotary.base ** (torch.arange(0, rotary.width, 2, dtype=torch.float32) / rotary.width)
    if rotary.scaling is not None:
        periods = periods * torch.tensor(rotary.scaling.divisors(rotary.base, rotary.width, length))
    return (1.0 / periods)[None].numpy()


@dataclass(frozen=True)
class Attention:
    """Writes the attention of layers into a graph."""

    layers: Layers
    positions: Positions

    def attended(self, x: ir.Value, index: int, layer: LayerConfig) -> ir.Value:
        """The attention's output, for what its norm gives it."""
        graph, prefix = self.layers.graph, f"blocks.{index}.attention"
        queries, keys, values = (
            self.layers.linear(x, f"{prefix}.{part}", layer.qkv_bias) for part in ("query", "key", "value")
        )
        queries, keys = self._placed(queries, keys, prefix, layer)
        shape = ("batch", layer.kv_heads, "past", layer.head_dim)
        past = [graph.input(f"past_key_values.{index}.{part}", ir.DataType.FLOAT, shape) for part in ("key", "value")]
        attributes = {"num_heads": layer.heads, "kv_num_heads": layer.kv_heads, "scale": layer.attention_scale}
        if layer.window is not None:
            attributes["local_window_size"] = layer.window
        if layer.attention_cap is not None:
            attributes["softcap"] = layer.attention_cap
        mixed, *present = graph.add_several(
            "GroupQueryAttention", 3, queries, keys, values, *past, self.positions.last, self.positions.total,
            domain=CONTRIB, **attributes,
        )  # fmt: skip
        for part, value in zip(("key", "value"), present, strict=True):
            graph.output(value, f"present.{index}.{part}", ("batch", layer.kv_heads, "kept", layer.head_dim))
        return self.layers.linear(mixed, f"{prefix}.output", layer.output_bias)

    def _placed(self, queries: ir.Value, keys: ir.Value, prefix: str, layer: LayerConfig) -> Sequence[ir.Value]:
        """Queries and keys, normed and turned, where the layer does that."""
        placed = []
        for x, part, heads in ((queries, "query", layer.heads), (keys, "key", layer.kv_heads)):
            if layer.qk_norm:
                x = self.layers.norm_of_heads(x, f"{prefix}.{part}_norm", heads, layer.head_dim)
            placed.append(x if layer.rotary is None else self.positions.rotated(x, heads, layer.rotary))
        return placed
