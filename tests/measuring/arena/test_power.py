"""How many votes are needed: as many as a simulation needs."""

import math

import numpy as np
import pytest

from smidgen.measuring.arena.power import more_votes, variance, votes_needed, votes_worth


@pytest.mark.parametrize(("p", "ties"), [(0.6, 0.0), (0.58, 0.4), (0.7, 0.3)])
def test_so_many_votes_find_the_difference_four_times_in_five(p: float, ties: float) -> None:
    votes = math.ceil(votes_needed(p, ties))
    counts = np.random.default_rng(0).multinomial(votes, [p - ties / 2, ties, 1 - p - ties / 2], size=4000)
    mean = (counts[:, 0] + counts[:, 1] / 2) / votes
    equal = np.sqrt((1 - ties) / 4 / votes)
    assert np.mean(np.abs(mean - 0.5) > 1.96 * equal) == pytest.approx(0.8, abs=0.03)


def test_equal_models_are_never_told_apart() -> None:
    assert votes_needed(0.5, 0.2) == math.inf and more_votes(0.5, 0.2, 0.1) is None


def test_votes_that_are_there_count() -> None:
    """Direct votes alone are worth their own number."""
    p, ties, votes = 0.55, 0.2, 300
    error = math.sqrt(variance(p, ties) / votes) / (p * (1 - p))
    assert votes_worth(p, ties, error) == pytest.approx(votes)
    assert more_votes(p, ties, error) == math.ceil(votes_needed(p, ties) - votes)


def test_more_ties_than_there_is_room_for() -> None:
    assert variance(0.99, 0.5) > 0
