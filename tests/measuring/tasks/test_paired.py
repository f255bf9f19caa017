"""Paired comparisons: against published figures, longhand sums, and simulated models."""

import random
from math import isclose

import pytest

from smidgen.measuring.tasks.paired import compare_items, mcnemar, paired_interval, wilson_interval


def test_what_is_counted() -> None:
    original = [True, True, True, False, False]
    cut = [True, False, False, True, False]
    score = compare_items(original, cut)
    assert (score["original"], score["cut"], score["items"]) == (0.6, 0.4, 5)
    assert score["flips"] == {"right_to_wrong": 2, "wrong_to_right": 1}
    assert isclose(score["difference"], -0.2)
    low, high = score["interval"]
    assert low < -0.2 < high
    assert score["note"] is not None and "too few items (5)" in score["note"]


def test_equal_accuracy_hides_flips() -> None:
    score = compare_items([True, False] * 50, [False, True] * 50)
    assert score["difference"] == 0 and score["flips"] == {"right_to_wrong": 50, "wrong_to_right": 50}


@pytest.mark.parametrize(
    ("right", "items", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_as_published(right: int, items: int, low: float, high: float) -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    assert wilson_interval(right, items) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("lost", "gained", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 32), (1, 5, 14 / 64)])
def test_mcnemar_longhand(lost: int, gained: int, p: float) -> None:
    assert mcnemar(lost, gained) == pytest.approx(p)
    assert mcnemar(gained, lost) == pytest.approx(p)


def test_nothing_changed_is_not_certainty() -> None:
    low, high = paired_interval(60, 0, 0, 100)
    assert low < 0 < high and high - low < 0.1
    assert paired_interval(0, 0, 0, 10)[1] > 0.1


def test_the_interval_turns_with_the_models() -> None:
    for both, lost, gained, items in ((40, 10, 3, 80), (0, 5, 0, 10), (7, 0, 9, 16)):
        low, high = paired_interval(both, lost, gained, items)
        assert paired_interval(both, gained, lost, items) == pytest.approx((-high, -low))
        assert -1 <= low <= (gained - lost) / items <= high <= 1


@pytest.mark.parametrize("truth", [(0.6, 0.1, 0.05), (0.3, 0.02, 0.02), (0.25, 0.2, 0.1)])
def test_the_interval_holds_the_truth_nineteen_times_in_twenty(truth: tuple[float, float, float]) -> None:
    both, lost, gained = truth
    draw, held, rounds, items = random.Random(0), 0, 2000, 200
    for _ in range(rounds):
        kinds = draw.choices("blgn", (both, lost, gained, 1 - both - lost - gained), k=items)
        low, high = paired_interval(kinds.count("b"), kinds.count("l"), kinds.count("g"), items)
        held += low <= gained - lost <= high
    assert 0.93 < held / rounds < 0.975


def test_guessing_is_said_to_be_guessing() -> None:
    quarter = [place % 4 == 0 for place in range(200)]
    score = compare_items(quarter, quarter, chance=0.25)
    assert score["at_chance"] is True and "guessing" in str(score["note"])
    better = [place % 2 == 0 for place in range(200)]
    assert compare_items(better, better, chance=0.25)["at_chance"] is False
    assert compare_items(better, better)["at_chance"] is None
    assert compare_items(better, better, 0.25)["note"] is None
