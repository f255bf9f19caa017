"""Votes as matrices, and which models they compare with one another, directly or through others."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from smidgen.errors import SmidgenError, printable
from smidgen.measuring.arena.reading import Ballots

MOST_MODELS = 1000
_SHOWN_NAMES = 6


@dataclass(frozen=True)
class Tally:
    """Votes between `models`, by place in that list.

    wins[i, j]: votes in which i was better than j.  ties[i, j]: those in which neither was; the same as ties[j, i].
    both_bad: ties in which neither was good.  left_out: votes on models that are not ranked.
    """

    models: tuple[str, ...]
    wins: NDArray[np.int64]
    ties: NDArray[np.int64]
    both_bad: int
    left_out: int

    @cached_property
    def points(self) -> NDArray[np.float64]:
        """[i, j]: the votes that i won against j, a tie as half of one. What Bradley–Terry is fitted to."""
        return self.wins + self.ties / 2

    @cached_property
    def met(self) -> NDArray[np.int64]:
        """[i, j]: votes between i and j."""
        return self.wins + self.wins.T + self.ties

    @property
    def votes(self) -> int:
        """All votes between these models."""
        return int(self.met.sum()) // 2

    @property
    def tied(self) -> int:
        """Those of them that are ties."""
        return int(self.ties.sum()) // 2


def count(ballots: Ballots, only: Sequence[str] = ()) -> Tally:
    """The votes as matrices.  only: rank these models alone; votes on any other are left out, and counted.

    Raises SmidgenError for fewer than two models, too many, names that nobody voted on, and models whose votes do not
    connect them with one another.
    """
    models = tuple(_chosen(ballots.models, only))
    place = {name: number for number, name in enumerate(models)}
    shape = len(models), len(models)
    wins, ties, both_bad, left_out = np.zeros(shape, np.int64), np.zeros(shape, np.int64), 0, 0
    for (model_a, model_b, winner), votes in ballots.counts.items():
        a, b = place.get(model_a), place.get(model_b)
        if a is None or b is None:
            left_out += votes
        elif winner == "model_a":
            wins[a, b] += votes
        elif winner == "model_b":
            wins[b, a] += votes
        else:
            ties[a, b] += votes
            ties[b, a] += votes
            both_bad += votes * (winner == "both_bad")
    tally = Tally(models, wins, ties, both_bad, left_out)
    _refuse_disconnected(tally)
    return tally


def _chosen(voted_on: Sequence[str], only: Sequence[str]) -> list[str]:
    unknown = next((name for name in only if name not in set(voted_on)), None)
    if unknown is not None:
        near = get_close_matches(unknown, voted_on, 3) or list(voted_on[:3])
        raise SmidgenError(f"There are no votes on {printable(unknown, 60)}; there are on {_listed(near)}.")
    chosen = sorted(set(only)) or list(voted_on)
    if len(chosen) < 2:
        raise SmidgenError(f"Only {printable(chosen[0], 60)} is to be ranked; name at least two models.")
    if len(chosen) > MOST_MODELS:
        raise SmidgenError(f"The votes are on {len(chosen):,} models; at most {MOST_MODELS:,} are ranked: name some.")
    return chosen


def _refuse_disconnected(tally: Tally) -> None:
    """Scores of models that were never compared, not even through others, mean nothing beside each other."""
    from scipy.sparse.csgraph import connected_components

    parts, of_model = connected_components(tally.met, directed=False)
    if parts == 1:
        return
    groups = sorted(([tally.models[m] for m in np.flatnonzero(of_model == part)] for part in range(parts)), key=len)
    said = "; ".join(_listed(group) for group in reversed(groups[-4:]))
    more = f" and {parts - 4} more groups" if parts > 4 else ""
    raise SmidgenError(
        f"The votes fall into {parts} groups of models that were never compared with each other: {said}{more}. Collect "
        "votes between them, or name the models of one group."
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name, 60) for name in names[:_SHOWN_NAMES])
    return shown + (f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else "")
