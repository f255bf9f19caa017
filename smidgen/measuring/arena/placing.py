"""Which models have a score at all, and what can be said of the others.

The likelihood of a Bradley–Terry model has a maximum if and only if each model can be reached from each other by a
chain of wins (Ford 1957, "Solution of a ranking problem from binary comparisons"; ties lead both ways). A model that
never lost has no finite score: the larger, the likelier its votes. So the largest group in which all reach each other
is ranked, and of the models above or below it only a bound is told: the score at which losing (or winning) all those
votes would have had a probability of 5%, with the scores of the others taken as they are.
"""

from dataclasses import dataclass
from math import log
from typing import cast

import numpy as np
from numpy.typing import NDArray

from smidgen.measuring.arena.bradley_terry import Scores, fit

_CHANCE = 0.05


@dataclass
class Placed:
    """What is known of each model, by place; in nats, as `fit` has it.

    scores: NaN where there is none.  least, most: bounds of those without a score; NaN where there is none either.
    """

    scores: Scores
    least: Scores
    most: Scores

    @property
    def ranked(self) -> NDArray[np.bool_]:
        """Which models have a score."""
        return ~np.isnan(self.scores)


def groups(points: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """The models that reach each other by wins, largest group first; of equals the one with more votes."""
    from scipy.sparse.csgraph import connected_components

    number, of_model = connected_components(points > 0, directed=True, connection="strong")
    found = [np.flatnonzero(of_model == group) for group in range(number)]
    votes = points.sum(0) + points.sum(1)
    return sorted(found, key=lambda group: (-len(group), -votes[group].sum(), group[0]))


def place(points: NDArray[np.float64], anchor: int | None = None) -> Placed:
    """Scores of the largest group, or of the anchor's, and bounds of the others."""
    parts = groups(points)
    if anchor is not None:
        parts.sort(key=lambda group: anchor not in group)
    core, *others = parts
    nothing = np.full(len(points), np.nan)
    placed = Placed(nothing.copy(), nothing.copy(), nothing.copy())
    placed.scores[core] = fit(points[np.ix_(core, core)]) if len(core) > 1 else 0.0
    waiting = others
    while waiting:  # a group may be bounded only by way of another
        left = [group for group in waiting if not _bound(points, group, placed)]
        if len(left) == len(waiting):
            break
        waiting = left
    return placed


def _bound(points: NDArray[np.float64], group: NDArray[np.int64], placed: Placed) -> bool:
    """Fill in what bounds a group; whether anything does.

    Between groups all votes go one way. Losses to those whose score cannot be above some value bound from above, wins
    over those that cannot be below some value from below.
    """
    highest = np.where(placed.ranked, placed.scores, placed.most)
    lowest = np.where(placed.ranked, placed.scores, placed.least)
    inside = fit(points[np.ix_(group, group)]) if len(group) > 1 else np.zeros(1)
    losses, wins = points[:, group].T, points[group]
    if (losses[:, ~np.isnan(highest)] > 0).any():
        placed.most[group] = inside + _limit(losses, inside, highest, 1)
    elif (wins[:, ~np.isnan(lowest)] > 0).any():
        placed.least[group] = inside + _limit(wins, inside, lowest, -1)
    else:
        return False
    return True


def _limit(votes: NDArray[np.float64], inside: Scores, others: Scores, side: int) -> float:
    """The offset of a group at which all its votes against others had a probability of 5%.

    votes: [member, other], all lost (side 1) or all won (side −1). Solves
    Σ votes · log(1 + exp(side · (offset + inside − other))) = −log 0.05, whose left side only rises or only falls.
    """
    from scipy.optimize import brentq

    known = ~np.isnan(others)
    gaps = inside[:, None] - others[None, known]
    counted = votes[:, known]

    def excess(offset: float) -> float:
        return float((counted * np.logaddexp(0, side * (offset + gaps))).sum()) + log(_CHANCE)

    reach = 50 + float(np.abs(gaps).max()) + log(1 + float(counted.sum()))
    return cast(float, brentq(excess, -reach, reach))
