"""The scores are those of largest likelihood, and as sure as is said."""

import math
import sys

import numpy as np
import pytest

from smidgen.errors import SmidgenError
from smidgen.measuring.arena import certainty
from smidgen.measuring.arena.bradley_terry import fit, require_library
from smidgen.measuring.arena.certainty import Certainty
from smidgen.progress import set_quiet
from tests.measuring.arena.made_votes import drawn

SCALE = 400 / math.log(10)


def longhand(points: np.ndarray) -> list[float]:
    """Zermelo's iteration (1929), a model at a time, with no library."""
    models = range(len(points))
    strength = [1.0] * len(points)
    for _ in range(20_000):
        for i in models:
            met = sum((points[i][j] + points[j][i]) / (strength[i] + strength[j]) for j in models if j != i)
            strength[i] = sum(points[i]) / met
        middle = math.exp(sum(map(math.log, strength)) / len(strength))
        strength = [one / middle for one in strength]
    return [math.log(one) for one in strength]


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_the_longhand_iteration(seed: int) -> None:
    wins, ties = drawn(np.array([1.0, 0.2, 0.0, -0.4, -0.8]), 9, 0.3, seed)
    points = wins + ties / 2
    assert SCALE * fit(points) == pytest.approx(SCALE * np.array(longhand(points)), abs=1e-3)


def test_two_models_in_closed_form() -> None:
    points = np.array([[0, 30.0], [10.0, 0]])
    first, second = fit(points)
    assert first - second == pytest.approx(math.log(3), abs=1e-9)


def test_far_apart_and_in_a_long_chain() -> None:
    """Each model beats the next 99 of 100 times, and there are votes between neighbours only."""
    models = 30
    points = np.diag([99.0] * (models - 1), 1) + np.diag([1.0] * (models - 1), -1)
    assert -np.diff(fit(points)) == pytest.approx(math.log(99), abs=1e-5)


def test_intervals_hold_the_truth_nineteen_times_in_twenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certainty, "DRAWS", 100)
    set_quiet(True)
    truth = np.array([0.6, 0.1, -0.2, -0.5])
    held = []
    for seed in range(30):
        wins, ties = drawn(truth, 40, 0.3, seed)
        sure = Certainty(wins, ties, fit(wins + ties / 2), seed)
        for model in range(4):
            weights = (np.arange(4) == model) - 0.25
            low, high, _ = sure.of(weights)
            held.append(low <= truth @ weights <= high)
    assert 0.9 < np.mean(held) <= 1


def test_nothing_but_ties_is_not_certainty() -> None:
    ties = np.array([[0, 5], [5, 0]])
    sure = Certainty(np.zeros_like(ties), ties, np.zeros(2), 0)
    low, high, error = sure.of(np.array([1.0, -1.0]))
    assert low < -0.5 and high > 0.5 and error > 0.3


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "choix", None)
    with pytest.raises(SmidgenError, match=r"pip install 'smidgen\[eval\]'"):
        require_library()
