"""Which type for which tensor, so that the sum of bytes stays within a budget and the sum of damage is least.

The multiple-choice knapsack problem (Sinha & Zoltners 1979), solved by dynamic programming over bytes. Bytes are
counted in units, each option rounded up, so the budget is never exceeded; what rounding left over is then spent on
the upgrades that gain most. With u units, n tensors and k types: O(n·k·u) vectorised steps, well under a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_UNITS = 16_384


@dataclass(frozen=True)
class Option:
    """One way to store a tensor: bytes in the file, and the damage done (any additive measure)."""

    label: str
    nbytes: int
    damage: float


def allocate(choices: Sequence[Sequence[Option]], budget: int) -> list[Option]:
    """One option per tensor with Σ bytes ≤ budget and least Σ damage.

    Raises ValueError where even the smallest options exceed the budget.
    """
    smallest = sum(min(option.nbytes for option in options) for options in choices)
    if smallest > budget:
        raise ValueError(f"the smallest choice takes {smallest} bytes, the budget is {budget}")
    useful = [_undominated(options) for options in choices]
    # Counting only what each tensor needs beyond its smallest option makes the units finer.
    floors = [options[0].nbytes for options in useful]
    room = budget - sum(floors)
    return _spend_rest(useful, _least_damage(useful, floors, room), budget)


def _undominated(options: Sequence[Option]) -> list[Option]:
    """Options by rising size, without those that are larger than another and no better."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda option: (option.nbytes, option.damage)):
        if not kept or option.damage < kept[-1].damage:
            kept.append(option)
    return kept


def _least_damage(choices: list[list[Option]], floors: list[int], room: int) -> list[Option]:
    """Dynamic programme: best[u] is the least damage of the tensors so far in at most u units beyond their floors."""
    unit = max(1, -(-room // _UNITS))
    units = room // unit
    best = np.zeros(units + 1)
    taken: list[np.ndarray] = []
    for options, floor in zip(choices, floors, strict=True):
        totals = np.full((len(options), units + 1), np.inf)
        for row, option in enumerate(options):
            cost = -(-(option.nbytes - floor) // unit)
            if cost <= units:
                totals[row, cost:] = best[: units + 1 - cost] + option.damage
        taken.append(totals.argmin(axis=0).astype(np.uint8))
        best = totals.min(axis=0)
    chosen: list[Option] = []
    left = units
    for options, floor, rows in zip(reversed(choices), reversed(floors), reversed(taken), strict=True):
        option = options[rows[left]]
        chosen.append(option)
        left -= -(-(option.nbytes - floor) // unit)
    return chosen[::-1]


def _spend_rest(choices: list[list[Option]], chosen: list[Option], budget: int) -> list[Option]:
    """Use bytes that rounding to units left over: again and again the upgrade that fits and gains most."""
    left = budget - sum(option.nbytes for option in chosen)
    while True:
        upgrades = [
            (chosen[i].damage - option.damage, i, option)
            for i, options in enumerate(choices)
            for option in options
            if 0 < option.nbytes - chosen[i].nbytes <= left and option.damage < chosen[i].damage
        ]
        if not upgrades:
            return chosen
        _, i, option = max(upgrades, key=lambda upgrade: upgrade[0])
        left -= option.nbytes - chosen[i].nbytes
        chosen[i] = option
