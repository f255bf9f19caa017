"""Intervals over articles: as wide as the articles differ, and paired."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.bootstrap import Article, mean, mean_interval, ratio_interval

GENERATOR = np.random.default_rng(0)


def articles(count: int, spread: float, generator: np.random.Generator = GENERATOR) -> list[Article]:
    return [Article(at, 500, float(kl)) for at, kl in enumerate(generator.lognormal(-2, spread, count))]


def test_a_mean_counts_tokens() -> None:
    assert mean([Article(0, 100, 1.0), Article(1, 300, 0.0)]) == 0.25


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    generator, truth, held = np.random.default_rng(1), np.exp(-2 + 0.3**2 / 2), 0
    for _ in range(200):
        low, high = mean_interval(articles(40, 0.3, generator))
        held += low <= truth <= high
    assert 180 <= held <= 198


def test_more_articles_are_surer() -> None:
    few, many = (np.diff(mean_interval(articles(count, 0.5))) for count in (10, 160))
    assert 2 < few / many < 8


def test_a_ratio_is_paired() -> None:
    """What makes an article hard for both files says nothing of their ratio."""
    theirs = articles(30, 1.0)
    ours = [replace(one, kl=0.5 * one.kl) for one in theirs]
    assert ratio_interval(ours, theirs) == pytest.approx((0.5, 0.5))
    assert np.diff(mean_interval(theirs)) > 0.05
    uneven = [replace(one, kl=one.kl * factor) for one, factor in zip(ours, [0.8, 1.2] * 15, strict=True)]
    low, high = ratio_interval(uneven, theirs)
    assert low < 0.5 < high and high - low < 0.2
    assert ratio_interval(uneven, theirs) == (low, high)
    with pytest.raises(ValueError, match="the same articles"):
        ratio_interval(ours[1:], theirs[:-1])
