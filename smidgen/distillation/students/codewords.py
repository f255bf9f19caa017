"""A matrix of IQ2 or IQ3 in training: its scales learn, its codewords stay.

As in `students.lattice`, what is computed with is always what the file holds: the float16 unit of each block learns,
relative to where it began, and is rounded by the straight-through rule. Codewords, signs and the groups' factors are
those that the quantizer chose: one of them is a choice among hundreds for several weights together, and looking for it
again at every step would take as long as the step itself.

Memory: beside the decoder's weight and gradient, the packed bytes and once more a matrix for a moment.
"""

import torch
from torch import Tensor

from smidgen.formats.derived import Packed
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.codeword_fields import fields_of
from smidgen.numerics.decode import decode
from smidgen.shapes import Float, UInt8

_ONE = torch.ones(1, dtype=torch.float16).view(torch.uint8)


class OnCodewords:
    """A matrix whose units learn. packed: its rows, in the model's order."""

    def __init__(self, packed: UInt8[Tensor, "rows bytes"], kind: BlockType) -> None:
        self._kind, self._packed = kind, packed
        self._first = fields_of(kind, packed).unit
        self._unit = torch.zeros(self._first.shape)

    def tensors(self) -> dict[str, Tensor]:
        """What learns."""
        return {":unit": self._unit}

    def prepare(self, weights: Float[Tensor, "rows cols"]) -> None:
        """Write what the file would hold."""
        weights.copy_(decode(self._now(), self._kind))

    def collect(self, gradient: Float[Tensor, "rows cols"]) -> None:
        """The chain rule: a weight is its unit times what decodes from a unit of 1."""
        gradient = gradient.to_dense() if gradient.is_sparse else gradient
        slopes = (gradient * decode(self._with_unit(_ONE), self._kind)).unflatten(1, (-1, self._kind.block)).sum(2)
        self._unit.grad = slopes.mul_(self._first)

    def part(self) -> Packed:
        """The trained matrix."""
        return Packed(self._kind, self._now)

    def _now(self) -> UInt8[Tensor, "rows bytes"]:
        return self._with_unit((self._first * (1 + self._unit)).half().view(torch.uint8).unflatten(1, (-1, 2)))

    def _with_unit(self, unit: UInt8[Tensor, "..."]) -> UInt8[Tensor, "rows bytes"]:
        """All of these types begin a block with its unit."""
        blocks = self._packed.clone().unflatten(1, (-1, self._kind.block_bytes))
        blocks[..., :2] = unit
        return blocks.flatten(1)
