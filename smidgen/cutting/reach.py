"""Which types a file within its limits can want, so that the others need no survey.

Bits are best spread rather evenly: what lies far from the average is never chosen. Where a vocabulary may be trimmed
there are more bits for what stays, so the types above are kept up to a wide margin. Where time is short instead of
bytes, the same is true of the seconds that a weight takes; and a type that is slower than one with more bits is of no
use then.
"""

import math
from collections.abc import Sequence

from smidgen.cutting.limits import Limits, Pace
from smidgen.cutting.plan import choose_quickest, fixed_bytes, largest_size, matrices, smallest_size
from smidgen.cutting.portable import are_portable
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.gguf.traffic import shares_read
from smidgen.numerics.block_types import BlockType
from smidgen.quantization.survey import TARGET_TYPES

_REACH = 0.75, 3.0  # times the average of a weight: types beyond are never chosen


def to_survey(checkpoint: Checkpoint, types: Sequence[BlockType], limits: Limits) -> tuple[BlockType, ...]:
    """Those within reach; with portable types also all others, so that a plan can say what that choice costs.

    Where a speed is asked for, how quick the others are is not known.
    """
    near = within_reach(checkpoint, types, limits)
    if not are_portable(types) or limits.pace is not None:
        return near
    return *near, *within_reach(checkpoint, TARGET_TYPES, Limits(limits.nbytes))


def within_reach(checkpoint: Checkpoint, types: Sequence[BlockType], limits: Limits) -> tuple[BlockType, ...]:
    """Those of `types` that a file within the limits can want; all where both limits may count.

    What the limits themselves say comes first.
    """
    if limits.kinds:
        return limits.kinds
    if limits.pace is None:
        return _by_bytes(checkpoint, types, limits.nbytes)
    if limits.nbytes < largest_size(checkpoint, types):
        return tuple(types)
    return _by_time(checkpoint, types, limits, limits.pace)


def _by_bytes(checkpoint: Checkpoint, types: Sequence[BlockType], budget: int) -> tuple[BlockType, ...]:
    tensors = checkpoint.file.tensors
    weights = sum(math.prod(tensors[name].shape) for name in matrices(checkpoint))
    average = 8 * (budget - fixed_bytes(checkpoint)) / weights
    low, high = _REACH
    near = tuple(kind for kind in types if low * average <= kind.bits_per_weight <= high * average)
    return near if near and smallest_size(checkpoint, near) <= budget else tuple(types)


def _by_time(checkpoint: Checkpoint, types: Sequence[BlockType], limits: Limits, pace: Pace) -> tuple[BlockType, ...]:
    tensors, shares = checkpoint.file.tensors, shares_read(checkpoint.file)
    weights = sum(shares[name] * math.prod(tensors[name].shape) for name in matrices(checkpoint))
    average = pace.limit / weights
    fitting = [kind for kind in types if kind.stored.name in pace.rates]  # no other fits any row
    seconds = {kind: pace.seconds(kind, kind.bits_per_weight / 8) for kind in fitting}
    low, high = _REACH
    near = tuple(
        kind
        for kind in fitting
        if low * average <= seconds[kind] <= high * average
        and not any(
            other.bits_per_weight > kind.bits_per_weight and seconds[other] <= seconds[kind] for other in fitting
        )
    )
    possible = near and sum(choice.seconds for choice in choose_quickest(checkpoint, near, limits)) <= pace.limit
    return near if possible else tuple(types)
