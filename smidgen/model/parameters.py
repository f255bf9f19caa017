"""Canonical parameter names and their shapes, straight from a configuration; torch-free.

They equal the names and shapes of `Decoder(config).state_dict()` (a test holds them together), so that a file can be
checked against its own configuration before any tensor library is loaded.
"""

from smidgen.model.config import LayerConfig, ModelConfig

Shape = tuple[int, ...]

_ATTENTION = ("query", "key", "value", "output")
_FEED_FORWARD = ("gate", "up", "down")


def block_linears(layer: LayerConfig) -> tuple[str, ...]:
    """The linear layers of a block that are worth compressing, in the order in which the data meets them.

    A router of experts is not among them: it is tiny, and an error there sends tokens astray.
    """
    networks = [f"experts.{expert}" for expert in range(layer.experts)] or ["feed_forward"]
    attention = tuple(f"attention.{part}" for part in _ATTENTION)
    return attention + tuple(f"{network}.{part}" for network in networks for part in _FEED_FORWARD)


def block_shapes(layer: LayerConfig, hidden: int) -> dict[str, Shape]:
    """Names within one block → shapes, in the order in which the data meets them; linear weights are (out, in)."""
    shapes: dict[str, Shape] = {"attention_norm.weight": (hidden,)}
    query, key = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
    for part, rows in (("query", query), ("key", key), ("value", key)):
        shapes[f"attention.{part}.weight"] = (rows, hidden)
        if layer.qkv_bias:
            shapes[f"attention.{part}.bias"] = (rows,)
    if layer.qk_norm:
        shapes |= {f"attention.{part}_norm.weight": (layer.head_dim,) for part in ("query", "key")}
    shapes["attention.output.weight"] = (hidden, query)
    if layer.output_bias:
        shapes["attention.output.bias"] = (hidden,)
    if layer.post_norms:
        shapes["attention_post_norm.weight"] = (hidden,)
    shapes["feed_forward_norm.weight"] = (hidden,)
    shapes |= _expert_shapes(layer, hidden) if layer.experts else _network_shapes("feed_forward", layer, hidden)
    if layer.post_norms:
        shapes["feed_forward_post_norm.weight"] = (hidden,)
    return shapes


def _expert_shapes(layer: LayerConfig, hidden: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"experts.router.weight": (layer.experts, hidden)}
    for expert in range(layer.experts):
        shapes |= _network_shapes(f"experts.{expert}", layer, hidden)
    return shapes


def _network_shapes(name: str, layer: LayerConfig, hidden: int) -> dict[str, Shape]:
    wide = (layer.ffn_width, hidden)
    return {f"{name}.gate.weight": wide, f"{name}.up.weight": wide, f"{name}.down.weight": (hidden, layer.ffn_width)}


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every canonical name of the model → shape."""
    shapes: dict[str, Shape] = {"embedding.weight": (config.vocabulary, config.hidden)}
    for index, layer in enumerate(config.layers):
        block = block_shapes(layer, config.hidden)
        shapes |= {f"blocks.{index}.{name}": shape for name, shape in block.items()}
    shapes["final_norm.weight"] = (config.hidden,)
    if not config.tied_head:
        shapes["head.weight"] = (config.vocabulary, config.hidden)
    return shapes


def is_matrix(name: str) -> bool:
    """Whether a parameter is worth compressing: matrices are, but for a router of experts; vectors are not."""
    return name.endswith(".weight") and "norm" not in name and not name.endswith("experts.router.weight")


def split_block_name(name: str) -> tuple[int, str] | None:
    """`"blocks.3.attention.key.weight"` → `(3, "attention.key.weight")`; None for names outside the blocks."""
    if not name.startswith("blocks."):
        return None
    _, index, rest = name.split(".", 2)
    return int(index), rest
