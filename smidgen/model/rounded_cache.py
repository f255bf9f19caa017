"""A cache that gives back keys and values as a quantized one of llama.cpp does.

What is written is rotated, rounded a head at a time and, here, rotated back; llama.cpp keeps it rotated and rotates
queries and results instead, which is the same in exact arithmetic. Its rotation of keys is as wide as a power of two
fits the head, that of values 64 numbers wide; heads that are no multiple of 64 are not rotated. (Its pull request
#21038 has the figures behind this choice.) Neighbours in a group are those of the file: where a family's files hold
keys in another order than the decoder, `order` says so.

Queries that meet quantized keys are rounded to 8 bits, too, as llama.cpp does on a processor; with a cache in float16
it does not. Graphics cards differ: there this counts a little too much.
"""

from torch import Tensor

from smidgen.model.attention import LayerCache
from smidgen.model.config import LayerConfig
from smidgen.model.kept import KV_TYPES, KVType
from smidgen.numerics.block_types import Q8_0, BlockType
from smidgen.numerics.row_rounding import rotated, rounded
from smidgen.shapes import Float, Int

_NARROWEST = 64  # rotation


class RoundedCache(LayerCache):
    """Keys and values of one layer, rounded as they are written.

    kv: q8_0 or q4_0; the head must fit its groups (`kept.refuse_kv`).
    order: feature f of a key is the file's feature order[f]; None where they stand alike.
    """

    def __init__(
        self, layer: LayerConfig, batch: int, capacity: int, kv: KVType, order: Int[Tensor, " head"] | None = None
    ) -> None:
        super().__init__(layer, batch, capacity)
        self._kind, self._order = KV_TYPES[kv], order
        self._turn_keys, self._turn_values = _rotations(layer.head_dim)

    def extend(
        self, start: int, keys: Float[Tensor, "batch kv new head"], values: Float[Tensor, "batch kv new head"]
    ) -> tuple[Float[Tensor, "batch kv position head"], Float[Tensor, "batch kv position head"]]:
        """See `LayerCache`."""
        return super().extend(start, self._as_key(keys, self._kind), _rounded(values, self._turn_values, self._kind))

    def meeting(self, queries: Float[Tensor, "batch heads new head"]) -> Float[Tensor, "batch heads new head"]:
        """See `LayerCache`."""
        return self._as_key(queries, Q8_0)

    def _as_key(
        self, x: Float[Tensor, "batch heads new head"], kind: BlockType
    ) -> Float[Tensor, "batch heads new head"]:
        if self._order is None:
            return _rounded(x, self._turn_keys, kind)
        return _rounded(x[..., self._order.argsort()], self._turn_keys, kind)[..., self._order]


def _rounded(x: Float[Tensor, "*rest head"], rotation: int | None, kind: BlockType) -> Float[Tensor, "*rest head"]:
    if rotation is None:
        return rounded(x, kind)
    return rotated(rounded(rotated(x, rotation), kind), rotation)


def _rotations(head: int) -> tuple[int | None, int | None]:
    """How many numbers are rotated together, of keys and of values; None for none."""
    if head % _NARROWEST:
        return None, None
    return head & -head, _NARROWEST  # the largest power of two that divides it
