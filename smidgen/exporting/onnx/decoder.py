"""The decoder as an ONNX graph, with the inputs and outputs that onnxruntime-genai looks for.

What goes in: `input_ids`, `attention_mask`, `position_ids`, and keys and values of what came before. What comes out:
`logits` of the last token alone, [batch, 1, vocab], since nobody reads the others when text is written, and with a
large vocabulary they take more memory and time than all else; and keys and values, with the new ones added.
"""

import numpy as np
import onnx_ir as ir
import torch

from smidgen.errors import Unsupported
from smidgen.exporting.onnx.attention import Attention, Positions, refuse_attention
from smidgen.exporting.onnx.graph import Graph
from smidgen.exporting.onnx.layers import Layers
from smidgen.exporting.onnx.matrices import Matrices
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.config import LayerConfig, ModelConfig
from smidgen.model.features import refuse_features


def refuse_model(config: ModelConfig) -> None:
    """Raises Unsupported for a model that the graph cannot express."""
    refuse_features(config, "smidgen's graph for ONNX Runtime", "write it with --to hf or --to gguf")
    for index, layer in enumerate(config.layers):
        if layer.experts:
            raise Unsupported(
                "smidgen writes no mixtures of experts for ONNX Runtime; write this model with --to hf or --to gguf."
            )
        refuse_attention(layer, index)


def decoder_graph(checkpoint: Checkpoint, int8: bool = False, dtype: torch.dtype | None = None) -> Graph:
    """The whole graph. No weights are read.

    int8, dtype: as `Matrices` takes them.
    """
    config, graph = checkpoint.config, Graph()
    ids, mask, places = (
        graph.input(name, ir.DataType.INT64, ("batch", length))
        for name, length in (("input_ids", "position"), ("attention_mask", "total"), ("position_ids", "position"))
    )
    layers = Layers(graph, checkpoint, Matrices(graph, checkpoint, int8, dtype))
    positions = Positions(graph, mask, places)
    embedding = layers.matrices.get("embedding.weight", multiplied=config.tied_head)
    x = embedding.rows(ids)
    if config.embedding_scale != 1:
        x = graph.add("Mul", x, graph.number(config.embedding_scale))
    attention = Attention(layers, positions)
    for index, layer in enumerate(config.layers):
        x = _block(x, index, layer, layers, attention)
    x = layers.norm(_last(graph, x, positions), "final_norm")
    logits = embedding.times(x) if config.tied_head else layers.linear(x, "head")
    if config.logit_cap is not None:
        logits = layers.soft_cap(logits, config.logit_cap)
    graph.output(logits, "logits", ("batch", 1, config.vocabulary))
    return graph


def _block(x: ir.Value, index: int, layer: LayerConfig, layers: Layers, attention: Attention) -> ir.Value:
    prefix = f"blocks.{index}"
    attended = attention.attended(layers.norm(x, f"{prefix}.attention_norm"), index, layer)
    if layer.post_norms:
        attended = layers.norm(attended, f"{prefix}.attention_post_norm")
    x = layers.graph.add("Add", x, attended)
    fed = layers.feed_forward(layers.norm(x, f"{prefix}.feed_forward_norm"), index, layer)
    if layer.post_norms:
        fed = layers.norm(fed, f"{prefix}.feed_forward_post_norm")
    return layers.graph.add("Add", x, fed)


def _last(graph: Graph, x: ir.Value, positions: Positions) -> ir.Value:
    """[batch, position, hidden] → [batch, 1, hidden]: of each row the last token that is no padding.

    New tokens of a row stand behind the ones that the cache holds; shorter rows are padded on the right.
    """
    new = graph.add("Gather", graph.add("Shape", x), graph.constant(np.array(1, np.int64)))
    new = graph.add("Cast", new, to=int(ir.DataType.INT32))
    place = graph.add("Sub", positions.last, graph.add("Sub", positions.total, new))
    zero, one = (graph.constant(np.array(number, np.int32)) for number in (0, 1))
    place = graph.add("Min", graph.add("Max", place, zero), graph.add("Sub", new, one))
    indices = graph.add("Reshape", graph.add("Cast", place, to=int(ir.DataType.INT64)), graph.integers(-1, 1, 1))
    return graph.add("GatherND", x, indices, batch_dims=1)
