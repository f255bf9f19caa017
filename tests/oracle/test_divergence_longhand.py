"""The streamed divergence against the definition, written out: a full softmax in float64, one position at a time."""

import math

import pytest
import torch

from smidgen.numerics.divergence import StreamedDivergence


def log_softmax(x: list[float]) -> list[float]:
    peak = max(x)
    log_total = peak + math.log(math.fsum(math.exp(value - peak) for value in x))
    return [value - log_total for value in x]


def longhand(x: list[float], y: list[float], target: int) -> tuple[float, float, float]:
    """KL(softmax x ‖ softmax y), and the log likelihood of `target` under each."""
    log_p, log_q = log_softmax(x), log_softmax(y)
    kl = math.fsum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))
    return kl, log_p[target], log_q[target]


@pytest.mark.parametrize(("scale", "noise"), [(1.0, 0.05), (8.0, 1.0), (30.0, 30.0)])
def test_streamed_divergence_is_the_definition(scale: float, noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 1000, generator=generator) * scale
    y = x + torch.randn(12, 1000, generator=generator) * noise
    targets = torch.randint(0, 1000, (12,), generator=generator)
    stream = StreamedDivergence(targets)
    for first in range(0, 1000, 96):  # several chunks, the last one shorter
        for where in (slice(0, 5), slice(5, 12)):
            stream.add(where, first, x[where, first : first + 96].clone(), y[where, first : first + 96].clone())
    scores = stream.finish()
    for position in range(12):
        kl, log_x, log_y = longhand(x[position].tolist(), y[position].tolist(), int(targets[position]))
        assert scores.kl[position] == pytest.approx(kl, rel=1e-5, abs=2e-7)
        assert scores.original_log_likelihood[position] == pytest.approx(log_x, abs=2e-6)
        assert scores.cut_log_likelihood[position] == pytest.approx(log_y, abs=2e-6)
        assert scores.original_top[position] == x[position].argmax()
        assert scores.cut_top[position] == y[position].argmax()
