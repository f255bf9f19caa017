"""Gemma 3, text (Gemma Team 2025, https://arxiv.org/abs/2503.19786): facts as in llama.cpp's gemma3 graph.

Five layers with a sliding window (rotary base 10,000) to one that sees everything (base 1,000,000, and linear rope
scaling in the larger models); query/key norms, norms after attention and feed-forward, embeddings times √hidden.
"""

import numpy as np

from smidgen.errors import BadFile
from smidgen.model.config import LayerConfig, ModelConfig
from smidgen.model.families.family import COMMON_GGUF_NAMES, Family, grouped_heads, head_width, linear_rope_scale
from smidgen.model.families.keys import Keys

_LAYERS_OF_27B = 62


def _configure(keys: Keys, vocabulary: int, tied_head: bool) -> ModelConfig:
    layers = keys.integer("block_count", most=512)
    hidden = keys.integer("embedding_length")
    heads, kv_heads = grouped_heads(keys, layers)
    head = head_width(keys, hidden, heads)
    ffn_widths = keys.per_layer("feed_forward_length", layers)
    window = keys.integer("attention.sliding_window", 0, least=0, most=2**31 - 1) or None
    local = _local_layers(keys, layers) if window else (False,) * layers
    # The 27B model scales scores by the residual width of a head; engines tell it by its number of layers.
    scaled_width = hidden // heads[0] if layers == _LAYERS_OF_27B else head
    global_base, local_base = keys.number("rope.freq_base"), keys.number("rope.freq_base_swa", 10_000.0)
    global_scale = linear_rope_scale(keys)
    return ModelConfig(
        family=GEMMA3.name,
        vocabulary=vocabulary,
        hidden=hidden,
        layers=tuple(
            LayerConfig(
                heads=heads[i],
                kv_heads=kv_heads[i],
                head_dim=head,
                ffn_width=ffn_widths[i],
                rope_base=local_base if local[i] else global_base,
                rope_scale=1.0 if local[i] else global_scale,
                attention_scale=max(1, scaled_width) ** -0.5,
                activation="gelu_tanh",
                window=window if local[i] else None,
                qk_norm=True,
                post_norms=True,
            )
            for i in range(layers)
        ),
        norm_epsilon=keys.number("attention.layer_norm_rms_epsilon"),
        context_length=keys.integer("context_length", most=2**31 - 1),
        tied_head=tied_head,
        embedding_scale=hidden**0.5,
        logit_cap=keys.number("final_logit_softcapping", 0.0, zero=True) or None,
    )


def _local_layers(keys: Keys, layers: int) -> tuple[bool, ...]:
    """Which layers have a window: every one but each sixth, unless the file gives a period or a flag for each layer."""
    key = "attention.sliding_window_pattern"
    flags = keys.value(key)
    if isinstance(flags, (np.ndarray, list)):
        if len(flags) != layers or np.asarray(flags).dtype.kind not in "biu":
            raise BadFile(f"gemma3.{key} should be one flag for each of the {layers} layers; the file is damaged")
        return tuple(bool(flag) for flag in flags)
    period = keys.integer(key, 6, least=0, most=2**31 - 1)
    return tuple(period == 0 or i % period < period - 1 for i in range(layers))


GEMMA3 = Family(
    name="gemma3",
    gguf_architecture="gemma3",
    configure=_configure,
    gguf_names=COMMON_GGUF_NAMES
    | {
        "blocks.{i}.attention.query_norm.weight": "blk.{i}.attn_q_norm.weight",
        "blocks.{i}.attention.key_norm.weight": "blk.{i}.attn_k_norm.weight",
        "blocks.{i}.attention_post_norm.weight": "blk.{i}.post_attention_norm.weight",
        "blocks.{i}.feed_forward_post_norm.weight": "blk.{i}.post_ffw_norm.weight",
    },
    neutral_gguf_keys={"attention.causal": True, "rope.scaling.attn_factor": 1.0},
)
