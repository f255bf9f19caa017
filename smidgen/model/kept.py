"""Keys and values that a model keeps of the tokens it has read: in which type, and how many bytes. Torch-free.

llama.cpp keeps them in float16, or a row at a time in Q8_0 or Q4_0. Then it has flash attention on, since without it
values stand in columns, which no block fits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from smidgen.bounds import one_of
from smidgen.errors import Unsupported
from smidgen.model.config import ModelConfig
from smidgen.numerics.block_types import F16, Q4_0, Q8_0, BlockType
from smidgen.sizes import format_size

KVType = Literal["f16", "q8_0", "q4_0"]
KV_TYPES: dict[KVType, BlockType] = {"f16": F16, "q8_0": Q8_0, "q4_0": Q4_0}
AS_USUAL: KVType = "f16"
_CELLS, _READ_AT_ONCE = 256, 512  # llama.cpp's: a cache has multiples of so many places, and reads such batches


@dataclass(frozen=True)
class KeptLayer:
    """What one layer keeps of a token. keys, values: numbers in each of `heads` heads.

    window: how many tokens the layer looks back; None for all. Then it keeps no more than that and one batch.
    """

    heads: int
    keys: int
    values: int
    window: int | None = None

    def bytes(self, kv: KVType) -> int:
        """Of one token."""
        kind = KV_TYPES[kv]
        return self.heads * (self.keys + self.values) * kind.block_bytes // kind.block


def keeping_of(config: ModelConfig) -> tuple[KeptLayer, ...]:
    """What the layers of a model keep."""
    own = (layer for layer in config.layers if layer.borrows is None)
    return tuple(KeptLayer(layer.kv_heads, layer.head_dim, layer.head_dim, layer.window) for layer in own)


def bytes_per_token(layers: Iterable[KeptLayer], kv: KVType) -> int:
    """Bytes that all layers keep of a token. Layers with a window forget it later."""
    return sum(layer.bytes(kv) for layer in layers)


def cache_bytes(layers: Iterable[KeptLayer], context: int, kv: KVType) -> int:
    """Bytes of a whole cache for `context` tokens, as llama.cpp allocates it."""
    whole = _in_cells(context)
    return sum(
        layer.bytes(kv) * (whole if layer.window is None else min(whole, _in_cells(layer.window + _READ_AT_ONCE)))
        for layer in layers
    )


def refuse_kv(kv: str, layers: Sequence[KeptLayer]) -> None:
    """Raises SmidgenError for a type that is none, Unsupported for one that the heads of a model do not fit."""
    one_of("kv", kv, KV_TYPES)
    kind = KV_TYPES[cast("KVType", kv)]
    if kind is F16:
        return
    if not any(layer.heads for layer in layers):
        raise Unsupported(f"--kv {kv} is for keys and values, and this model keeps none; leave it out.")
    for width in (width for layer in layers for width in (layer.keys, layer.values)):
        if not kind.fits(width):
            raise Unsupported(
                f"--kv {kv} keeps groups of {kind.block} numbers, and this model's heads have {width}; leave it out, "
                f"which keeps {AS_USUAL}."
            )


def kept_in_words(kv: KVType, layers: Sequence[KeptLayer], context: int, parallel: int = 1) -> str:
    """What a person has of a type: a sentence."""
    now, usual = (parallel * cache_bytes(layers, context, kind) for kind in (kv, AS_USUAL))
    return (
        f"Keys and values are kept as {kv}, with flash attention: {format_size(now)} for "
        f"{parallel * context:,} tokens of context, {format_size(usual)} as {AS_USUAL}."
    )


def _in_cells(tokens: int) -> int:
    return -(-tokens // _CELLS) * _CELLS
