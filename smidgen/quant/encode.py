"""Encode one matrix as well as its format allows: compensated, or rounded, whichever has the lower loss."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.quant.compensate import compensate, damage, inverse_factor
from smidgen.shapes import Float, UInt8


@dataclass(frozen=True)
class Metric:
    """What the inputs of a matrix say about its errors, prepared once for all matrices that share them.

    hessian: H = E[x xᵀ].  factor: `inverse_factor(H)`.  rounding: the same for the diagonal of H alone.
    """

    hessian: Float[Tensor, "in in"]
    factor: Float[Tensor, "in in"]
    rounding: Float[Tensor, " in"]

    @classmethod
    def of(cls, hessian: Float[Tensor, "in in"]) -> "Metric":
        """Factorise a second moment."""
        diagonal = hessian.diagonal()
        floor = 1e-6 * diagonal.mean().clamp_min(1e-30)  # an input that never occurred still wants a sensible scale
        return cls(hessian, inverse_factor(hessian), diagonal.clamp_min(floor).rsqrt())


@dataclass(frozen=True)
class Encoded:
    """A quantized matrix.

    packed: bytes as the file holds them.  compensated: False where plain rounding had the lower loss.
    loss: (ΔW H ΔWᵀ)ᵣᵣ per row, in units of the output squared.  rounding_loss: the sum of it for plain rounding.
    """

    kind: BlockType
    packed: UInt8[Tensor, "rows bytes"]
    compensated: bool
    loss: Float[Tensor, " rows"]
    rounding_loss: float


def encode(chunks: Iterable[Float[Tensor, "_rows in"]], kind: BlockType, metric: Metric) -> Encoded:
    """Both encodings of a matrix, and the better by tr(ΔW H ΔWᵀ).

    chunks: the matrix in runs of rows, so that a large one need never be in memory decoded.
    """
    plain, compensated = _Attempt(), _Attempt()
    for rows in chunks:
        plain.add(rows, kind, metric.rounding, metric.hessian)
        compensated.add(rows, kind, metric.factor, metric.hessian)
    rounding_loss = plain.total()
    best = compensated if compensated.total() <= rounding_loss else plain
    return Encoded(kind, torch.cat(best.packed), best is compensated, torch.cat(best.losses), rounding_loss)


class _Attempt:
    """One encoding of all rows, and what it loses."""

    def __init__(self) -> None:
        self.packed: list[Tensor] = []
        self.losses: list[Tensor] = []

    def add(self, rows: Float[Tensor, "rows in"], kind: BlockType, factor: Tensor, hessian: Tensor) -> None:
        packed = compensate(rows, kind, factor)
        self.packed.append(packed)
        self.losses.append(damage(decode(packed, kind).sub_(rows), hessian))

    def total(self) -> float:
        return sum(float(loss.double().sum()) for loss in self.losses)
