"""Canonical parameter names and their shapes, straight from a configuration; torch-free.

They equal the names and shapes of `Decoder(config).state_dict()` (a test holds them together), so that a file can be
checked against its own configuration before any tensor library is loaded.
"""

from smidgen.model.config import LayerConfig, ModelConfig

Shape = tuple[int, ...]

#: The linear weights of a block, in the order in which the data meets them.
BLOCK_LINEARS = (
    "attention.query.weight",
    "attention.key.weight",
    "attention.value.weight",
    "attention.output.weight",
    "feed_forward.gate.weight",
    "feed_forward.up.weight",
    "feed_forward.down.weight",
)

_QK_NORMS = ("attention.query_norm.weight", "attention.key_norm.weight")
_POST_NORMS = ("attention_post_norm.weight", "feed_forward_post_norm.weight")


def block_shapes(layer: LayerConfig, hidden: int) -> dict[str, Shape]:
    """Names within one block → shapes, in the order in which the data meets them; linear weights are (out, in)."""
    query, key = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
    shapes: dict[str, Shape] = {
        "attention_norm.weight": (hidden,),
        "attention.query.weight": (query, hidden),
        "attention.key.weight": (key, hidden),
        "attention.value.weight": (key, hidden),
        "attention.query_norm.weight": (layer.head_dim,),
        "attention.key_norm.weight": (layer.head_dim,),
        "attention.output.weight": (hidden, query),
        "attention_post_norm.weight": (hidden,),
        "feed_forward_norm.weight": (hidden,),
        "feed_forward.gate.weight": (layer.ffn_width, hidden),
        "feed_forward.up.weight": (layer.ffn_width, hidden),
        "feed_forward.down.weight": (hidden, layer.ffn_width),
        "feed_forward_post_norm.weight": (hidden,),
    }
    absent = (() if layer.qk_norm else _QK_NORMS) + (() if layer.post_norms else _POST_NORMS)
    return {name: shape for name, shape in shapes.items() if name not in absent}


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


def split_block_name(name: str) -> tuple[int, str] | None:
    """`"blocks.3.attention.key.weight"` → `(3, "attention.key.weight")`; None for names outside the blocks."""
    if not name.startswith("blocks."):
        return None
    _, index, rest = name.split(".", 2)
    return int(index), rest
