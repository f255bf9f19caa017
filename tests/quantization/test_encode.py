"""Encoding one matrix: the better of two attempts, the same in chunks as whole."""

import pytest
import torch

from smidgen.numerics import block_types as types
from smidgen.numerics.decode import decode
from smidgen.numerics.factor import damage
from smidgen.quantization.compensate import compensate
from smidgen.quantization.encode import Metric, encode

GENERATOR = torch.Generator().manual_seed(11)
WEIGHT = torch.randn(40, 64, generator=GENERATOR) * 0.1
INPUTS = torch.randn(500, 64, generator=GENERATOR) @ torch.randn(64, 64, generator=GENERATOR)
METRIC = Metric.of(INPUTS.T @ INPUTS / 500)


def test_loss_is_that_of_the_stored_bytes() -> None:
    encoded = encode([WEIGHT], types.IQ4_NL, METRIC)
    error = decode(encoded.packed, types.IQ4_NL) - WEIGHT
    assert encoded.loss == pytest.approx(float(damage(error, METRIC.hessian).sum()))
    assert encoded.loss == pytest.approx(float((INPUTS @ error.T).square().mean(0).sum()), rel=1e-3)
    assert encoded.compensated and encoded.loss < encoded.rounding_loss


def test_losses_of_many_rows_are_estimated_from_some() -> None:
    weight = torch.randn(1000, 64, generator=GENERATOR) * 0.1
    encoded = encode([weight], types.IQ4_NL, METRIC)
    error = decode(encoded.packed, types.IQ4_NL) - weight
    assert encoded.loss == pytest.approx(float(damage(error, METRIC.hessian).sum()), rel=0.1)
    plain = decode(compensate(weight, types.IQ4_NL, METRIC.rounding), types.IQ4_NL) - weight
    assert encoded.rounding_loss == pytest.approx(float(damage(plain, METRIC.hessian).sum()), rel=0.1)


def test_chunks_of_rows_make_no_difference() -> None:
    whole, parts = encode([WEIGHT], types.Q5_0, METRIC), encode(WEIGHT.split(7), types.Q5_0, METRIC)
    assert torch.equal(whole.packed, parts.packed)


def test_plain_rounding_is_kept_where_it_is_better() -> None:
    """With the signs of its pushes turned, compensation sends errors where they hurt."""
    assert METRIC.factor is not None
    turned = 2 * METRIC.factor.diagonal().diag() - METRIC.factor
    wrong = Metric(METRIC.hessian, turned, METRIC.rounding)
    encoded = encode([WEIGHT], types.Q4_0, wrong)
    assert not encoded.compensated
    assert torch.equal(encoded.packed, compensate(WEIGHT, types.Q4_0, METRIC.rounding))


def test_a_poor_second_moment_is_only_rounded_with() -> None:
    metric = Metric.of(METRIC.hessian, compensating=False)
    encoded = encode([WEIGHT], types.Q4_0, metric)
    assert not encoded.compensated and encoded.loss == encoded.rounding_loss
    assert torch.equal(encoded.packed, compensate(WEIGHT, types.Q4_0, METRIC.rounding))


def test_inputs_that_never_occur_do_no_harm() -> None:
    hessian = METRIC.hessian.clone()
    hessian[3], hessian[:, 3] = 0, 0
    encoded = encode([WEIGHT], types.Q4_0, Metric.of(hessian))
    error = (decode(encoded.packed, types.Q4_0) - WEIGHT).abs().max()
    assert torch.isfinite(error) and error < WEIGHT.abs().max()
    nothing = encode([WEIGHT], types.Q4_0, Metric.of(torch.zeros(64, 64)))
    assert (decode(nothing.packed, types.Q4_0) - WEIGHT).abs().max() < 0.1
