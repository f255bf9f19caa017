"""Which matrices of a folder in Hugging Face layout are packed as the file has them, and what the others cost.

A format packs a tensor where it can hold the types of all matrices in it, with the bits of the widest: codes of 4 bits
stand for the same numbers in 8. All else is written in 16 bits, never quantized again, and that is said aloud with the
bytes that it takes.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from smidgen.errors import SmidgenError
from smidgen.exporting.codes import BITS, Codes, pieces_of_codes
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.writer import hf_layout
from smidgen.model.parameters import is_matrix
from smidgen.numerics.block_types import BlockType
from smidgen.progress import say
from smidgen.shapes import Int, Integer, UInt8
from smidgen.sizes import format_size

_WIDE_BYTES = 2  # of a weight that is not packed
_SAID_TYPES = 6  # by name


@dataclass(frozen=True)
class Held:
    """What a format can hold.

    format: its name in messages.  types: that it packs.  wide: canonical names of what it must have in 16 bits.
    joined: canonical name → a name for the matrices that its readers want in equally many bits.
    """

    format: str
    types: Collection[BlockType]
    wide: Collection[str]
    joined: Callable[[str], str]


@dataclass(frozen=True)
class PackingPlan:
    """bits: of each packed tensor of the folder.  members: of every tensor, in order, canonical names."""

    bits: Mapping[str, int]
    members: Mapping[str, list[str]]

    def codes(self, checkpoint: Checkpoint, tensor: str) -> Iterator[Codes]:
        """A packed tensor in runs of rows."""
        for name in self.members[tensor]:
            yield from pieces_of_codes(checkpoint, name)


def plan_packing(checkpoint: Checkpoint, held: Held) -> PackingPlan:
    """What is packed, and with how many bits."""
    members = hf_layout(checkpoint).members
    together: dict[str, list[str]] = defaultdict(list)
    for tensor, names in members.items():
        if all(map(is_matrix, names)):
            together[held.joined(names[0])].append(tensor)
    bits: dict[str, int] = {}
    for tensors in together.values():
        names = [name for tensor in tensors for name in members[tensor]]
        kinds = {checkpoint.kind(name) for name in names}
        if kinds <= set(held.types) and not any(name in held.wide for name in names):
            bits |= dict.fromkeys(tensors, max(BITS[kind] for kind in kinds))
    return PackingPlan(bits, members)


def say_what_it_costs(checkpoint: Checkpoint, held: Held, plan: PackingPlan) -> None:
    """A line about the embedding, one about matrices in 16 bits, one about those in more bits than they have."""
    wide, raised = [], []
    for tensor, names in plan.members.items():
        kinds = [name for name in names if is_matrix(name)]
        if tensor not in plan.bits:
            wide += [name for name in kinds if not _is_float(checkpoint.kind(name))]
        else:
            raised += [name for name in kinds if BITS[checkpoint.kind(name)] < plan.bits[tensor]]
    apart = [name for name in wide if name in held.wide]
    others = [name for name in wide if name not in held.wide]
    for name in apart:
        what = "embedding (the head too)" if name == "embedding.weight" and checkpoint.config.tied_head else name
        what = what.removesuffix(".weight")
        say(f"The {what} is not packed: {held.format} is safe only with 16 bits there: {_cost(checkpoint, [name])}.")
    if others:
        say(
            f"{_matrices(len(others))} ({_types(checkpoint, others)}) in 16 bits, which {held.format} cannot hold as "
            f"they are or not with their neighbours: {_cost(checkpoint, others)}. Cut with --types "
            f"{','.join(kind.name for kind in held.types)} to have all packed."
        )
    if raised:
        say(f"{_matrices(len(raised))} of 4 bits in 8, the same numbers, since {held.format} wants neighbours alike.")


def storing_dtype(dtype: str | None, plan: PackingPlan) -> str | None:
    """The dtype of scales and of all that is not packed: float16, as the scales are, unless said otherwise.

    Raises SmidgenError for one that does not hold every scale.
    """
    if not plan.bits:
        return dtype
    if dtype == "bfloat16":
        raise SmidgenError(
            "Scales of packed weights have 11 significant bits, and bfloat16 holds 8: the weights would change. "
            "Leave out --dtype (float16), or choose float32."
        )
    return dtype or "float16"


def unsigned(codes: Codes, bits: int) -> UInt8[Tensor, "rows cols"]:
    """Codes counted from 0: 2^(bits−1) is added to those around 0."""
    if codes.shift is not None:
        return codes.codes.to(torch.uint8)
    return (codes.codes.to(torch.int16) + zero_point(bits)).to(torch.uint8)


def zero_point(bits: int) -> int:
    """The unsigned code of 0."""
    return 1 << (bits - 1)


def words(codes: UInt8[Tensor, "rows cols"], bits: int) -> Int[Tensor, "rows words"]:
    """Codes of 4 or 8 bits in words of 32, the first in the lowest bits."""
    if bits == 4:
        pairs = codes.unflatten(1, (-1, 2))
        codes = pairs[..., 0] | pairs[..., 1] << 4
    return codes.contiguous().view(torch.int32)


def _is_float(kind: BlockType) -> bool:
    return kind.block == 1


def _matrices(count: int) -> str:
    return "1 matrix" if count == 1 else f"{count} matrices"


def _types(checkpoint: Checkpoint, names: Iterable[str]) -> str:
    counts = Counter(checkpoint.kind(name).name for name in names).most_common()
    return ", ".join(f"{count} {kind}" for kind, count in counts[:_SAID_TYPES])


def _cost(checkpoint: Checkpoint, names: Iterable[str]) -> str:
    """`"336 MB instead of 89.1 MB"`."""
    shapes = [(checkpoint.shape(name), checkpoint.kind(name)) for name in names]
    now = sum(prod(shape) * _WIDE_BYTES for shape, _ in shapes)
    before = sum(shape[0] * kind.row_bytes(shape[1]) for shape, kind in shapes)
    return f"{format_size(now)} instead of {format_size(before)}"
