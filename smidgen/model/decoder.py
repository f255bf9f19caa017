"""The decoder-only transformer, one for every family: what differs between models is data in `ModelConfig`.

A block is pre-norm attention and a pre-norm feed-forward network (or a mixture of them, or both), each added to the
residual stream, with the optional norms after them that Gemma 2 and 3 have. Gemma 3n and 4 add what a layer looks up
for each token (layer_inputs.py), keys and values of earlier layers, a low-rank residual (LAuReL, Menghani et al. 2024,
https://arxiv.org/abs/2411.07501) and several residual streams (streams.py). Parameter names are the
"canonical names" used all over smidgen; `model.parameters` lists them with their shapes without loading torch.
Parameters are created uninitialised, so that no time goes into random numbers that are thrown away: load a state dict.
"""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from smidgen.model.attention import Attention, Documents, LayerCache, Lent, soft_cap
from smidgen.model.config import LayerConfig, ModelConfig
from smidgen.model.feed_forward import Experts, FeedForward, Scale
from smidgen.model.layer_inputs import LayerInput, combined, rows_of
from smidgen.model.linear import BlankEmbedding, BlankLinear
from smidgen.model.norms import RMSNorm
from smidgen.model.streams import AlternatingUpdates, gathered, spread
from smidgen.shapes import Float, Int


@dataclass(frozen=True)
class Beside:
    """What a block reads beside the residual stream, where a model has that.

    layer_input: what the layer looks up for each token.  lent: keys and values that layers read of earlier ones.
    """

    layer_input: Float[Tensor, "batch position width"] | None = None
    lent: Lent | None = None


_NOTHING = Beside()


class LowRank(nn.Module):
    """A learned residual of few dimensions: right(left(x)). Created uninitialised."""

    def __init__(self, hidden: int, rank: int) -> None:
        super().__init__()
        self.left, self.right = BlankLinear(hidden, rank), BlankLinear(rank, hidden)

    def forward(self, x: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
        """Same shape as `x`."""
        return self.right(self.left(x))


class Block(nn.Module):
    """One transformer block; works alone once `load_state_dict(checkpoint.block(i))` has filled it."""

    def __init__(self, layer: LayerConfig, hidden: int, epsilon: float) -> None:
        super().__init__()

        def norm(wanted: bool | int) -> RMSNorm | None:
            return RMSNorm(hidden, epsilon) if wanted else None

        beside = bool(layer.experts and layer.expert_width)
        self.streams = AlternatingUpdates(layer, hidden, epsilon) if layer.streams > 1 else None
        self.attention_norm = RMSNorm(hidden, epsilon)
        self.low_rank = LowRank(hidden, layer.low_rank) if layer.low_rank else None
        self.low_rank_norm = norm(layer.low_rank)
        self.attention = Attention(layer, hidden, epsilon)
        self.attention_post_norm = norm(layer.post_norms)
        self.feed_forward_norm = RMSNorm(hidden, epsilon)
        self.feed_forward = FeedForward(layer, hidden, layer.ffn_width) if beside or not layer.experts else None
        self.feed_forward_own_norm, self.experts_norm = norm(beside), norm(beside)
        self.experts = Experts(layer, hidden, epsilon) if layer.experts else None
        self.experts_post_norm = norm(beside)
        self.feed_forward_post_norm = norm(layer.post_norms)
        self.layer_input = LayerInput(layer, hidden) if layer.layer_input else None
        self.layer_input_norm = norm(layer.layer_input)
        self.output_scale = Scale(1) if layer.output_scale else None

    def forward(
        self, x: Float[Tensor, "batch position *streams hidden"], start: int = 0, cache: LayerCache | None = None,
        documents: Documents = None, beside: Beside = _NOTHING,
    ) -> Float[Tensor, "batch position *streams hidden"]:  # fmt: skip
        """`x` stands at positions start, start+1, …; with start > 0, `cache` holds the positions before."""
        if self.streams is not None:
            return self._on_streams(self.streams, x, start, cache, documents, beside)
        computed = self.feed(self.attend(x, start, cache, documents, beside.lent))
        if self.layer_input is not None:
            computed = computed + self._taken_in(computed, beside)
        return computed if self.output_scale is None else self.output_scale(computed)

    def attend(
        self, x: Float[Tensor, "batch position hidden"], start: int = 0, cache: LayerCache | None = None,
        documents: Documents = None, lent: Lent | None = None,
    ) -> Float[Tensor, "batch position hidden"]:  # fmt: skip
        """The first half: attention, added to `x`."""
        normed = self.attention_norm(x)
        attended = self.attention(normed, start, cache, documents, lent)
        if self.attention_post_norm is not None:
            attended = self.attention_post_norm(attended)
        if self.low_rank is None or self.low_rank_norm is None:
            return x + attended
        return (x + attended + normed + self.low_rank_norm(self.low_rank(normed))) / sqrt(2)

    def feed(self, x: Float[Tensor, "batch position hidden"]) -> Float[Tensor, "batch position hidden"]:
        """The second half: the feed-forward network, added to `x`."""
        fed = self._fed(x)
        if self.feed_forward_post_norm is not None:
            fed = self.feed_forward_post_norm(fed)
        return x + fed

    def _fed(self, x: Float[Tensor, "batch position hidden"]) -> Float[Tensor, "batch position hidden"]:
        normed = self.feed_forward_norm(x)
        if self.experts is None:
            assert self.feed_forward is not None
            return self.feed_forward(normed)
        if self.feed_forward is None:
            return self.experts(normed)
        assert self.feed_forward_own_norm and self.experts_norm and self.experts_post_norm
        chosen = self.experts(self.experts_norm(x), routed=x)
        return self.feed_forward_own_norm(self.feed_forward(normed)) + self.experts_post_norm(chosen)

    def _taken_in(
        self, x: Float[Tensor, "batch position hidden"], beside: Beside
    ) -> Float[Tensor, "batch position hidden"]:
        """What the layer adds of what it has looked up."""
        assert self.layer_input is not None and self.layer_input_norm is not None and beside.layer_input is not None
        return self.layer_input_norm(self.layer_input(x, beside.layer_input))

    def _on_streams(
        self, streams: AlternatingUpdates, x: Float[Tensor, "batch position streams hidden"], start: int,
        cache: LayerCache | None, documents: Documents, beside: Beside,
    ) -> Float[Tensor, "batch position streams hidden"]:  # fmt: skip
        """The block on the active stream. What it looks up goes to all but the first."""
        predicted = streams.predicted(x)
        computed = self.feed(self.attend(predicted[:, :, streams.active], start, cache, documents, beside.lent))
        corrected = streams.corrected(predicted, computed)
        if self.layer_input is None:
            return corrected
        found = self._taken_in(streams.output_scale(corrected[:, :, streams.active]), beside)
        return torch.cat([corrected[:, :, :1], corrected[:, :, 1:] + found[:, :, None]], dim=2)


class Cache:
    """Keys and values of every layer, and how many positions are filled. Layers that borrow have their lender's."""

    def __init__(self, config: ModelConfig, batch: int, capacity: int, device: torch.device | None = None) -> None:
        self.layers: list[LayerCache] = []
        for layer in config.layers:
            borrowed = None if layer.borrows is None else self.layers[layer.borrows]
            self.layers.append(borrowed or LayerCache(layer, batch, capacity, device))
        self.length = 0


class Decoder(nn.Module):
    """Embedding, blocks, final norm and output head.

    checkpointing: set it to keep only what enters each block for the backward pass, and compute the rest again then
    (Chen et al. 2016, arXiv:1604.06174): memory for a third more work.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        self.embedding = BlankEmbedding(config.vocabulary, config.hidden)
        width = len(config.layers) * config.layer_input
        self.layer_embedding = BlankEmbedding(config.layer_input_rows, width) if width else None
        self.layer_projection = BlankLinear(config.hidden, width) if width else None
        self.layer_projection_norm = RMSNorm(config.layer_input, config.norm_epsilon) if width else None
        self.streams_in, self.streams_out = (
            nn.ModuleList(BlankLinear(config.hidden, config.hidden) for _ in range(config.streams - 1)) for _ in "io"
        )
        self.blocks = nn.ModuleList(Block(layer, config.hidden, config.norm_epsilon) for layer in config.layers)
        self.final_norm = RMSNorm(config.hidden, config.norm_epsilon)
        self.head = None if config.tied_head else BlankLinear(config.hidden, config.vocabulary)

    def embed(self, ids: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position hidden"]:
        """What enters the first block, and what its streams are made of where there are several."""
        return self.embedding(ids) * self.config.embedding_scale

    def layer_inputs(
        self, ids: Int[Tensor, "batch position"], embedded: Float[Tensor, "batch position hidden"]
    ) -> list[Float[Tensor, "batch position width"]] | None:
        """What every layer looks up for these tokens. None where none does."""
        if self.layer_embedding is None or self.layer_projection is None or self.layer_projection_norm is None:
            return None
        parts = (len(self.config.layers), self.config.layer_input)
        looked_up = self.layer_embedding(rows_of(ids, self.config.layer_input_rows)).unflatten(-1, parts)
        projected = self.layer_projection(embedded).unflatten(-1, parts)
        found = combined(looked_up, projected, self.config.hidden, self.layer_projection_norm)
        return list(found.unbind(dim=2))

    def hidden_states(
        self, ids: Int[Tensor, "batch position"], cache: Cache | None = None, documents: Documents = None
    ) -> Float[Tensor, "batch position hidden"]:
        """What the output head reads (after the final norm). `ids` follow the positions that `cache` holds.

        documents: where rows hold several, which one each position belongs to; not together with a cache.
        """
        if cache is not None and documents is not None:
            raise ValueError("a cache holds one document a row")
        start = 0 if cache is None else cache.length
        x = self.embed(ids)
        inputs, lent = self.layer_inputs(ids, x), {}
        if self.config.streams > 1:
            x = spread(x, self.streams_in)
        for index, block in enumerate(self.blocks):
            beside = Beside(None if inputs is None else inputs[index], lent)
            if self.checkpointing and cache is None and torch.is_grad_enabled():
                x = checkpoint(block, x, 0, None, documents, beside, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, start, None if cache is None else cache.layers[index], documents, beside)
        if cache is not None:
            cache.length += ids.shape[1]
        if self.config.streams > 1:
            x = gathered(x, self.streams_out)
        return self.final_norm(x)

    def head_weight(self) -> Float[Tensor, "vocab hidden"]:
        """The matrix whose product with hidden states gives the scores, with its graph.

        For whoever takes that product in parts. It is that of the embedding, or the head's, or what a layer in the
        head's place does as a whole.
        """
        return self.embedding.whole() if self.head is None else self.head.whole()

    def logits(self, hidden: Float[Tensor, "... hidden"]) -> Float[Tensor, "... vocab"]:
        """Scores of every token; memory is vocabulary × positions × 4 bytes, so ask for few positions at once."""
        scores = functional.linear(hidden, self.head_weight()) if self.head is None else self.head(hidden)
        return soft_cap(scores, self.config.logit_cap)

    def forward(
        self, ids: Int[Tensor, "batch position"], cache: Cache | None = None
    ) -> Float[Tensor, "batch position vocab"]:
        """Logits of the token after each position."""
        return self.logits(self.hidden_states(ids, cache))
