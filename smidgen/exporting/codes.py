"""A quantized matrix as other frameworks store it: whole numbers, and a scale for each 32 of them in a row.

    weight = scale · code + shift

The simple types of GGUF are such matrices, and so are MLX's affine groups, MatMulNBits of ONNX Runtime, packed weights
of compressed-tensors, compressed constants of OpenVINO and blockwise integers of LiteRT. So these numbers go from one
to the other as they are: nothing is quantized again, and nothing is lost.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smidgen.errors import Unsupported
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.safetensors_writer import Stored
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.lattice import Lattice
from smidgen.shapes import Float, Integer, UInt8

GROUP = 32  # weights that share a scale
#: Type → bits of a code.
BITS: dict[BlockType, int] = {types.Q4_0: 4, types.Q4_1: 4, types.Q8_0: 8}
_PIECE_VALUES = 2**24


@dataclass(frozen=True)
class Codes:
    """Some rows of a matrix.

    codes: int8; −8 … 7 of Q4_0, 0 … 15 of Q4_1 (twice as many of Q5_0 and Q5_1), −128 … 127 of Q8_0 (smidgen itself
    writes no −128).
    scale, shift: float16, exactly as stored; a scale may be negative; shift None where there is none.
    """

    codes: Integer[Tensor, "rows cols"]
    scale: Float[Tensor, "rows groups"]
    shift: Float[Tensor, "rows groups"] | None

    def weights(self) -> Float[Tensor, "rows cols"]:
        """What they stand for, float32."""
        values = self.codes.float().unflatten(1, (-1, GROUP)) * self.scale.float()[:, :, None]
        return (values if self.shift is None else values + self.shift.float()[:, :, None]).flatten(1)


def pieces_of_codes(checkpoint: Checkpoint, name: str) -> Iterator[Codes]:
    """A parameter in runs of rows, in the model's order, as `Checkpoint.pieces` gives it decoded.

    Only for types of groups of 32: those in `BITS`, Q5_0 and Q5_1.
    """
    rows, columns = checkpoint.shape(name)
    kind, packed, order = checkpoint.kind(name), checkpoint.packed(name), checkpoint.transform(name).order
    step = max(1, _PIECE_VALUES // columns)
    for start in range(0, rows, step):
        numbers = np.arange(start, min(start + step, rows))
        yield _taken_apart(torch.from_numpy(packed[numbers if order is None else order[numbers]]), kind)


def part_of_codes(
    checkpoint: Checkpoint, name: str, part: str, dtype: torch.dtype, columns: int, of: Callable[[Codes], Tensor]
) -> Stored:  # fmt: skip
    """What a format stores of a matrix's codes, as a tensor [rows, columns] that is made while it is written.

    part: its name after the matrix's.  of: makes it, for some rows.
    """

    def pieces() -> Iterator[Tensor]:
        return map(of, pieces_of_codes(checkpoint, name))

    return Stored(f"{name}.{part}", dtype, (checkpoint.shape(name)[0], columns), pieces)


def decoded_pieces(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> Iterator[Float[Tensor, "rows cols"]]:
    """A matrix whose codes a format does not hold, decoded, in runs of rows.

    Raises Unsupported where `dtype` cannot hold a value.
    """
    for values in checkpoint.pieces(name):
        stored = values.to(dtype)
        if not torch.isfinite(stored).all():
            raise Unsupported(
                f"{name} has values that {dtype} cannot hold; choose another --dtype".replace("torch.", "")
            )
        yield stored


def _taken_apart(packed: UInt8[Tensor, "rows bytes"], kind: BlockType) -> Codes:
    if kind == types.Q8_0:  # not by way of its levels, among which other makers' −128 is none
        blocks = packed.unflatten(1, (-1, kind.block_bytes))
        return Codes(
            blocks[..., 2:].view(torch.int8).flatten(1),
            blocks[..., :2].contiguous().view(torch.float16).squeeze(2),
            None,
        )
    lattice = Lattice.of(packed, kind)
    return Codes(lattice.levels().to(torch.int8), lattice.unit, lattice.shift_unit)
