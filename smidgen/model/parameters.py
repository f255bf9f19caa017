"""Canonical parameter names and their shapes, straight from a configuration; torch-free.

They equal the names and shapes of `Decoder(config).state_dict()` (a test holds them together), so that a file can be
checked against its own configuration before any tensor library is loaded.
"""

from smidgen.model.config import LayerConfig, ModelConfig

Shape = tuple[int, ...]

#: The table in which layers look up tokens, and what is projected beside it (`model.layer_inputs`).
LAYER_EMBEDDING, PROJECTION = "layer_embedding.weight", "layer_projection.weight"
#: Matrices with a row for each token.
BY_TOKEN = frozenset({"embedding.weight", "head.weight", LAYER_EMBEDDING})
#: Modules whose weights are vectors, or matrices so small and so sensitive that they stay as they are.
_NOT_COMPRESSED = ("norm", "router", "scale", "streams.predict", "streams.correct")


def block_linears(layer: LayerConfig) -> tuple[str, ...]:
    """The linear layers of a block that are worth compressing, in the order in which the data meets them.

    A router of experts is not among them: it is tiny, and an error there sends tokens astray.
    """
    names = (name.removesuffix(".weight") for name in block_shapes(layer, 1) if is_matrix(name))
    return tuple(names)


def block_shapes(layer: LayerConfig, hidden: int) -> dict[str, Shape]:
    """Names within one block → shapes, in the order in which the data meets them; linear weights are (out, in)."""
    shapes = _stream_shapes(layer, hidden) if layer.streams > 1 else {}
    shapes["attention_norm.weight"] = (hidden,)
    shapes |= _attention_shapes(layer, hidden)
    if layer.low_rank:
        shapes |= {"low_rank.left.weight": (layer.low_rank, hidden), "low_rank.right.weight": (hidden, layer.low_rank)}
        shapes["low_rank_norm.weight"] = (hidden,)
    if layer.post_norms:
        shapes["attention_post_norm.weight"] = (hidden,)
    shapes["feed_forward_norm.weight"] = (hidden,)
    if not layer.experts:
        shapes |= _network_shapes("feed_forward", layer.ffn_width, hidden)
    elif not layer.expert_width:
        shapes |= _expert_shapes(layer, layer.ffn_width, hidden)
    else:
        shapes |= _network_shapes("feed_forward", layer.ffn_width, hidden)
        shapes |= {"feed_forward_own_norm.weight": (hidden,), "experts_norm.weight": (hidden,)}
        shapes |= _expert_shapes(layer, layer.expert_width, hidden)
        shapes["experts_post_norm.weight"] = (hidden,)
    if layer.post_norms:
        shapes["feed_forward_post_norm.weight"] = (hidden,)
    if layer.layer_input:
        width = layer.layer_input
        shapes |= {"layer_input.gate.weight": (width, hidden), "layer_input.output.weight": (hidden, width)}
        shapes["layer_input_norm.weight"] = (hidden,)
    if layer.output_scale:
        shapes["output_scale.weight"] = (1,)
    return shapes


def _attention_shapes(layer: LayerConfig, hidden: int) -> dict[str, Shape]:
    query, key = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
    own = [("query", query)]
    if layer.borrows is None:
        own += [("key", key)] if layer.keys_are_values else [("key", key), ("value", key)]
    shapes: dict[str, Shape] = {}
    for part, rows in own:
        shapes[f"attention.{part}.weight"] = (rows, hidden)
        if layer.qkv_bias:
            shapes[f"attention.{part}.bias"] = (rows,)
    if layer.qk_norm:
        normed = ("query", "key") if layer.borrows is None else ("query",)
        shapes |= {f"attention.{part}_norm.weight": (layer.head_dim,) for part in normed}
    shapes["attention.output.weight"] = (hidden, query)
    if layer.output_bias:
        shapes["attention.output.bias"] = (hidden,)
    return shapes


def _stream_shapes(layer: LayerConfig, hidden: int) -> dict[str, Shape]:
    streams = layer.streams
    return {
        "streams.router_norm.weight": (hidden,),
        "streams.router.weight": (streams, hidden),
        "streams.predict.weight": (streams**2, streams),
        "streams.correct.weight": (streams, streams),
        "streams.output_scale.weight": (hidden,),
    }


def _expert_shapes(layer: LayerConfig, width: int, hidden: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"experts.router.weight": (layer.experts, hidden)}
    if layer.expert_width:
        shapes |= {"experts.router_scale.weight": (hidden,), "experts.output_scale.weight": (layer.experts,)}
    for expert in range(layer.experts):
        shapes |= _network_shapes(f"experts.{expert}", width, hidden)
    return shapes


def _network_shapes(name: str, width: int, hidden: int) -> dict[str, Shape]:
    wide = (width, hidden)
    return {f"{name}.gate.weight": wide, f"{name}.up.weight": wide, f"{name}.down.weight": (hidden, width)}


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every canonical name of the model → shape."""
    shapes: dict[str, Shape] = {"embedding.weight": (config.vocabulary, config.hidden)}
    square = (config.hidden, config.hidden)
    if config.layer_input:
        width = len(config.layers) * config.layer_input
        shapes[LAYER_EMBEDDING] = (config.layer_input_rows, width)
        shapes[PROJECTION] = (width, config.hidden)
        shapes["layer_projection_norm.weight"] = (config.layer_input,)
    shapes |= {f"streams_in.{stream}.weight": square for stream in range(config.streams - 1)}
    for index, layer in enumerate(config.layers):
        block = block_shapes(layer, config.hidden)
        shapes |= {f"blocks.{index}.{name}": shape for name, shape in block.items()}
    shapes |= {f"streams_out.{stream}.weight": square for stream in range(config.streams - 1)}
    shapes["final_norm.weight"] = (config.hidden,)
    if not config.tied_head:
        shapes["head.weight"] = (config.vocabulary, config.hidden)
    return shapes


def is_matrix(name: str) -> bool:
    """Whether a parameter is worth compressing: matrices are, but for routers and the like; vectors are not."""
    module, _, kind = name.rpartition(".")
    return kind == "weight" and not module.endswith(_NOT_COMPRESSED)


def split_block_name(name: str) -> tuple[int, str] | None:
    """`"blocks.3.attention.key.weight"` → `(3, "attention.key.weight")`; None for names outside the blocks."""
    if not name.startswith("blocks."):
        return None
    _, index, rest = name.split(".", 2)
    return int(index), rest
