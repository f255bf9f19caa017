"""Encode one matrix as well as its format allows: compensated or rounded, whichever loses less on unseen tokens.

Compensation minimises tr(ΔW H ΔWᵀ) for the H of the tokens it was given, and would win on those whatever it does to
others. So H is trusted only in part: what connects two inputs is shrunk to a half, which costs nothing on text of the
kind that was calibrated on and wins much on other text (LOG.md); and the tokens kept aside decide whether that, a still
more careful fit, or plain rounding is taken.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smidgen.calibration.sample import Sample
from smidgen.numerics.block_types import F16, BlockType
from smidgen.numerics.decode import decode
from smidgen.numerics.factor import inverse_factor
from smidgen.quantization.compensate import compensate
from smidgen.shapes import Float, UInt8

# Rows of a chunk on which losses are taken, and the ways to encode it are compared.
_SAMPLED_ROWS = 256
_SHRINKAGES = (0.5, 0.8)  # tried in this order, until one is better than rounding
_DAMPING = 0.001


class Metric:
    """What the inputs of a matrix say about its errors, prepared once for all matrices that share them.

    sample: the inputs.  rounding: 1/√Hᵢᵢ, for plain rounding.
    """

    def __init__(self, sample: Sample, *, compensating: bool = True) -> None:
        diagonal = sample.moment.diagonal()
        floor = 1e-6 * diagonal.mean().clamp_min(1e-30)  # an input that never occurred still wants a sensible scale
        self.sample, self.rounding = sample, diagonal.clamp_min(floor).rsqrt()
        self._shrinkages = _SHRINKAGES if compensating and sample.can_judge else ()
        self._factor: tuple[float, Tensor] | None = None

    def factors(self) -> Iterable[tuple[float, Float[Tensor, "in in"]]]:
        """Shrinkage and `inverse_factor` of H, the boldest first; none where nothing can judge what comes of them."""
        for shrinkage in self._shrinkages:
            if self._factor is None or self._factor[0] != shrinkage:
                self._factor = shrinkage, inverse_factor(self.sample.moment, _DAMPING, shrinkage)
            yield self._factor


@dataclass(frozen=True)
class Encoded:
    """A quantized matrix.

    packed: bytes as the file holds them.  shrinkage: of H, None where no row was compensated.
    rounded_rows: rows that are plainly rounded, since that was better, or is all there is; 0 for F16, where there is
    nothing to compensate.
    loss, rounding_loss: E[w ‖ΔW x‖²] / E[w] on tokens that nothing was fitted to, as encoded and for plain rounding;
    estimated from a sample of rows where the matrix is large.
    tokens, effective_tokens: that H was taken from, and how many equal ones would say as much.
    """

    kind: BlockType
    packed: UInt8[Tensor, "rows bytes"]
    shrinkage: float | None
    rounded_rows: int
    loss: float
    rounding_loss: float
    tokens: int
    effective_tokens: float

    @property
    def compensated(self) -> bool:
        """Whether the errors of all its rows were compensated."""
        return self.shrinkage is not None and self.rounded_rows == 0


def encode(chunks: Iterable[Float[Tensor, "_rows in"]], kind: BlockType, metric: Metric) -> Encoded:
    """Each chunk in the best of the encodings by what they lose on tokens that judge, as far as a sample of rows tells.

    chunks: the matrix in runs of rows, so that a large one need never be in memory decoded.
    """
    return _joined([_encode_chunk(rows, kind, metric) for rows in chunks])


def _joined(parts: Sequence[Encoded]) -> Encoded:
    """Runs of rows of one matrix."""
    first = parts[0]
    if len(parts) == 1:
        return first
    shrinkages = [part.shrinkage for part in parts if part.shrinkage is not None]
    return replace(
        first,
        packed=torch.cat([part.packed for part in parts]),
        shrinkage=max(shrinkages, default=None),
        rounded_rows=sum(part.rounded_rows for part in parts),
        loss=sum(part.loss for part in parts),
        rounding_loss=sum(part.rounding_loss for part in parts),
    )


def _encode_chunk(rows: Float[Tensor, "rows in"], kind: BlockType, metric: Metric) -> Encoded:
    which = torch.linspace(0, len(rows) - 1, min(len(rows), _SAMPLED_ROWS)).round().long()
    some, scale, sample = rows[which], len(rows) / len(which), metric.sample
    rounding_loss = scale * loss_of(some, compensate(some, kind, metric.rounding), kind, sample)
    for shrinkage, factor in metric.factors() if kind is not F16 else ():
        packed = compensate(rows, kind, factor)
        loss = scale * loss_of(some, packed[which], kind, sample)
        if loss <= rounding_loss:
            return Encoded(kind, packed, shrinkage, 0, loss, rounding_loss, sample.tokens, sample.effective)
    packed, rounded = compensate(rows, kind, metric.rounding), 0 if kind is F16 else len(rows)
    return Encoded(kind, packed, None, rounded, rounding_loss, rounding_loss, sample.tokens, sample.effective)


def loss_of(
    rows: Float[Tensor, "rows in"], packed: UInt8[Tensor, "rows bytes"], kind: BlockType, sample: Sample
) -> float:
    """E[w ‖ΔW x‖²] / E[w] of rows as they were encoded."""
    return float(sample.damage(decode(packed, kind).sub_(rows)).double().sum())
