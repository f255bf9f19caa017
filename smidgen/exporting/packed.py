"""Which matrices of a folder in Hugging Face layout are packed as the file has them, and what the others cost.

A format packs a tensor where it can hold the types of all matrices in it, with the bits of the widest: codes of 4 bits
stand for the same numbers in 8. All else is written in 16 bits, not quantized again unless that was asked for
(`requantized`), and that is said aloud with the bytes that it takes.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from smidgen.errors import SmidgenError
from smidgen.exporting.codes import Codes, pieces_of_codes
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.writer import hf_layout
from smidgen.model.parameters import is_matrix
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.progress import say
from smidgen.shapes import Int, UInt8
from smidgen.sizes import format_size

_WIDE_BYTES = 2  # of a weight that is not packed
#: Type → bits of a code, of all types that are whole numbers with one scale for each 32, and perhaps a shift.
BITS = {types.Q4_0: 4, types.Q4_1: 4, types.Q5_0: 5, types.Q5_1: 5, types.Q8_0: 8}


@dataclass(frozen=True)
class Held:
    """What a format can hold.

    format: its name in messages.  types: that it packs → bits that a code takes there, as many as it has or more.
    wide: canonical names of what it must have in 16 bits.
    joined: canonical name → a name for the matrices that its readers want in equally many bits.
    """

    format: str
    types: Mapping[BlockType, int]
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
        if kinds <= held.types.keys() and not any(name in held.wide for name in names):
            bits |= dict.fromkeys(tensors, max(held.types[kind] for kind in kinds))
    return PackingPlan(bits, members)


def say_what_it_costs(checkpoint: Checkpoint, held: Held, plan: PackingPlan) -> None:
    """A line about the embedding, one about matrices in 16 bits, one about those in more bits than they have."""
    matrices = {name: tensor for tensor, names in plan.members.items() for name in names if is_matrix(name)}
    wide = [name for name, tensor in matrices.items() if tensor not in plan.bits and checkpoint.kind(name).block > 1]
    for name in wide:
        if name in held.wide:
            what = "embedding, which is the head too," if checkpoint.config.tied_head else name.removesuffix(".weight")
            say(f"The {what} takes 16 bits, since not all that reads {held.format}'s folders could read it packed: "
                f"{_cost(checkpoint, [name])}.")  # fmt: skip
    if others := [name for name in wide if name not in held.wide]:
        say(
            f"{counted(checkpoint, others)} in 16 bits: {_cost(checkpoint, others)}. {held.format} holds "
            f"{', '.join(kind.name for kind in held.types)} as they are; --requantize makes Q4_0 and Q8_0 of others."
        )
    packed = {name: plan.bits[tensor] for name, tensor in matrices.items() if tensor in plan.bits}
    if raised := [name for name, bits in packed.items() if BITS[checkpoint.kind(name)] < bits]:
        say(f"{counted(checkpoint, raised)} in more bits than they need, the same numbers: {held.format} wants it so.")


def storing_dtype(dtype: str | None, plan: PackingPlan) -> str | None:
    """The dtype of scales and of all that is not packed: float16, as the scales are, unless said otherwise.

    Raises SmidgenError for one that does not hold every scale.
    """
    if not plan.bits:
        return dtype
    refuse_narrow(dtype)
    return dtype or "float16"


def refuse_narrow(dtype: str | None) -> None:
    """Raises SmidgenError for a dtype that does not hold every scale."""
    if dtype == "bfloat16":
        raise SmidgenError(
            "Scales of packed weights have 11 significant bits, and bfloat16 holds 8: the weights would change. "
            "Leave out --dtype (float16), or choose float32."
        )


def unsigned(codes: Codes, bits: int) -> UInt8[Tensor, "rows cols"]:
    """Codes counted from 0: 2^(bits−1) is added to those around 0."""
    if codes.shift is not None:
        return codes.codes.to(torch.uint8)
    return (codes.codes.to(torch.int16) + zero_point(bits)).to(torch.uint8)


def zero_point(bits: int) -> int:
    """The unsigned code of 0."""
    return 1 << (bits - 1)


def words(codes: UInt8[Tensor, "rows cols"], bits: int) -> Int[Tensor, "rows words"]:
    """Codes one after the other in words of 32 bits, the first in the lowest bits."""
    if bits == 8:
        return codes.contiguous().view(torch.int32)
    if bits == 4:
        pairs = codes.unflatten(1, (-1, 2))
        return (pairs[..., 0] | pairs[..., 1] << 4).contiguous().view(torch.int32)
    ones = codes[:, :, None] >> torch.arange(bits, dtype=torch.uint8) & 1
    octets = ones.view(len(codes), -1, 8) << torch.arange(8, dtype=torch.uint8)
    return octets.sum(2, dtype=torch.uint8).view(torch.int32)


def counted(checkpoint: Checkpoint, names: list[str]) -> str:
    """`"24 matrices (20 Q4_K, 4 Q6_K)"`."""
    kinds = Counter(checkpoint.kind(name).name for name in names).most_common()
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds)
    return f"{len(names)} {'matrix' if len(names) == 1 else 'matrices'} ({shown})"


def _cost(checkpoint: Checkpoint, names: Iterable[str]) -> str:
    """`"336 MB instead of 89.1 MB"`."""
    shapes = [(checkpoint.shape(name), checkpoint.kind(name)) for name in names]
    now = sum(prod(shape) * _WIDE_BYTES for shape, _ in shapes)
    before = sum(shape[0] * kind.row_bytes(shape[1]) for shape, kind in shapes)
    return f"{format_size(now)} instead of {format_size(before)}"
