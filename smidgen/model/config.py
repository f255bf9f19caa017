"""What the decoder needs to know about a model, as plain data.

One decoder serves every family; what differs is written here. Each layer has its own `LayerConfig`, so
models whose layers differ (alternating windows, OpenELM's and pruned widths) are the normal case.
"""

from dataclasses import dataclass
from typing import Literal

from smidgen.model.rope_scaling import RopeScaling

Activation = Literal["gelu_tanh", "silu"]


@dataclass(frozen=True)
class Rotary:
    """Rotary positions of a layer.

    base: of the frequencies.  width: features of each head that turn, counted from the first.
    scaling: how they are stretched to longer texts.
    """

    base: float
    width: int
    scaling: RopeScaling | None = None


@dataclass(frozen=True)
class LayerConfig:
    """One transformer block.

    heads, kv_heads: query heads and key/value heads.  head_dim: width of one head.
    ffn_width: width of the gated feed-forward network, or of each expert.
    rotary: None for a layer without positions (NoPE).
    attention_scale: factor on query·key.  attention_cap: soft cap on attention scores, None for none.
    window: positions a token can see, itself included; None for all before it.
    qk_norm: RMS norm on each query and key head.
    post_norms: RMS norm after attention and feed-forward, before the residual sum.
    qkv_bias, output_bias: whether these projections of the attention add a bias.
    experts, experts_used: feed-forward networks to choose from, and how many each token takes; 0 for a single one.
    """

    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    rotary: Rotary | None
    attention_scale: float
    activation: Activation
    window: int | None = None
    attention_cap: float | None = None
    qk_norm: bool = False
    post_norms: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    experts: int = 0
    experts_used: int = 0


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
