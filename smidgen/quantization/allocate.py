"""Which type for which tensor, so that bytes and seconds stay within their limits and the sum of damage is least.

With a limit on bytes alone: the multiple-choice knapsack problem (Sinha & Zoltners 1979), solved by dynamic programming
over bytes. Bytes are counted in units, each option rounded up, so the budget is never exceeded; what rounding left over
is then spent on the upgrades that gain most. With u units, n tensors and k types: O(n·k·u) vectorised steps, well under
a second.

With a limit on seconds too: a second gets a price λ, which is added to the damage (Lagrangian relaxation, Everett
1963), and the least λ at which the seconds fit is found by bisection, some 20 times the work above. What is between
that plan and the best one is less than what one tensor can gain, and most of it goes where rest is spent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, log2

import numpy as np

_UNITS = 16_384
_STEPS = 24  # of the bisection over prices, and in which octaves around (all damage) / (all seconds) they lie
_OCTAVES = -40, 40
_TINY = 1e-30
_CLOSE = 0.999  # of the limit on seconds: nearer is not worth another step


@dataclass(frozen=True)
class Option:
    """One way to store a tensor: bytes in the file, the damage done (any additive measure), and the time that reading
    it takes for each token."""

    label: str
    nbytes: int
    damage: float
    seconds: float = 0.0


def allocate(choices: Sequence[Sequence[Option]], budget: int, seconds: float = inf) -> list[Option]:
    """One option per tensor with Σ bytes ≤ budget, Σ seconds within theirs, and least Σ damage.

    Raises ValueError where no options are within both.
    """
    smallest = sum(min(option.nbytes for option in options) for options in choices)
    if smallest > budget:
        raise ValueError(f"the smallest choice takes {smallest} bytes, the budget is {budget}")
    chosen = _within_bytes(choices, budget)
    if _seconds(chosen) > seconds:
        chosen = _within_both(choices, budget, seconds)
    return _spend_rest(choices, chosen, budget, seconds)


def quickest(choices: Sequence[Sequence[Option]], budget: int) -> list[Option]:
    """The options that take the least time within the budget; of equally quick ones those with least damage."""
    return _within_bytes(choices, budget, lambda option: option.seconds)


def _within_both(choices: Sequence[Sequence[Option]], budget: int, seconds: float) -> list[Option]:
    """The least price of a second at which the seconds fit, and what is chosen then."""
    best = quickest(choices, budget)
    if _seconds(best) > seconds:
        raise ValueError(f"the quickest choice takes {_seconds(best):.3g} s, the limit is {seconds:.3g} s")

    def at(price: float) -> list[Option]:
        return _within_bytes(choices, budget, lambda option: option.damage + price * option.seconds)

    damage = sum(max(option.damage for option in options) for options in choices)
    lowest, highest = (log2(max(damage, _TINY) / max(_seconds(best), _TINY)) + octaves for octaves in _OCTAVES)
    for _ in range(_STEPS):
        middle = (lowest + highest) / 2
        chosen = at(2**middle)
        if _seconds(chosen) > seconds:
            lowest = middle
            continue
        highest, best = middle, chosen
        if _seconds(chosen) >= _CLOSE * seconds:
            break
    return best


def _within_bytes(
    choices: Sequence[Sequence[Option]], budget: int, cost: Callable[[Option], float] = lambda option: option.damage
) -> list[Option]:
    """The options of least Σ cost with Σ bytes ≤ budget."""
    cheapest = [min(options, key=lambda option: (cost(option), option.damage)) for options in choices]
    if sum(option.nbytes for option in cheapest) <= budget:
        return cheapest  # nothing is to be weighed
    useful = [_undominated(options, cost) for options in choices]
    # Counting only what each tensor needs beyond its smallest option makes the units finer.
    room = budget - sum(options[0].nbytes for options, _ in useful)
    return _least_cost(useful, room)


def _undominated(options: Sequence[Option], cost: Callable[[Option], float]) -> tuple[list[Option], list[float]]:
    """Options by rising size, without those that are larger than another and no better; and what they cost."""
    kept: list[Option] = []
    costs: list[float] = []
    for option in sorted(options, key=lambda option: (option.nbytes, cost(option), option.damage)):
        if not kept or cost(option) < costs[-1]:
            kept.append(option)
            costs.append(cost(option))
    return kept, costs


def _least_cost(choices: Sequence[tuple[list[Option], list[float]]], room: int) -> list[Option]:
    """Dynamic programme: best[u] is the least cost of the tensors so far in at most u units beyond their smallest."""
    unit = max(1, -(-room // _UNITS))
    units = room // unit
    best = np.zeros(units + 1)
    taken: list[np.ndarray] = []
    for options, costs in choices:
        totals = np.full((len(options), units + 1), np.inf)
        for row, (option, cost) in enumerate(zip(options, costs, strict=True)):
            more = -(-(option.nbytes - options[0].nbytes) // unit)
            if more <= units:
                totals[row, more:] = best[: units + 1 - more] + cost
        taken.append(totals.argmin(axis=0).astype(np.uint8))
        best = totals.min(axis=0)
    chosen: list[Option] = []
    left = units
    for (options, _), rows in zip(reversed(choices), reversed(taken), strict=True):
        option = options[rows[left]]
        chosen.append(option)
        left -= -(-(option.nbytes - options[0].nbytes) // unit)
    return chosen[::-1]


def _spend_rest(choices: Sequence[Sequence[Option]], chosen: list[Option], budget: int, seconds: float) -> list[Option]:
    """Use what is left over of both limits: again and again the change that fits and gains most."""
    while True:
        bytes_left, seconds_left = budget - sum(option.nbytes for option in chosen), seconds - _seconds(chosen)
        upgrades = [
            (chosen[i].damage - option.damage, i, option)
            for i, options in enumerate(choices)
            for option in options
            if option.damage < chosen[i].damage
            and option.nbytes - chosen[i].nbytes <= bytes_left
            and option.seconds - chosen[i].seconds <= seconds_left
        ]
        if not upgrades:
            return chosen
        _, i, option = max(upgrades, key=lambda upgrade: upgrade[0])
        chosen[i] = option


def _seconds(chosen: Sequence[Option]) -> float:
    return sum(option.seconds for option in chosen)
