"""What the decoder needs to know about a model, as plain data.

One decoder serves every family; what differs is written here. Each layer has its own `LayerConfig`, so
models whose layers differ (alternating windows, pruned widths) are the normal case.
"""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["gelu_tanh", "silu"]


@dataclass(frozen=True)
class LayerConfig:
    """One transformer block.

    heads, kv_heads: query heads and key/value heads.  head_dim: width of one head.
    ffn_width: width of the gated feed-forward network.
    window: positions a token can see, itself included; None for all before it.
    rope_base: base of the rotary frequencies.  rope_scale: positions are divided by it (linear scaling).
    attention_scale: factor on query·key.  attention_cap: soft cap on attention scores, None for none.
    qk_norm: RMS norm on each query and key head.
    post_norms: RMS norm after attention and feed-forward, before the residual sum.
    """

    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    rope_base: float
    attention_scale: float
    activation: Activation
    window: int | None = None
    rope_scale: float = 1.0
    attention_cap: float | None = None
    qk_norm: bool = False
    post_norms: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """A whole decoder-only model.

    family: key of `model.families` (for names in files only; no maths depends on it).
    embedding_scale: factor on embeddings as they enter the first block.
    tied_head: the output head is the embedding matrix.  logit_cap: soft cap on the logits.
    context_length: positions the model was trained for.
    """

    family: str
    vocabulary: int
    hidden: int
    layers: tuple[LayerConfig, ...]
    norm_epsilon: float
    context_length: int
    tied_head: bool
    embedding_scale: float = 1.0
    logit_cap: float | None = None
