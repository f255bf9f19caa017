"""Allocation against brute force over all combinations."""

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.quantization.allocate import Option, allocate, quickest

option = st.builds(Option, st.just("x"), st.integers(1, 60), st.floats(0, 10), st.floats(0, 5))
choices = st.lists(st.lists(option, min_size=1, max_size=4), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(choices=choices, extra=st.integers(0, 120))
def test_least_damage_within_the_budget(choices: list[list[Option]], extra: int) -> None:
    budget = sum(min(o.nbytes for o in options) for options in choices) + extra
    chosen = allocate(choices, budget)
    assert sum(o.nbytes for o in chosen) <= budget
    assert all(o in options for o, options in zip(chosen, choices, strict=True))
    possible = (c for c in product(*choices) if sum(o.nbytes for o in c) <= budget)
    best = min(sum(o.damage for o in c) for c in possible)
    assert sum(o.damage for o in chosen) <= best + 1e-9  # budgets this small are counted byte by byte


@settings(max_examples=200, deadline=None, derandomize=True)
@given(choices=choices, extra=st.integers(0, 120), share=st.floats(0, 1))
def test_both_limits_are_kept_and_what_no_choice_keeps_is_refused(
    choices: list[list[Option]], extra: int, share: float
) -> None:
    """A price of time alone misses some plans, each tensor's own damage at most; so far the result may be off."""
    budget = sum(min(o.nbytes for o in options) for options in choices) + extra
    limit = share * sum(max(o.seconds for o in options) for options in choices)
    possible = [c for c in product(*choices) if sum(o.nbytes for o in c) <= budget and _seconds(c) <= limit]
    if not possible:
        with pytest.raises(ValueError, match="the quickest choice takes"):
            allocate(choices, budget, limit)
        return
    chosen = allocate(choices, budget, limit)
    assert sum(o.nbytes for o in chosen) <= budget and _seconds(chosen) <= limit + 1e-9
    best = min(sum(o.damage for o in c) for c in possible)
    assert sum(o.damage for o in chosen) <= best + 2 * max(o.damage for options in choices for o in options) + 1e-9


def test_a_type_that_is_slow_here_gives_way_to_a_larger_one() -> None:
    """Codebooks take few bytes and much time: where time is short, a larger and quicker type is the better one."""
    slow, quick, large = Option("IQ2", 20, 4.0, 8.0), Option("Q4", 45, 1.0, 4.5), Option("Q8", 85, 0.1, 5.5)
    chosen = allocate([[slow, quick, large]] * 4, 4 * 85, 20.0)
    assert {o.label for o in chosen} <= {"Q4", "Q8"} and _seconds(chosen) <= 20.0
    assert [o.label for o in quickest([[slow, quick, large]], 44)] == ["IQ2"]
    assert [o.label for o in quickest([[slow, quick, large]], 85)] == ["Q4"]


def test_real_sizes_stay_within_budget_and_waste_little() -> None:
    choices = _real()
    budget = int(sum(o[0].nbytes for o in choices) * 1.3)
    chosen = allocate(choices, budget)
    spent = sum(o.nbytes for o in chosen)
    assert 0.99 * budget <= spent <= budget


def test_real_sizes_spend_nearly_all_of_the_time() -> None:
    choices = _real()
    budget = sum(o[-1].nbytes for o in choices)
    limit = 1.3 * sum(o[0].seconds for o in choices)
    assert 0.99 * limit <= _seconds(allocate(choices, budget, limit)) <= limit


def test_impossible_budget() -> None:
    with pytest.raises(ValueError, match="smallest choice takes 7 bytes"):
        allocate([[Option("a", 7, 0.0)]], 6)


def _real() -> list[list[Option]]:
    bits, rates = {"Q4": 4.5, "Q5": 5.5, "Q6": 6.6, "Q8": 8.5}, {"Q4": 1.4, "Q5": 1.3, "Q6": 1.2, "Q8": 1.0}
    return [
        [Option(n, size := int(rows * 80 * b), rows * (i % 7 + 1) * 2.0 ** (-2 * b), rates[n] * size)
         for n, b in bits.items()]
        for i, rows in enumerate([256, 1024, 256, 640, 2048, 2048, 640] * 18)
    ]  # fmt: skip


def _seconds(chosen: Sequence[Option]) -> float:
    return sum(option.seconds for option in chosen)
