"""Allocation against brute force over all combinations."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.quantization.allocate import Option, allocate

option = st.builds(Option, st.just("x"), st.integers(1, 60), st.floats(0, 10))
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


def test_real_sizes_stay_within_budget_and_waste_little() -> None:
    bits = {"Q4": 4.5, "Q5": 5.5, "Q6": 6.6, "Q8": 8.5}
    choices = [
        [Option(name, int(rows * 80 * b), rows * (i % 7 + 1) * 2.0 ** (-2 * b)) for name, b in bits.items()]
        for i, rows in enumerate([256, 1024, 256, 640, 2048, 2048, 640] * 18)
    ]
    budget = int(sum(o[0].nbytes for o in choices) * 1.3)
    chosen = allocate(choices, budget)
    spent = sum(o.nbytes for o in chosen)
    assert 0.99 * budget <= spent <= budget


def test_impossible_budget() -> None:
    with pytest.raises(ValueError, match="smallest choice takes 7 bytes"):
        allocate([[Option("a", 7, 0.0)]], 6)
