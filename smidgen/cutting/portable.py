"""`--types portable`: a cut whose weights every export format can hold, so that one healing serves all of them.

Matrices become Q4_0 or Q8_0 with scales that every framework holds (`numerics.portable`), or 16 bits where their rows
do not fit. What the original has in other types is encoded anew even where bytes would let it stay.
"""

from collections.abc import Sequence

import numpy as np
import torch

from smidgen.errors import Unsupported, printable
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.parameters import is_matrix
from smidgen.numerics.block_types import BF16, F16, F32, PORTABLE, BlockType
from smidgen.numerics.portable import has_portable_scales

#: What `--types` says for all of it.
NAME = "portable"
_WIDE = (F32, F16, BF16)
_SLAB = 2**24  # bytes


def are_portable(types: Sequence[BlockType]) -> bool:
    """Whether a cut to these types is to be portable."""
    return any(kind in PORTABLE for kind in types)


def may_stay(checkpoint: Checkpoint, tensor: str) -> bool:
    """Whether a tensor of the file is portable as it is."""
    kind = checkpoint.file.tensors[tensor].kind
    if kind in _WIDE:
        return True
    packed = checkpoint.file.packed(tensor)
    rows = packed.reshape(-1, packed.shape[-1])
    step = max(1, _SLAB // rows.shape[1])
    slabs = (rows[start : start + step] for start in range(0, len(rows), step))
    found = all(has_portable_scales(torch.from_numpy(np.array(slab)), kind) for slab in slabs)
    checkpoint.release()
    return found


def refuse_unportable(checkpoint: Checkpoint) -> None:
    """Raises Unsupported where what a cut leaves as it is would not be portable: a router of experts in few bits."""
    for name in checkpoint.names():
        if not is_matrix(name) and checkpoint.kind(name) not in _WIDE:
            raise Unsupported(
                f"{printable(checkpoint.path.name)} cannot become portable: {checkpoint.gguf_name(name)} is "
                f"{checkpoint.kind(name).name}, and smidgen leaves it as it is. Start from a file that has it in F16 "
                "or F32."
            )
