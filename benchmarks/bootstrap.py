"""How sure a mean over articles is, and the ratio of two means over the same articles: 95% intervals by bootstrap.

Neighbouring positions of a text depend on each other, and so do the windows of one article; articles hardly do. So
whole articles are drawn again, with replacement, and each time the figure is computed anew (percentile bootstrap: Efron
and Tibshirani 1993, chapter 13). A ratio is paired: both files are measured on the same articles, and both means of a
draw are over the same ones, so that what makes an article hard for both does not widen the interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_DRAWS = 10_000
_BOUNDS = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Article:
    """One document of the evaluation text, and what a file cost on it.

    at: characters of its file before it.  tokens: positions that were scored.  kl: their mean, in nats.
    """

    at: int
    tokens: int
    kl: float


def mean(articles: Sequence[Article]) -> float:
    """Nats a position."""
    weights, nats = _of(articles)
    return float(nats.sum() / weights.sum())


def mean_interval(articles: Sequence[Article], seed: int = 0) -> tuple[float, float]:
    """Where the mean would be for other articles of the same kind."""
    weights, nats = _of(articles)
    chosen = _drawn(len(articles), seed)
    return _bounds(nats[chosen].sum(1) / weights[chosen].sum(1))


def ratio_interval(ours: Sequence[Article], theirs: Sequence[Article], seed: int = 0) -> tuple[float, float]:
    """Where the ratio of our mean to theirs would be. Raises ValueError where these are not the same articles."""
    if [(one.at, one.tokens) for one in ours] != [(one.at, one.tokens) for one in theirs]:
        raise ValueError("a ratio is of two files that were measured on the same articles")
    chosen = _drawn(len(ours), seed)
    (_, our_nats), (_, their_nats) = _of(ours), _of(theirs)
    return _bounds(our_nats[chosen].sum(1) / their_nats[chosen].sum(1))


def mean_of_values(values: Sequence[float] | np.ndarray) -> dict[str, float | list[float]]:
    """The mean of one number an item, such as 1 for a right answer, and where it would be for other items."""
    found = np.asarray(values, dtype=float)
    return {"mean": float(found.mean()), "interval": list(_bounds(found[_drawn(len(found), 0)].mean(1)))}


def difference_of_values(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float | list[float]]:
    """The same of the difference of ours to theirs, paired: of the same items, in the same order."""
    return mean_of_values(np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float))


def _of(articles: Sequence[Article]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and nats of each."""
    weights = np.array([one.tokens for one in articles], dtype=float)
    return weights, weights * np.array([one.kl for one in articles])


def _drawn(count: int, seed: int) -> np.ndarray:
    """Numbers of articles, [draws, count]."""
    return np.random.default_rng(seed).integers(0, count, (_DRAWS, count))


def _bounds(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, _BOUNDS)
    return float(low), float(high)
