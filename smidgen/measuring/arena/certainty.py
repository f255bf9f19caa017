"""How sure the scores are: two views of the same votes, and the wider of both counts.

The first is the Bayesian bootstrap (Rubin 1981, Annals of Statistics 9). Each vote gets a random weight, Exp(1), and
the scores are fitted again. Of n equal votes the weights sum to a Gamma(n) variable, so a draw costs one number for
each kind of vote. Drawing votes with replacement instead would now and then leave out the only vote that a model has
won, and its score would then be infinite.

A bootstrap knows no other outcomes than those that came: after nothing but ties it would be certain. So the second view
asks the model itself, by the curvature of its likelihood at the maximum: the information matrix

    H[i, i] = Σⱼ nᵢⱼ pᵢⱼ (1 − pᵢⱼ),   H[i, j] = −nᵢⱼ pᵢⱼ (1 − pᵢⱼ)

of n votes with fitted probabilities p. Its (pseudo-)inverse is the covariance of the scores, were there no ties; ties
spread less than wins and losses do, so it is multiplied by the share of votes that are none. That share is counted with
two decided votes more than there were.
"""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from smidgen.measuring.arena.bradley_terry import Scores, fit
from smidgen.progress import track

DRAWS = 1000
_TAIL = 0.025
_TOLERANCE = 1e-6  # of the fit of a draw: a thousandth of a point
_Z = 1.959963984540054  # of a 95% interval


class Certainty:
    """Of models that were ranked together; all in nats, models by place.

    wins, ties: the votes between them.  scores: as `fit` has them.
    """

    def __init__(self, wins: NDArray[np.int64], ties: NDArray[np.int64], scores: Scores, seed: int) -> None:
        self._scores = scores
        self._drawn = _draws(wins, ties, scores, seed) if len(scores) > 1 else scores[None]
        self._covariance = _covariance(wins, ties, scores)

    def of(self, weights: Scores) -> tuple[float, float, float]:
        """Of a sum of scores times weights (which sum to 0): both ends of its 95% interval, and its standard error."""
        value, drawn = float(self._scores @ weights), self._drawn @ weights
        low, high = np.quantile(drawn, (_TAIL, 1 - _TAIL))
        error = sqrt(max(0.0, float(weights @ self._covariance @ weights)))
        return min(float(low), value - _Z * error), max(float(high), value + _Z * error), max(error, float(drawn.std()))

    def ranks(self) -> NDArray[np.int64]:
        """[2, model]: the ranks between which each model is in 95% of the draws, 1 the best."""
        ranks = (-self._drawn).argsort(1).argsort(1) + 1
        return np.quantile(ranks, (_TAIL, 1 - _TAIL), axis=0, method="nearest").astype(np.int64)


def _draws(wins: NDArray[np.int64], ties: NDArray[np.int64], scores: Scores, seed: int) -> Scores:
    """[draw, model]: scores of the same votes, reweighted at random."""
    from threadpoolctl import threadpool_limits

    generator = np.random.default_rng(seed)
    found = np.empty((DRAWS, len(scores)))
    # The matrices are small: threads that wait for each other would take longer, on a busy machine a hundred times.
    with threadpool_limits(1), track("How sure the scores are", DRAWS) as task:
        for draw in range(DRAWS):
            upper = np.triu(generator.standard_gamma(ties)) / 2
            found[draw] = fit(generator.standard_gamma(wins) + upper + upper.T, scores, _TOLERANCE)
            task.advance()
    return found


def _covariance(wins: NDArray[np.int64], ties: NDArray[np.int64], scores: Scores) -> NDArray[np.float64]:
    p = 1 / (1 + np.exp(scores[None] - scores[:, None]))
    information = -(wins + wins.T + ties) * p * (1 - p)
    np.fill_diagonal(information, -information.sum(1))
    decided = wins.sum() + 2
    return np.linalg.pinv(information, hermitian=True) * decided / (decided + ties.sum() / 2)
