"""Properties of the streamed divergence: zero for equals, never negative, independent of how it is chunked."""

import pytest
import torch
from torch import Tensor

from smidgen.numerics.divergence import (
    NO_TARGET,
    PositionScores,
    Restriction,
    StreamedDivergence,
    StreamedSoftmax,
    soft_cap_,
)


def streamed(original: Tensor, cut: Tensor, targets: Tensor, chunk: int, positions: int = 1000) -> PositionScores:
    stream = StreamedDivergence(targets)
    for first in range(0, original.shape[1], chunk):
        for at in range(0, len(original), positions):
            where = slice(at, min(at + positions, len(original)))
            part = original[where, first : first + chunk].clone(), cut[where, first : first + chunk].clone()
            stream.add(where, first, *part)
    return stream.finish()


def logits(positions: int, vocabulary: int, scale: float, seed: int) -> Tensor:
    return torch.randn(positions, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("scale", [0.01, 3.0, 40.0])
def test_a_model_compared_with_itself_scores_exactly_zero(scale: float) -> None:
    x = logits(16, 5000, scale, 0)
    scores = streamed(x, x, x.argmin(dim=1), 700)
    assert scores.kl.abs().max() == 0
    assert torch.equal(scores.original_top, scores.cut_top)
    assert torch.equal(scores.original_log_likelihood, scores.cut_log_likelihood)


def test_small_divergences_are_resolved_and_not_negative() -> None:
    x = logits(64, 8000, 4.0, 1)
    for size in (1e-1, 1e-2, 1e-3):
        y = x + logits(64, 8000, size, 2)
        p, q = x.double().log_softmax(1), y.double().log_softmax(1)
        exact = (p.exp() * (p - q)).sum(1)
        kl = streamed(x, y, x.argmax(1), 1024).kl
        assert (kl - exact).abs().max() < 3e-7
        assert kl.min() >= 0


def test_chunking_and_grouping_change_nothing_that_matters() -> None:
    x, y = logits(50, 3001, 5.0, 3), logits(50, 3001, 5.0, 4)
    targets = torch.arange(50) * 60
    whole = streamed(x, y, targets, 3001)
    for chunk, positions in ((37, 50), (640, 7), (3000, 1)):
        parts = streamed(x, y, targets, chunk, positions)
        assert torch.allclose(parts.kl, whole.kl, rtol=1e-6, atol=0)
        assert torch.equal(parts.original_top, whole.original_top) and torch.equal(parts.cut_top, whole.cut_top)
        assert torch.allclose(parts.cut_log_likelihood, whole.cut_log_likelihood, atol=1e-6)


def test_a_common_shift_of_the_logits_changes_nothing() -> None:
    x, y = logits(20, 900, 2.0, 5), logits(20, 900, 2.0, 6)
    targets = torch.zeros(20, dtype=torch.long)
    assert torch.allclose(streamed(x, y, targets, 100).kl, streamed(x + 20, y - 30, targets, 100).kl, atol=1e-4)


def test_ties_go_to_the_lowest_index_across_chunks() -> None:
    x = torch.zeros(3, 40)
    x[1, [7, 23, 31]] = 2.0
    scores = streamed(x, x, torch.zeros(3, dtype=torch.long), 10)
    assert scores.original_top.tolist() == [0, 7, 0]


def test_no_target_is_nan_and_non_finite_logits_show() -> None:
    x = logits(4, 100, 1.0, 7)
    scores = streamed(x, x, torch.tensor([5, NO_TARGET, 99, 0]), 30)
    assert scores.original_log_likelihood.isnan().tolist() == [False, True, False, False]
    broken = x.clone()
    broken[2, 50] = torch.nan
    assert streamed(x, broken, torch.zeros(4, dtype=torch.long), 30).kl.isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize("gap", [0.0, -40.0, 40.0, 200.0])
def test_a_restriction_puts_kept_and_dropped_tokens_together_again(gap: float) -> None:
    x, y = logits(12, 900, 3.0, 8), logits(12, 900, 3.0, 9)
    x[:, 600:] += gap  # these are dropped
    targets = torch.tensor([5, 599, 600, 899, *range(590, 597), NO_TARGET])
    kept = StreamedDivergence(torch.where(targets < 600, targets, NO_TARGET), torch.zeros(12, dtype=torch.long))
    dropped = StreamedSoftmax(torch.where(targets >= 600, targets - 600, NO_TARGET))
    for first in range(0, 600, 70):
        kept.add(
            slice(0, 12), first, x[:, first : min(first + 70, 600)].clone(), y[:, first : min(first + 70, 600)].clone()
        )
    for first in range(0, 300, 70):
        dropped.add(slice(0, 12), first, x[:, 600 + first : min(670 + first, 900)].clone())
    scores = kept.finish()
    result = Restriction.of(scores.original_log_likelihood, scores.original_log_total, dropped)

    log_p, log_q = x.double().log_softmax(1), y[:, :600].double().log_softmax(1)
    restricted = x[:, :600].double().log_softmax(1)
    assert torch.allclose(result.masses[0], log_p[:, 600:].exp().sum(1), rtol=1e-5)
    assert torch.allclose(scores.kl, (restricted.exp() * (restricted - log_q)).sum(1), rtol=1e-5)
    assert torch.allclose(scores.cut_log_likelihood, log_q[:, 0], atol=1e-5)
    expected = log_p.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    assert torch.allclose(result.log_likelihood[:-1], expected[:-1], rtol=1e-6, atol=1e-5)
    assert result.log_likelihood[-1].isnan()


def test_soft_cap() -> None:
    x = torch.tensor([[-1000.0, 0.0, 0.01, 30.0]])
    capped = soft_cap_(x.clone(), 30.0)
    assert torch.allclose(capped, 30 * torch.tanh(x / 30))
    assert soft_cap_(x, None) is x
