"""The decoder as an OpenVINO graph, with the inputs, outputs and states of optimum-intel's exports.

What goes in: `input_ids` and `position_ids` of the new tokens, `attention_mask` of all so far, and `beam_idx`. What
comes out: `logits` [batch, position, vocab] after every new token; OpenVINO GenAI itself cuts out the last position
before the head. Keys and values are states of the model.
"""

import openvino as ov
import openvino.opset15 as op
import torch

from smidgen.errors import Unsupported
from smidgen.exporting.openvino.attention import Attention, Masks, States
from smidgen.exporting.openvino.graph import Graph, Value, number, reshaped
from smidgen.exporting.openvino.layers import Layers, soft_cap
from smidgen.exporting.openvino.matrices import Matrices
from smidgen.exporting.openvino.rotary import Rotations
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.config import LayerConfig, ModelConfig
from smidgen.model.features import refuse_features
from smidgen.numerics import block_types as types
from smidgen.progress import track

#: What OpenVINO does with the model unless told otherwise: it rounds activations and the cache to 8 bits.
_EXACT = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "KV_CACHE_PRECISION": "f16"}


def refuse_model(config: ModelConfig) -> None:
    """Raises Unsupported for a model that the graph cannot express."""
    refuse_features(config, "smidgen's graph for OpenVINO", "write it with --to hf or --to gguf")
    if any(layer.experts for layer in config.layers):
        raise Unsupported(
            "smidgen writes no mixtures of experts for OpenVINO; write this model with --to hf or --to gguf."
        )


def decoder_graph(checkpoint: Checkpoint, graph: Graph, dtype: torch.dtype | None = None) -> ov.Model:
    """The whole model, its weights read. It uses memory of `graph`, which must outlive it.

    dtype: as `Matrices` takes it.
    """
    config = checkpoint.config
    ids, mask, positions = (_input(name, 2) for name in ("input_ids", "attention_mask", "position_ids"))
    beams = _input("beam_idx", 1, ov.Type.i32)
    layers = Layers(graph, checkpoint, Matrices(graph, checkpoint, dtype))
    states = States(ids, beams)
    capped = any(layer.attention_cap is not None for layer in config.layers)
    attention = Attention(layers, Rotations(positions), Masks(ids, mask), states, capped)
    embedding = layers.matrices.get("embedding.weight")
    x = embedding.rows(ids)
    if config.embedding_scale != 1:
        x = op.multiply(x, number(config.embedding_scale))
    with track("Reading weights", len(config.layers)) as task:
        for index, layer in enumerate(config.layers):
            x = _block(x, index, layer, layers, attention)
            checkpoint.release()
            task.advance(1)
    x = layers.norm(x, "final_norm")
    logits = embedding.times(x) if config.tied_head else layers.linear(x, "head")
    result = op.result(_finished(logits, checkpoint))
    result.output(0).get_tensor().set_names({"logits"})
    parts = [result], states.sinks, [ids, mask, positions, beams], states.variables, config.family
    model = ov.Model(*parts)  # pyright: ignore[reportGeneralTypeIssues] - its metaclass stands in the way
    for key, value in _EXACT.items():
        model.set_rt_info(value, ["runtime_options", key])
    return model


def _block(x: Value, index: int, layer: LayerConfig, layers: Layers, attention: Attention) -> Value:
    prefix = f"blocks.{index}"
    attended = attention.attended(layers.norm(x, f"{prefix}.attention_norm"), index, layer)
    if layer.post_norms:
        attended = layers.norm(attended, f"{prefix}.attention_post_norm")
    x = op.add(x, attended)
    fed = layers.feed_forward(layers.norm(x, f"{prefix}.feed_forward_norm"), index, layer)
    if layer.post_norms:
        fed = layers.norm(fed, f"{prefix}.feed_forward_post_norm")
    return op.add(x, fed)


def _finished(logits: Value, checkpoint: Checkpoint) -> Value:
    """Capped, where the model does that.

    OpenVINO GenAI looks from the end for the product with the head, and cuts what goes into it to the last position. A
    head with shifts is a sum of two products, of which it would cut one; it does not look beyond a Reshape.
    """
    config = checkpoint.config
    if config.logit_cap is not None:
        return soft_cap(logits, config.logit_cap)
    head = "embedding.weight" if config.tied_head else "head.weight"
    return reshaped(logits, 0, 0, config.vocabulary) if checkpoint.kind(head) == types.Q4_1 else logits


def _input(name: str, axes: int, kind: ov.Type = ov.Type.i64) -> Value:
    given = op.parameter(ov.PartialShape([-1] * axes), kind, name=name)
    given.output(0).get_tensor().set_names({name})
    return given
