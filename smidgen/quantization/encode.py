"""Encode one matrix as well as its format allows: compensated or rounded, whichever loses less on unseen tokens.

Compensation minimises tr(ΔW H ΔWᵀ) for the H of the tokens it was given, and would win on those whatever it does to
others. So H is trusted only in part: what connects two inputs is shrunk to a half, which costs nothing on text of the
kind that was calibrated on and wins much on other text (LOG.md); and the tokens kept aside decide whether that, a still
more careful fit, or plain rounding is taken.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smidgen.calibration.outputs import OutputMoment
from smidgen.calibration.row_gradients import draw_rows
from smidgen.calibration.sample import DAMPING, SHRINKAGES, Sample
from smidgen.numerics.block_types import F16, BlockType
from smidgen.numerics.decode import decode
from smidgen.numerics.factor import inverse_factor
from smidgen.quantization.compensate import bounded, compensate
from smidgen.quantization.refit import refit
from smidgen.quantization.two_sided import compensate_both_ways, output_factors
from smidgen.shapes import Float, Int, UInt8

# Rows of a chunk on which losses are taken, and the ways to encode it are compared.
_SAMPLED_ROWS = 256


class Metric:
    """What is known about the errors of a matrix, prepared once.

    sample: its inputs.  outputs: how errors of its outputs add up; None where all are taken as independent.
    rounding: 1/√Hᵢᵢ, for plain rounding.
    """

    def __init__(self, sample: Sample, outputs: OutputMoment | None = None, *, compensating: bool = True) -> None:
        diagonal = sample.moment.diagonal()
        floor = 1e-6 * diagonal.mean().clamp_min(1e-30)  # an input that never occurred still wants a sensible scale
        self.sample, self.outputs, self.rounding = sample, outputs, diagonal.clamp_min(floor).rsqrt()
        self._shrinkages = SHRINKAGES if compensating and sample.can_judge else ()
        self._across = None if outputs is None or not self._shrinkages else output_factors(outputs)
        self._factor: tuple[float, Tensor] | None = None

    def factors(self) -> Iterable[tuple[float, Float[Tensor, "in in"]]]:
        """Shrinkage and `inverse_factor` of H, the boldest first; none where nothing can judge what comes of them."""
        for shrinkage in self._shrinkages:
            if self._factor is None or self._factor[0] != shrinkage:
                self._factor = shrinkage, inverse_factor(self.sample.moment, DAMPING, shrinkage)
            yield self._factor

    def compensate(
        self, rows: Float[Tensor, "rows in"], kind: BlockType, shrinkage: float, factor: Float[Tensor, "in in"]
    ) -> UInt8[Tensor, "rows bytes"]:
        """Encode with compensation, across rows too where the outputs are known; then fit all that is stored again."""
        rows = bounded(rows)
        if self._across is None:
            packed, targets = compensate(rows, kind, factor), rows
        else:
            packed, targets = compensate_both_ways(rows, kind, factor, self._across)
        return refit(targets, packed, kind, self.sample.moment, damping=DAMPING, shrinkage=shrinkage)

    def loss(self, rows: Float[Tensor, "rows in"], packed: UInt8[Tensor, "rows bytes"], kind: BlockType) -> float:
        """E[w Δxᵀ G Δx] / E[w] of rows as they were encoded, on the tokens that judge; G is 1 where it is not known."""
        if self.outputs is None or not self.sample.can_judge:
            which, shares = _some(len(rows))
            return float(shares @ self._apart(rows[which], packed[which], kind))
        return self.outputs.loss(self.sample.judges @ decode(packed, kind).sub_(rows).T)

    def rounding_loss(self, rows: Float[Tensor, "rows in"], kind: BlockType) -> float:
        """The same for plain rounding, from some of the rows: their errors have nothing to do with each other."""
        which, shares = _some(len(rows)) if self.outputs is None else _some_that_matter(rows, self.outputs)
        some = rows[which]
        return float(shares @ self._apart(some, compensate(some, kind, self.rounding), kind))

    def _apart(
        self, rows: Float[Tensor, "rows in"], packed: UInt8[Tensor, "rows bytes"], kind: BlockType
    ) -> Float[Tensor, " rows"]:
        """What the error of each row costs alone, in float64."""
        return self.sample.damage(decode(packed, kind).sub_(rows)).double()


def _some(rows: int) -> tuple[Int[Tensor, " sampled"], Float[Tensor, " sampled"]]:
    """Rows by which all are judged, and shares (float64) with which a sum over them estimates that over all."""
    which = torch.linspace(0, rows - 1, min(rows, _SAMPLED_ROWS)).round().long()
    return which, torch.full((len(which),), rows / len(which), dtype=torch.float64)


def _some_that_matter(
    rows: Float[Tensor, "rows in"], outputs: OutputMoment
) -> tuple[Int[Tensor, " sampled"], Float[Tensor, " sampled"]]:
    """The same where some outputs count for more, which is in the shares: of the few that count most none is missed."""
    weights = outputs.diagonal().double()
    if len(rows) <= _SAMPLED_ROWS:
        return torch.arange(len(rows)), weights
    sizes = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square_()
    which, shares = draw_rows(weights * sizes, _SAMPLED_ROWS)
    return which, weights[which].mul_(shares)


@dataclass(frozen=True)
class Encoded:
    """A quantized matrix.

    packed: bytes as the file holds them.  shrinkage: of H, None where no row was compensated.
    rounded_rows: rows that are plainly rounded, since that was better, or is all there is; 0 for F16, where there is
    nothing to compensate.
    loss, rounding_loss: E[w Δxᵀ G Δx] / E[w] on tokens that nothing was fitted to, as encoded and for plain rounding;
    G is 1 where the outputs are not known. Without them `loss`, and `rounding_loss` always, is estimated from a sample
    of rows where the matrix is large; infinite where the weights are so large that nothing can be added up.
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


def encode_runs(rows: Float[Tensor, "rows in"], kind: BlockType, metrics: Sequence[Metric]) -> Encoded:
    """The same where errors meet different things in equal runs of columns, which hold whole blocks of the type.

    metrics: one for each run of columns.
    """
    if len(metrics) == 1:
        return encode([rows], kind, metrics[0])
    runs = rows.split(rows.shape[1] // len(metrics), dim=1)
    parts = [_encode_chunk(run.contiguous(), kind, metric) for run, metric in zip(runs, metrics, strict=True)]
    shrinkages = [part.shrinkage for part in parts if part.shrinkage is not None]
    return replace(
        parts[0],
        packed=torch.cat([part.packed for part in parts], dim=1),
        shrinkage=max(shrinkages, default=None),
        rounded_rows=min(part.rounded_rows for part in parts),
        loss=sum(part.loss for part in parts),
        rounding_loss=sum(part.rounding_loss for part in parts),
    )


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
    sample, rounding_loss = metric.sample, metric.rounding_loss(rows, kind)
    for shrinkage, factor in metric.factors() if kind is not F16 else ():
        packed = metric.compensate(rows, kind, shrinkage, factor)
        loss = metric.loss(rows, packed, kind)
        if loss <= rounding_loss < math.inf:  # beyond what can be added up nobody can judge
            return Encoded(kind, packed, shrinkage, 0, loss, rounding_loss, sample.tokens, sample.effective)
    packed, rounded = compensate(rows, kind, metric.rounding), 0 if kind is F16 else len(rows)
    return Encoded(kind, packed, None, rounded, rounding_loss, rounding_loss, sample.tokens, sample.effective)
