"""Encoding one matrix: the better of two attempts, the same in chunks as whole."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from smidgen.calibration.outputs import OutputGathering, OutputMoment
from smidgen.calibration.sample import Sample
from smidgen.numerics import block_types as types
from smidgen.numerics.decode import decode
from smidgen.numerics.factor import inverse_factor
from smidgen.quantization import encode as encode_module
from smidgen.quantization.compensate import compensate
from smidgen.quantization.encode import Encoded, Metric, encode

GENERATOR = torch.Generator().manual_seed(11)
WEIGHT = torch.randn(40, 64, generator=GENERATOR) * 0.1
INPUTS = torch.randn(500, 64, generator=GENERATOR) @ torch.randn(64, 64, generator=GENERATOR)


def sample_of(inputs: Tensor, unseen: Tensor) -> Sample:
    judges = unseen * max(len(unseen), 1) ** -0.5
    return Sample(inputs.T @ inputs / len(inputs), judges, len(inputs), float(len(inputs)))


SAMPLE = sample_of(INPUTS[:400], INPUTS[400:])
METRIC = Metric(SAMPLE)


def error_of(encoded: Encoded, weight: Tensor) -> Tensor:
    return decode(encoded.packed, encoded.kind) - weight


def test_loss_is_that_of_the_stored_bytes_on_unseen_tokens() -> None:
    encoded = encode([WEIGHT], types.IQ4_NL, METRIC)
    outputs = INPUTS[400:] @ error_of(encoded, WEIGHT).T
    assert encoded.loss == pytest.approx(float(outputs.square().mean(0).sum()), rel=1e-4)
    assert encoded.compensated and encoded.loss < encoded.rounding_loss
    assert (encoded.tokens, encoded.effective_tokens) == (400, 400.0)


def test_losses_of_many_rows_are_estimated_from_some() -> None:
    weight = torch.randn(1000, 64, generator=GENERATOR) * 0.1
    encoded = encode([weight], types.IQ4_NL, METRIC)
    assert encoded.loss == pytest.approx(float(SAMPLE.damage(error_of(encoded, weight)).sum()), rel=0.1)
    plain = decode(compensate(weight, types.IQ4_NL, METRIC.rounding), types.IQ4_NL) - weight
    assert encoded.rounding_loss == pytest.approx(float(SAMPLE.damage(plain).sum()), rel=0.1)


def test_chunks_of_rows_make_no_difference() -> None:
    whole, parts = encode([WEIGHT], types.Q5_0, METRIC), encode(WEIGHT.split(20), types.Q5_0, METRIC)
    assert torch.equal(whole.packed, parts.packed)
    assert whole.loss == pytest.approx(parts.loss) and whole.shrinkage == parts.shrinkage


def test_a_matrix_of_which_a_part_is_rounded_says_so() -> None:
    whole = encode([WEIGHT], types.Q4_0, METRIC)
    parts = [whole, replace(whole, shrinkage=None, rounded_rows=40)]
    joined = encode_module._joined(parts)
    assert whole.compensated and not joined.compensated and joined.rounded_rows == 40 and joined.shrinkage == 0.5
    float16 = encode([WEIGHT], types.F16, METRIC)
    assert not float16.compensated and float16.rounded_rows == 0


def test_what_only_those_who_were_asked_liked_is_not_taken() -> None:
    """With fewer tokens than columns, compensation as bold as ever wins on them and loses on all others."""
    few = INPUTS[:40]
    encoded = encode([WEIGHT], types.Q4_0, Metric(sample_of(few, INPUTS[400:])))
    bold = compensate(WEIGHT, types.Q4_0, inverse_factor(few.T @ few / 40))
    plain = compensate(WEIGHT, types.Q4_0, Metric(sample_of(few, INPUTS[400:])).rounding)
    losses = [float((INPUTS[400:] @ (decode(one, types.Q4_0) - WEIGHT).T).square().sum()) for one in (bold, plain)]
    assert losses[0] > losses[1] and 100 * encoded.loss <= 1.0001 * losses[1]


def test_plain_rounding_is_kept_where_it_is_better() -> None:
    """With the signs of its pushes turned, compensation sends errors where they hurt."""

    class Wrong(Metric):
        def compensate(self, rows: Tensor, kind: types.BlockType, shrinkage: float, factor: Tensor) -> Tensor:
            return compensate(rows, kind, 2 * factor.diagonal().diag() - factor)

    encoded = encode([WEIGHT], types.Q4_0, Wrong(SAMPLE))
    assert not encoded.compensated and encoded.loss == encoded.rounding_loss and encoded.rounded_rows == 40
    assert torch.equal(encoded.packed, compensate(WEIGHT, types.Q4_0, METRIC.rounding))


@pytest.mark.parametrize("judges, compensating", [(0, True), (15, True), (100, False)])
def test_what_nobody_can_judge_is_only_rounded(judges: int, compensating: bool) -> None:
    metric = Metric(sample_of(INPUTS[:400], INPUTS[:judges]), compensating=compensating)
    encoded = encode([WEIGHT], types.Q4_0, metric)
    assert not encoded.compensated and encoded.loss == encoded.rounding_loss > 0
    assert torch.equal(encoded.packed, compensate(WEIGHT, types.Q4_0, METRIC.rounding))


def test_inputs_that_never_occur_do_no_harm() -> None:
    inputs = INPUTS.clone()
    inputs[:, 3] = 0
    encoded = encode([WEIGHT], types.Q4_0, Metric(sample_of(inputs[:400], inputs[400:])))
    error = error_of(encoded, WEIGHT).abs().max()
    assert torch.isfinite(error) and error < WEIGHT.abs().max()
    nothing = encode([WEIGHT], types.Q4_0, Metric(sample_of(torch.zeros(40, 64), torch.zeros(40, 64))))
    assert error_of(nothing, WEIGHT).abs().max() < 0.1


def test_what_outputs_do_together_is_made_up_for_across_rows() -> None:
    """Rows of which the model feels only the sum: the loss is that of the sum, and nearly all of it can be mended."""
    together = OutputMoment([0.9 * torch.ones(128, 128) + 0.1 * torch.eye(128)])
    weight = torch.randn(128, 64, generator=GENERATOR) * 0.1
    apart, both = encode([weight], types.IQ4_NL, METRIC), encode([weight], types.IQ4_NL, Metric(SAMPLE, together))
    wrong = INPUTS[400:] @ error_of(both, weight).T
    assert both.loss == pytest.approx(float(together.loss(wrong * 100**-0.5)), rel=1e-3)
    before = together.loss(INPUTS[400:] @ error_of(apart, weight).T * 100**-0.5)
    assert both.compensated and both.loss < 0.8 * before


def test_rows_of_which_few_matter_are_judged_by_those() -> None:
    """A thousand rows whose outputs count for very different amounts: taken at equal steps, the heaviest are missed."""
    gathering = OutputGathering(1000)
    sizes = torch.randn(1000, generator=GENERATOR).mul(2).exp()
    gathering.add(torch.randn(300, 1000, generator=GENERATOR) * sizes)
    outputs, weight = gathering.moment(), torch.randn(1000, 64, generator=GENERATOR) * 0.1
    assert outputs is not None
    metric = Metric(SAMPLE, outputs)
    plain = compensate(weight, types.Q4_0, metric.rounding)
    every = SAMPLE.damage(decode(plain, types.Q4_0) - weight) * outputs.diagonal()
    assert metric.rounding_loss(weight, types.Q4_0) == pytest.approx(float(every.sum()), rel=0.15)


def test_what_no_type_can_hold_is_rounded_and_sent_nowhere() -> None:
    """A loss beyond all numbers says nothing, so nothing is made up for."""
    weight = WEIGHT.clone()
    weight[3, 7] = 1e30
    outputs = OutputMoment([0.5 * torch.ones(40, 40) + 0.5 * torch.eye(40)])
    encoded = encode([weight], types.Q8_0, Metric(SAMPLE, outputs))
    others = torch.arange(40) != 3
    assert encoded.rounded_rows == 40 and error_of(encoded, weight)[others].abs().max() < 0.01
