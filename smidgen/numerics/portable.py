"""Scales that every framework holds: positive, and of 8 significant bits.

Groups of 32 weights with a scale are GGUF's Q4_0 and Q8_0, and most other frameworks have them too. They differ in what
a scale may be. GGUF has any float16, with a sign. LiteRT (XNNPACK) takes 4-bit groups with bfloat16 scales, and refuses
a scale that is negative or 0; what is written to it from float16 would be rounded. So a scale of which nothing is lost
anywhere is above 0 and both a float16 and a bfloat16 number: of 8 significant bits, from 2⁻²⁴ to 65280.

A group of zeros has no scale of its own. It gets the smallest, 2⁻²⁴, with the codes of 0. That is a normal number of
bfloat16 and float32, which is what XNNPACK asks for; and where small float16 numbers are taken for 0, nothing changes.
"""

import torch
from torch import Tensor

from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.shapes import Float, UInt8

SMALLEST, LARGEST = 2.0**-24, 65280.0
_OF_STORED = {kind.stored: kind for kind in types.PORTABLE}


def as_portable(scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The nearest portable scale, as float16."""
    return scale.clamp(SMALLEST, LARGEST).bfloat16().half()


def has_portable_scales(packed: UInt8[Tensor, "rows bytes"], kind: BlockType) -> bool:
    """Whether all rows are as a portable type has them. kind: as a file calls it; False for all but two."""
    if kind not in _OF_STORED:
        return False
    scales = packed.reshape(-1, kind.block_bytes)[:, :2].contiguous().view(torch.float16).float()
    return bool(((scales > 0) & (scales == as_portable(scales).float())).all())


def kept_kind(packed: UInt8[Tensor, "rows bytes"], kind: BlockType) -> BlockType:
    """The type to change a matrix in, so that it stays portable where it is: the portable one then, else `kind`."""
    return _OF_STORED[kind] if has_portable_scales(packed, kind) else kind
