"""Llama and what shares its architecture in GGUF (Mistral 7B, SmolLM …): Touvron et al. 2023, https://arxiv.org/abs/2302.13971.

GGUF files hold the rows of query and key weights in the order of the paper's rotary embedding (neighbouring features
form a pair); the decoder wants the half-split order, so these rows move.
"""

import numpy as np

from smidgen.model.config import LayerConfig, ModelConfig
from smidgen.model.families.family import COMMON_GGUF_NAMES, Family, grouped_heads, head_width, linear_rope_scale
from smidgen.model.families.keys import Keys


def _configure(keys: Keys, vocabulary: int, tied_head: bool) -> ModelConfig:
    layers = keys.integer("block_count", most=512)
    hidden = keys.integer("embedding_length")
    heads, kv_heads = grouped_heads(keys, layers)
    head = head_width(keys, hidden, heads)
    ffn_widths = keys.per_layer("feed_forward_length", layers)
    base, scale = keys.number("rope.freq_base", 10_000.0), linear_rope_scale(keys)
    return ModelConfig(
        family=LLAMA.name,
        vocabulary=vocabulary,
        hidden=hidden,
        layers=tuple(
            LayerConfig(
                heads=heads[i],
                kv_heads=kv_heads[i],
                head_dim=head,
                ffn_width=ffn_widths[i],
                rope_base=base,
                rope_scale=scale,
                attention_scale=head**-0.5,
                activation="silu",
            )
            for i in range(layers)
        ),
        norm_epsilon=keys.number("attention.layer_norm_rms_epsilon"),
        context_length=keys.integer("context_length", most=2**31 - 1),
        tied_head=tied_head,
    )


def _half_split(heads: int, head: int) -> np.ndarray:
    """Model row h·head + p·head/2 + j is file row h·head + 2j + p (p: which of the pair, j: which pair)."""
    rows = np.arange(heads * head).reshape(heads, head // 2, 2)
    return rows.swapaxes(1, 2).reshape(-1)


LLAMA = Family(
    name="llama",
    gguf_architecture="llama",
    configure=_configure,
    gguf_names=COMMON_GGUF_NAMES,
    neutral_gguf_keys={
        "attention.causal": True,
        "attention.sliding_window": 0,
        "expert_count": 0,
        "expert_used_count": 0,
        "rope.scaling.attn_factor": 1.0,
    },
    gguf_row_orders={
        "blocks.{i}.attention.query.weight": lambda layer: _half_split(layer.heads, layer.head_dim),
        "blocks.{i}.attention.key.weight": lambda layer: _half_split(layer.kv_heads, layer.head_dim),
    },
    refused_gguf_tensors={
        "rope_freqs.weight": "Llama 3's scaled rotary frequencies are not done yet; use a model without this tensor",
    },
)
