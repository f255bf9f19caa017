"""The decoder-only transformer, one for every family: what differs between models is data in `ModelConfig`.

A block is pre-norm attention and a pre-norm feed-forward network (or a mixture of them), each added to the residual
stream, with the optional norms after them that Gemma 2 and 3 have. Parameter names are the
"canonical names" used all over smidgen; `model.parameters` lists them with their shapes without loading torch.
Parameters are created uninitialised, so that no time goes into random numbers that are thrown away: load a state dict.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from smidgen.model.attention import Attention, Documents, LayerCache, soft_cap
from smidgen.model.config import LayerConfig, ModelConfig
from smidgen.model.feed_forward import Experts, FeedForward
from smidgen.model.linear import BlankEmbedding, BlankLinear
from smidgen.model.norms import RMSNorm
from smidgen.shapes import Float, Int


class Block(nn.Module):
    """One transformer block; works alone once `load_state_dict(checkpoint.block(i))` has filled it."""

    def __init__(self, layer: LayerConfig, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(hidden, epsilon)
        self.attention = Attention(layer, hidden, epsilon)
        self.attention_post_norm = RMSNorm(hidden, epsilon) if layer.post_norms else None
        self.feed_forward_norm = RMSNorm(hidden, epsilon)
        self.feed_forward = None if layer.experts else FeedForward(layer, hidden)
        self.experts = Experts(layer, hidden) if layer.experts else None
        self.feed_forward_post_norm = RMSNorm(hidden, epsilon) if layer.post_norms else None

    def forward(
        self, x: Float[Tensor, "batch position hidden"], start: int = 0, cache: LayerCache | None = None,
        documents: Documents = None,
    ) -> Float[Tensor, "batch position hidden"]:  # fmt: skip
        """`x` stands at positions start, start+1, …; with start > 0, `cache` holds the positions before."""
        return self.feed(self.attend(x, start, cache, documents))

    def attend(
        self, x: Float[Tensor, "batch position hidden"], start: int = 0, cache: LayerCache | None = None,
        documents: Documents = None,
    ) -> Float[Tensor, "batch position hidden"]:  # fmt: skip
        """The first half: attention, added to `x`."""
        attended = self.attention(self.attention_norm(x), start, cache, documents)
        if self.attention_post_norm is not None:
            attended = self.attention_post_norm(attended)
        return x + attended

    def feed(self, x: Float[Tensor, "batch position hidden"]) -> Float[Tensor, "batch position hidden"]:
        """The second half: the feed-forward network, added to `x`."""
        network = self.experts if self.feed_forward is None else self.feed_forward
        assert network is not None
        fed = network(self.feed_forward_norm(x))
        if self.feed_forward_post_norm is not None:
            fed = self.feed_forward_post_norm(fed)
        return x + fed


class Cache:
    """Keys and values of every layer, and how many positions are filled."""

    def __init__(self, config: ModelConfig, batch: int, capacity: int, device: torch.device | None = None) -> None:
        self.layers = [LayerCache(layer, batch, capacity, device) for layer in config.layers]
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
        self.blocks = nn.ModuleList(Block(layer, config.hidden, config.norm_epsilon) for layer in config.layers)
        self.final_norm = RMSNorm(config.hidden, config.norm_epsilon)
        self.head = None if config.tied_head else BlankLinear(config.hidden, config.vocabulary)

    def embed(self, ids: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position hidden"]:
        """What enters the first block."""
        return self.embedding(ids) * self.config.embedding_scale

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
        for index, block in enumerate(self.blocks):
            if self.checkpointing and cache is None and torch.is_grad_enabled():
                x = checkpoint(block, x, 0, None, documents, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, start, None if cache is None else cache.layers[index], documents)
        if cache is not None:
            cache.length += ids.shape[1]
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
