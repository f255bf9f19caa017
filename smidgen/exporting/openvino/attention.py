"""Attention in an OpenVINO graph, with keys and values of what came before as states of the model.

States are as optimum-intel's export makes them, and OpenVINO GenAI looks for: read, their rows put into the order of
`beam_idx`, new keys and values after them, and stored. Beside running the graph as it is, GenAI can turn it into one
with paged attention, which it tries first on processors. That transformation goes by patterns. It throws the mask away,
and takes from it no more than the size of a window, where windows are written as in an export of gpt-oss. Masks of
layers with a window are written so here. Soft caps are beyond that operator: where a layer has one, the attention of
every layer is written out, and GenAI runs the graph as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import openvino as ov
import openvino.opset15 as op
from openvino.op.util import Variable, VariableInfo

from smidgen.exporting.openvino.graph import Value, integer, integers, number, part, reshaped, size
from smidgen.exporting.openvino.layers import Layers, soft_cap
from smidgen.exporting.openvino.rotary import Rotations
from smidgen.model.config import LayerConfig

_HIDDEN = -65504.0  # added to a score: finite, since rows of padding see nothing, and within every number format


class Masks:
    """What each new token may see.

    ids: int64 [batch, position], the new tokens.  mask: int64 [batch, total], 1 for every token so far, 0 for padding.
    """

    def __init__(self, ids: Value, mask: Value) -> None:
        length, total = size(ids, 1), size(mask, 1)
        places = op.range(integer(0), total, integer(1), "i64")
        self._keys = op.unsqueeze(places, integers(0))
        new = op.range(op.subtract(total, length), total, integer(1), "i64")
        self._queries = op.unsqueeze(new, integers(1))
        self._causal = op.less_equal(self._keys, self._queries)
        self._given = op.unsqueeze(op.convert(mask, "boolean"), integers(1, 2))
        one = op.constant(np.array([1], np.int64))
        batch = op.gather(op.shape_of(mask, "i64"), integers(0), integer(0))
        lengths = [op.unsqueeze(each, integers(0)) for each in (length, total)]
        self._shape = op.concat([batch, one, *lengths], 0)
        self._made: dict[int | None, Value] = {}

    def get(self, window: int | None) -> Value:
        """What is added to scores, float32 [batch, 1, position, total]."""
        if window not in self._made:
            seen = op.bitwise_and(self._causal if window is None else self._within(window), self._given)
            everywhere = op.broadcast(seen, self._shape, broadcast_spec="BIDIRECTIONAL")
            shown = op.select(everywhere, number(0), number(_HIDDEN))
            # Slices nothing off: the last step of the pattern by which windows are recognised.
            self._made[window] = part(shown, 0)
        return self._made[window]

    def _within(self, window: int) -> Value:
        """The steps, and those that change nothing, are those of the pattern."""
        near = op.greater(self._keys, op.add(self._queries, op.constant(np.array(-window, np.int64))))
        all_seen = op.constant(np.array(True))
        return op.bitwise_and(all_seen, op.bitwise_and(op.bitwise_and(all_seen, near), self._causal))


class States:
    """Keys and values of every layer, from one call of the model to the next.

    ids: the new tokens.  beams: int32 [batch], which row each row goes on from.
    """

    def __init__(self, ids: Value, beams: Value) -> None:
        self._batch = op.gather(op.shape_of(ids, "i64"), integers(0), integer(0))
        self._beams = beams
        self.sinks: list[Value] = []
        self.variables: list[Variable] = []

    def extend(self, new: Value, name: str, heads: int, width: int) -> Value:
        """Stores keys or values [batch, heads, position, width] and gives all so far."""
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, heads, -1, width])
        info.data_type = ov.Type.f32
        info.variable_id = name
        variable = Variable(info)
        nothing = op.broadcast(number(0), op.concat([self._batch, integers(heads, 0, width)], 0))
        past = op.gather(op.read_value(nothing, variable), self._beams, integer(0))
        extended = op.concat([past, new], 2)
        self.sinks.append(op.assign(extended, variable))
        self.variables.append(variable)
        return extended


@dataclass(frozen=True)
class Attention:
    """Writes the attention of layers into a graph.

    written_out: step by step, rather than as one operator.
    """

    layers: Layers
    rotations: Rotations
    masks: Masks
    states: States
    written_out: bool

    def attended(self, x: Value, index: int, layer: LayerConfig) -> Value:
        """The attention's output, for what its norm gives it."""
        prefix, width = f"blocks.{index}.attention", layer.head_dim
        queries = self._placed(x, f"{prefix}.query", layer.heads, layer)
        keys = self._placed(x, f"{prefix}.key", layer.kv_heads, layer)
        values = self._heads(x, f"{prefix}.value", layer.kv_heads, layer)
        keys = self.states.extend(keys, _state(index, "key"), layer.kv_heads, width)
        values = self.states.extend(values, _state(index, "value"), layer.kv_heads, width)
        keys, values = (_shared(each, layer) for each in (keys, values))
        mix = _mixed if self.written_out else _mixed_at_once
        mixed = op.transpose(mix(queries, keys, values, self.masks.get(layer.window), layer), integers(0, 2, 1, 3))
        together = reshaped(mixed, 0, 0, layer.heads * width)
        return self.layers.linear(together, f"{prefix}.output", layer.output_bias)

    def _placed(self, x: Value, name: str, heads: int, layer: LayerConfig) -> Value:
        """Queries or keys, normed and turned, where the layer does that."""

        def normed(apart: Value) -> Value:
            return self.layers.norm(apart, f"{name}_norm") if layer.qk_norm else apart

        apart = self._heads(x, name, heads, layer, normed)
        return apart if layer.rotary is None else self.rotations.rotated(apart, layer.rotary, layer.head_dim)

    def _heads(
        self, x: Value, name: str, heads: int, layer: LayerConfig, change: Callable[[Value], Value] = lambda x: x
    ) -> Value:
        """[batch, heads, position, head]."""
        apart = reshaped(self.layers.linear(x, name, layer.qkv_bias), 0, 0, heads, layer.head_dim)
        return op.transpose(change(apart), integers(0, 2, 1, 3))


def _state(index: int, kind: str) -> str:
    return f"past_key_values.{index}.{kind}present.{index}.{kind}"


def _shared(x: Value, layer: LayerConfig) -> Value:
    """Keys or values, once for each query head."""
    group = layer.heads // layer.kv_heads
    if group == 1:
        return x
    several = op.broadcast(op.unsqueeze(x, integer(2)), integers(1, 1, group, 1, 1), broadcast_spec="BIDIRECTIONAL")
    return reshaped(several, 0, layer.heads, -1, layer.head_dim)


def _mixed_at_once(queries: Value, keys: Value, values: Value, mask: Value, layer: LayerConfig) -> Value:
    return op.scaled_dot_product_attention(queries, keys, values, mask, number(layer.attention_scale))


def _mixed(queries: Value, keys: Value, values: Value, mask: Value, layer: LayerConfig) -> Value:
    scores = op.multiply(op.matmul(queries, keys, transpose_a=False, transpose_b=True), number(layer.attention_scale))
    if layer.attention_cap is not None:
        scores = soft_cap(scores, layer.attention_cap)
    return op.matmul(op.softmax(op.add(scores, mask), -1), values, transpose_a=False, transpose_b=False)
