"""The decoder as TFLite graphs, with the names that LiteRT-LM looks for.

`decode` reads one token and gives `logits` [1, 1, vocab] of the next. `prefill_N` reads N tokens and gives none: only
keys and values. All of them are given `tokens` [1, N] and their places `input_pos` [N], `mask` [1, 1, N, places], and
keys and values of every layer, `kv_cache_k_0` and so on, which they give back with the new ones. Where fewer than N
tokens are left, LiteRT-LM fills up with others, which write keys and values that nobody sees, up to N − 1 places
behind the text. So the cache has that much more room than the model is said to have.
"""

from smidgen.errors import Unsupported
from smidgen.exporting.litert import operators as op
from smidgen.exporting.litert.attention import Attention, Cache, Masks
from smidgen.exporting.litert.layers import Layers
from smidgen.exporting.litert.matrices import Choices, Matrices
from smidgen.exporting.litert.model import Graph, Kind, Model, Value
from smidgen.exporting.litert.rotary import Rotations
from smidgen.exporting.litert.sizes import AT_ONCE, most_tokens
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.config import LayerConfig, ModelConfig
from smidgen.model.features import refuse_features


def refuse_model(config: ModelConfig) -> None:
    """Raises Unsupported for a model that the graph cannot express."""
    refuse_features(config, "smidgen's graph for LiteRT", "write it with --to hf or --to gguf")
    if any(layer.experts for layer in config.layers):
        raise Unsupported(
            "smidgen writes no mixtures of experts for LiteRT; write this model with --to hf or --to gguf."
        )


def decoder_graphs(checkpoint: Checkpoint, choices: Choices) -> Model:
    """All graphs. No weights are read."""
    config, model = checkpoint.config, Model(checkpoint.config.family)
    places = most_tokens(config) + max(AT_ONCE)
    for length in AT_ONCE:
        _read(model.graph(f"prefill_{length}"), checkpoint, length, places, choices)
    graph = model.graph("decode")
    layers, x = _read(graph, checkpoint, 1, places, choices)
    x = layers.norm(x, "final_norm")
    logits = layers.linear(x, "embedding" if config.tied_head else "head")
    if config.logit_cap is not None:
        logits = op.soft_cap(graph, logits, config.logit_cap)
    graph.output("logits", logits)
    return model


def _read(graph: Graph, checkpoint: Checkpoint, length: int, places: int, choices: Choices) -> tuple[Layers, Value]:
    """The layers, and what the last block gives for each token."""
    config = checkpoint.config
    tokens, numbers = graph.input("tokens", (1, length), Kind.INT32), graph.input("input_pos", (length,), Kind.INT32)
    mask = graph.input("mask", (1, 1, length, places))
    layers = Layers(graph, checkpoint, Matrices(graph, checkpoint, choices))
    positions = op.as_float32(graph, numbers)
    masks, cache = Masks(graph, mask, positions), Cache(graph, op.first(graph, numbers), places)
    attention = Attention(layers, Rotations(graph, positions), masks, cache)
    x = op.scaled(graph, layers.matrices.get("embedding.weight").rows(tokens), config.embedding_scale)
    for index, layer in enumerate(config.layers):
        x = _block(x, index, layer, layers, attention)
    return layers, x


def _block(x: Value, index: int, layer: LayerConfig, layers: Layers, attention: Attention) -> Value:
    prefix = f"blocks.{index}"
    attended = attention.attended(layers.norm(x, f"{prefix}.attention_norm"), index, layer)
    if layer.post_norms:
        attended = layers.norm(attended, f"{prefix}.attention_post_norm")
    x = op.add(layers.graph, x, attended)
    fed = layers.feed_forward(layers.norm(x, f"{prefix}.feed_forward_norm"), index, layer)
    if layer.post_norms:
        fed = layers.norm(fed, f"{prefix}.feed_forward_post_norm")
    return op.add(layers.graph, x, fed)
