"""Grouped-query causal self-attention with rotary positions, sliding windows, soft caps and a key/value cache.

Grouped queries: Ainslie et al. 2023, https://arxiv.org/abs/2305.13245. Sliding windows: a token at position t sees
t-window+1 … t, as in transformers and llama.cpp. Soft caps (cap·tanh(score/cap)) and query/key norms: the Gemma 2
and Gemma 3 reports, https://arxiv.org/abs/2408.00118 and https://arxiv.org/abs/2503.19786.
"""

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from smidgen.model.config import LayerConfig
from smidgen.model.linear import BlankLinear
from smidgen.model.norms import RMSNorm, divided_by_rms
from smidgen.model.rope import rotary_tables, rotate
from smidgen.shapes import Bool, Float, Int

#: Where rows hold several documents: the number of the one that each position belongs to. None: a row is one document.
Documents = Int[Tensor, "batch position"] | None
_Kept = Float[Tensor, "batch kv position head"]
#: Number of a layer → its keys and values of the whole text, for later layers that read them in place of their own
#: (cross-layer attention, Brandon et al. 2024, https://arxiv.org/abs/2405.12981). Only where there is no cache.
Lent: TypeAlias = dict[int, tuple[_Kept, _Kept]]


class LayerCache:
    """Keys and values of one layer for positions already seen, in tensors allocated once."""

    def __init__(self, layer: LayerConfig, batch: int, capacity: int, device: torch.device | None = None) -> None:
        shape = (batch, layer.kv_heads, capacity, layer.head_dim)
        self.keys: Float[Tensor, "batch kv capacity head"] = torch.empty(shape, device=device)
        self.values: Float[Tensor, "batch kv capacity head"] = torch.empty(shape, device=device)

    def extend(
        self, start: int, keys: Float[Tensor, "batch kv new head"], values: Float[Tensor, "batch kv new head"]
    ) -> tuple[Float[Tensor, "batch kv position head"], Float[Tensor, "batch kv position head"]]:
        """Stores keys and values at positions start, start+1, … and returns all from position 0 on (views)."""
        end = start + keys.shape[2]
        if end > self.keys.shape[2]:
            raise ValueError(f"the cache holds {self.keys.shape[2]} positions, {end} are needed")
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        return self.held(end)

    def held(self, end: int) -> tuple[_Kept, _Kept]:
        """Keys and values of positions 0 … end-1 (views)."""
        return self.keys[:, :, :end], self.values[:, :, :end]

    def meeting(self, queries: Float[Tensor, "batch heads new head"]) -> Float[Tensor, "batch heads new head"]:
        """Queries as they meet what is kept."""
        return queries


def soft_cap(x: Float[Tensor, "..."], cap: float | None) -> Float[Tensor, "..."]:
    """cap · tanh(x / cap): smoothly bounded to ±cap. Unchanged when `cap` is None."""
    return x if cap is None else cap * torch.tanh(x / cap)


def visible(queries: int, keys: int, window: int | None, device: torch.device) -> Bool[Tensor, "queries keys"]:
    """Which keys each query may see, where the last query stands at the last key's position."""
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)[None, :]
    mask = key <= query
    return mask if window is None else mask & (key > query - window)


def visible_within(
    documents: Int[Tensor, "batch position"], window: int | None
) -> Bool[Tensor, "batch 1 position position"]:
    """The same for rows of documents that do not see each other."""
    length = documents.shape[1]
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same & visible(length, length, window, documents.device)


_Tables: TypeAlias = tuple[Float[Tensor, "position turning"], Float[Tensor, "position turning"]] | None


class Attention(nn.Module):
    """Causal self-attention of one layer. Parameters are created uninitialised: load a state dict before use."""

    def __init__(self, layer: LayerConfig, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.layer = layer
        width, own = layer.kv_heads * layer.head_dim, layer.borrows is None
        self.query = BlankLinear(hidden, layer.heads * layer.head_dim, layer.qkv_bias)
        self.key = BlankLinear(hidden, width, layer.qkv_bias) if own else None
        self.value = BlankLinear(hidden, width, layer.qkv_bias) if own and not layer.keys_are_values else None
        self.output = BlankLinear(layer.heads * layer.head_dim, hidden, layer.output_bias)
        self.query_norm = RMSNorm(layer.head_dim, epsilon) if layer.qk_norm else None
        self.key_norm = RMSNorm(layer.head_dim, epsilon) if layer.qk_norm and own else None
        self.epsilon = epsilon

    def forward(
        self, x: Float[Tensor, "batch position hidden"], start: int = 0, cache: LayerCache | None = None,
        documents: Documents = None, lent: Lent | None = None,
    ) -> Float[Tensor, "batch position hidden"]:  # fmt: skip
        """`x` stands at positions start, start+1, …; what came before is taken from `cache`.

        lent: where the layer lends or borrows and there is no cache. With one, a borrower is given the lender's, which
        has read these positions already.
        """
        return self.output(self.heads(x, start, cache, documents, lent))

    def heads(
        self, x: Float[Tensor, "batch position hidden"], start: int = 0, cache: LayerCache | None = None,
        documents: Documents = None, lent: Lent | None = None,
    ) -> Float[Tensor, "batch position heads_width"]:  # fmt: skip
        """What all heads together give to the output layer."""
        batch, length, _ = x.shape
        layer = self.layer
        tables = None if layer.rotary is None else rotary_tables(layer.rotary, start, length, x.device)
        queries = self._positioned(self._split(self.query(x)), self.query_norm, tables)
        if cache is not None:
            keys, values = (
                cache.held(start + length) if self.key is None else cache.extend(start, *self._own(x, self.key, tables))
            )
            queries = cache.meeting(queries)
        elif self.key is not None:
            keys, values = self._own(x, self.key, tables)
            if layer.lends is not None and lent is not None:
                lent[layer.lends] = keys, values
        else:
            assert layer.borrows is not None and lent is not None
            keys, values = lent[layer.borrows]
        if layer.window is not None:  # keys that no query can see any more
            keys, values = (part[:, :, max(0, part.shape[2] - length - layer.window + 1) :] for part in (keys, values))
        mixed = attend(queries, keys, values, layer, documents)
        return mixed.transpose(1, 2).reshape(batch, length, -1)

    def _own(self, x: Float[Tensor, "batch position hidden"], key: nn.Module, tables: _Tables) -> tuple[_Kept, _Kept]:
        """The keys and values of these positions."""
        made = self._split(key(x))
        values = made if self.value is None else self._split(self.value(x))
        if self.layer.value_norm:
            values = divided_by_rms(values, self.epsilon)
        return self._positioned(made, self.key_norm, tables), values

    def _split(self, x: Float[Tensor, "batch position width"]) -> Float[Tensor, "batch heads position head"]:
        return x.unflatten(2, (-1, self.layer.head_dim)).transpose(1, 2)

    def _positioned(
        self, heads: Float[Tensor, "batch heads position head"], norm: RMSNorm | None, tables: _Tables
    ) -> Float[Tensor, "batch heads position head"]:
        normed = heads if norm is None else norm(heads)
        return normed if tables is None else rotate(normed, *tables)


def attend(
    queries: Float[Tensor, "batch heads queries head"],
    keys: Float[Tensor, "batch kv keys head"],
    values: Float[Tensor, "batch kv keys head"],
    layer: LayerConfig,
    documents: Documents = None,
) -> Float[Tensor, "batch heads queries head"]:
    """Each query's mixture of the values it can see. The last query stands at the last key's position.

    documents: only where queries and keys stand at the same positions.
    """
    batch, heads, length, head = queries.shape
    if layer.attention_cap is not None:
        return _attend_capped(queries, keys, values, layer, documents)
    if length == 1:
        # Everything is visible and the queries of a group share their keys, so the group can stand in the place of
        # positions: no copy of the cache for each query head.
        grouped = queries.reshape(batch, layer.kv_heads, heads // layer.kv_heads, head)
        mixed = functional.scaled_dot_product_attention(grouped, keys, values, scale=layer.attention_scale)
        return mixed.reshape(batch, heads, 1, head)
    causal = documents is None and length == keys.shape[2] and (layer.window is None or length <= layer.window)
    return functional.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=None if causal else _mask(length, keys.shape[2], layer.window, documents, keys.device),
        is_causal=causal,
        scale=layer.attention_scale,
        enable_gqa=heads != layer.kv_heads,
    )


def _mask(
    queries: int, keys: int, window: int | None, documents: Documents, device: torch.device
) -> Bool[Tensor, "*batch_1 queries keys"]:
    if documents is None:
        return visible(queries, keys, window, device)
    return visible_within(documents, window)


def _attend_capped(
    queries: Float[Tensor, "batch heads queries head"],
    keys: Float[Tensor, "batch kv keys head"],
    values: Float[Tensor, "batch kv keys head"],
    layer: LayerConfig,
    documents: Documents,
) -> Float[Tensor, "batch heads queries head"]:
    """The same written out, because fused attention kernels know no soft cap."""
    batch, heads, length, head = queries.shape
    grouped = queries.reshape(batch, layer.kv_heads, heads // layer.kv_heads, length, head)
    scores = soft_cap(grouped @ keys[:, :, None].mT * layer.attention_scale, layer.attention_cap)
    mask = _mask(length, keys.shape[2], layer.window, documents, keys.device)
    scores = scores.masked_fill(~(mask if documents is None else mask[:, None]), float("-inf"))
    mixed = scores.float().softmax(dim=-1).to(values.dtype) @ values[:, :, None]
    return mixed.reshape(batch, heads, length, head)
