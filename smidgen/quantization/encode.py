"""Encode one matrix as well as its format allows: compensated, or rounded, whichever has the lower loss."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.numerics.block_types import F16, BlockType
from smidgen.numerics.decode import decode
from smidgen.numerics.factor import damage, inverse_factor
from smidgen.quantization.compensate import compensate
from smidgen.shapes import Float, UInt8

# Rows of a chunk on which losses are taken, and plain rounding is tried.
_SAMPLED_ROWS = 256


@dataclass(frozen=True)
class Metric:
    """What the inputs of a matrix say about its errors, prepared once for all matrices that share them.

    hessian: H = E[x xᵀ].  factor: `inverse_factor(H)`, or None where H is too poor to compensate with.
    rounding: the same for the diagonal of H alone.
    """

    hessian: Float[Tensor, "in in"]
    factor: Float[Tensor, "in in"] | None
    rounding: Float[Tensor, " in"]

    @classmethod
    def of(cls, hessian: Float[Tensor, "in in"], *, compensating: bool = True) -> "Metric":
        """Factorise a second moment."""
        diagonal = hessian.diagonal()
        floor = 1e-6 * diagonal.mean().clamp_min(1e-30)  # an input that never occurred still wants a sensible scale
        return cls(hessian, inverse_factor(hessian) if compensating else None, diagonal.clamp_min(floor).rsqrt())


@dataclass(frozen=True)
class Encoded:
    """A quantized matrix.

    packed: bytes as the file holds them.  compensated: False where plain rounding was no worse, or is all there is.
    loss, rounding_loss: tr(ΔW H ΔWᵀ), in units of the output squared, as encoded and for plain rounding; estimated
    from a sample of rows where the matrix is large.
    """

    kind: BlockType
    packed: UInt8[Tensor, "rows bytes"]
    compensated: bool
    loss: float
    rounding_loss: float


def encode(chunks: Iterable[Float[Tensor, "_rows in"]], kind: BlockType, metric: Metric) -> Encoded:
    """Each chunk in the better of both encodings by tr(ΔW H ΔWᵀ), as far as a sample of its rows tells.

    chunks: the matrix in runs of rows, so that a large one need never be in memory decoded.
    """
    parts = [_encode_chunk(rows, kind, metric) for rows in chunks]
    whole = parts[0].packed if len(parts) == 1 else torch.cat([part.packed for part in parts])
    loss, rounding_loss = sum(part.loss for part in parts), sum(part.rounding_loss for part in parts)
    return Encoded(kind, whole, any(part.compensated for part in parts), loss, rounding_loss)


def _encode_chunk(rows: Float[Tensor, "rows in"], kind: BlockType, metric: Metric) -> Encoded:
    which = torch.linspace(0, len(rows) - 1, min(len(rows), _SAMPLED_ROWS)).round().long()
    scale = len(rows) / len(which)
    rounding_loss = scale * loss_of(rows[which], compensate(rows[which], kind, metric.rounding), kind, metric.hessian)
    if metric.factor is not None and kind is not F16:
        packed = compensate(rows, kind, metric.factor)
        loss = scale * loss_of(rows[which], packed[which], kind, metric.hessian)
        if loss <= rounding_loss:
            return Encoded(kind, packed, True, loss, rounding_loss)
    return Encoded(kind, compensate(rows, kind, metric.rounding), False, rounding_loss, rounding_loss)


def loss_of(
    rows: Float[Tensor, "rows in"],
    packed: UInt8[Tensor, "rows bytes"],
    kind: BlockType,
    hessian: Float[Tensor, "in in"],
) -> float:
    """tr(ΔW H ΔWᵀ) of rows as they were encoded."""
    return float(damage(decode(packed, kind).sub_(rows), hessian).double().sum())
