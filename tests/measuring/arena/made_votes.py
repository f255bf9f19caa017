"""Votes drawn from models whose strength is known."""

import numpy as np
from numpy.typing import NDArray

from smidgen.measuring.arena.reading import Ballots
from smidgen.votes import WINNERS


def ballots_of(text: str) -> Ballots:
    """`"A>B*3 B=C"`: A won three times against B, and B and C tied once."""
    ballots = Ballots()
    for word in text.split():
        vote, _, times = word.partition("*")
        sign = ">" if ">" in vote else "="
        a, b = vote.split(sign)
        for _ in range(int(times or 1)):
            ballots.add(a, b, WINNERS[0] if sign == ">" else "tie")
    return ballots


def drawn(scores: NDArray[np.float64], votes: int, tie_share: float, seed: int) -> tuple[NDArray[np.int64], ...]:
    """Wins and ties, [model, model], of so many votes between each two models. scores: in nats."""
    generator, models = np.random.default_rng(seed), len(scores)
    wins, ties = np.zeros((models, models), np.int64), np.zeros((models, models), np.int64)
    for i in range(models):
        for j in range(i + 1, models):
            p = 1 / (1 + np.exp(scores[j] - scores[i]))
            tie = min(tie_share, 2 * min(p, 1 - p))
            wins[i, j], wins[j, i], ties[i, j] = generator.multinomial(votes, [p - tie / 2, 1 - p - tie / 2, tie])
            ties[j, i] = ties[i, j]
    return wins, ties
