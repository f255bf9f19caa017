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
    ffn_width: width of the gated feed-forward network, or of each expert where these stand in its place.
    rotary: None for a layer without positions (NoPE).
    attention_scale: factor on query·key.  attention_cap: soft cap on attention scores, None for none.
    window: positions a token can see, itself included; None for all before it.
    qk_norm: RMS norm on each query and key head.
    post_norms: RMS norm after attention and feed-forward, before the residual sum.
    qkv_bias, output_bias: whether these projections of the attention add a bias.
    experts, experts_used: feed-forward networks to choose from, and how many each token takes; 0 for a single one.
    expert_width: width of each expert where they stand beside the feed-forward network; 0 where in its place.
    sparsity: share of the feed-forward network's gates that are closed, by what a normal distribution would have.
    value_norm: each value head is divided by its root mean square.
    keys_are_values: what the keys are made of is the values too; there is no matrix for these.
    lends: the layer's own number, where later ones read its keys and values.  borrows: whose this layer reads.
    low_rank: inner width of the low-rank residual beside attention, 0 for none.
    layer_input: width of the embeddings of its own that the layer looks up for each token, 0 for none.
    output_scale: whether a learned number multiplies what leaves the layer.
    streams: copies of the residual stream.  active_stream: which of them the layer computes on.
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
    expert_width: int = 0
    sparsity: float = 0.0
    value_norm: bool = False
    keys_are_values: bool = False
    lends: int | None = None
    borrows: int | None = None
    low_rank: int = 0
    layer_input: int = 0
    output_scale: bool = False
    streams: int = 1
    active_stream: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """A whole decoder-only model.

    family: key of `model.families` (for names in files only; no maths depends on it).
    embedding_scale: factor on embeddings as they enter the first block.
    tied_head: the output head is the embedding matrix.  logit_cap: soft cap on the logits.
    context_length: positions the model was trained for.
    layer_input_rows: rows of the table in which the layers look up tokens, 0 for none; tokens beyond them read the
    first row.
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
    layer_input_rows: int = 0

    @property
    def layer_input(self) -> int:
        """Width of what each layer looks up for each token, 0 where none does."""
        return self.layers[0].layer_input

    @property
    def streams(self) -> int:
        """Copies of the residual stream."""
        return self.layers[0].streams
