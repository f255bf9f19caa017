"""Votes → who is ahead, how sure that is, and what is not known: one object for programs and people alike.

Scores are on the scale of Elo ratings: 400 points are odds of ten to one. Only differences mean something, so a point
of the scale is fixed: the mean of the ranked models at 1000 (as public arenas do), or one model at a value.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.errors import SmidgenError, printable
from smidgen.measuring.arena.bradley_terry import Scores
from smidgen.measuring.arena.certainty import DRAWS, Certainty
from smidgen.measuring.arena.placing import Placed, groups, place
from smidgen.measuring.arena.power import CONFIDENCE, POWER, more_votes
from smidgen.measuring.arena.reading import Ballots
from smidgen.measuring.arena.tally import Tally, count

SCALE = 400 / log(10)  # points of one nat
MIDDLE = 1000.0
METHOD = (
    "Bradley-Terry, largest likelihood; a tie is half a win for each side; 95% intervals by Bayesian bootstrap, or "
    "by the curvature of the likelihood where that is wider; each vote is taken as independent of the others"
)
_FEWEST_VOTES = 30  # between two models before their own share of ties is believed


def rank(
    ballots: Ballots, only: Sequence[str] = (), anchor: tuple[str, float] | None = None, seed: int = 0
) -> dict[str, Any]:
    """The ranking as an object for JSON; `models` in order of rank, and all other lists in that order too.

    What is not known is None, with a `reason` beside it. `judge` is for whoever had one.

    only: models to rank; votes on others are left out.  anchor: a model and the score that it shall have.
    Raises SmidgenError as `count`, and where the anchor has no score.
    """
    tally = count(ballots, only)
    fixed = None if anchor is None else _place_of(anchor[0], tally)
    placed = place(tally.points, fixed)
    core = np.flatnonzero(placed.ranked)
    if fixed is not None and len(core) < len(groups(tally.points)[0]):
        no_score = "has no score beside most of the others: they never won against it, or it never won against them"
        raise SmidgenError(f"The anchor {printable(tally.models[fixed], 60)} {no_score}. Anchor another model.")
    inside = np.ix_(core, core)
    sure = Certainty(tally.wins[inside], tally.ties[inside], placed.scores[core], seed)
    scale = _Scale(core, fixed, MIDDLE if anchor is None else anchor[1])
    order = _order(placed)
    return {
        "schema": 1,
        "method": METHOD,
        "anchor": {"model": None if anchor is None else anchor[0], "score": scale.value},
        "models": _models(order, tally, placed, sure, scale),
        "neighbours": [_neighbours(a, b, tally, placed, sure) for a, b in pairwise(order)],
        "win_rates": [[_rate(tally.points[a, b], tally.met[a, b]) for b in order] for a in order],
        "comparisons": tally.met[np.ix_(order, order)].tolist(),
        "votes": {
            "counted": tally.votes, "ties": tally.tied, "both_bad": tally.both_bad, "left_out": tally.left_out,
            "skipped": sum(file.skipped for file in ballots.files),
            "files": [{"name": file.name, "sha256": file.sha256, "votes": file.votes} for file in ballots.files],
        },
        "judge": None,
        "power": {"confidence": CONFIDENCE, "power": POWER},
        "draws": DRAWS,
        "seed": seed,
    }  # fmt: skip


class _Scale:
    """Nats → points. core: the ranked models.  fixed: the model that has `value`; None where their mean has it."""

    def __init__(self, core: NDArray[np.int64], fixed: int | None, value: float) -> None:
        self._of = core if fixed is None else np.array([fixed])
        self.core, self.fixed, self.value = core, fixed, value

    def points(self, scores: Scores, ranked: Scores) -> Scores:
        """ranked: the scores that fix the scale."""
        return self.value + SCALE * (scores - ranked[self._of].mean())

    def weights(self, model: int) -> Scores:
        """The weights of the ranked scores whose sum is this model's score on the scale, in nats above `value`."""
        return (self.core == model) - np.isin(self.core, self._of) / len(self._of)


def _place_of(name: str, tally: Tally) -> int:
    if name not in tally.models:
        raise SmidgenError(f"The anchor {printable(name, 60)} is not among the ranked models.")
    return tally.models.index(name)


def _order(placed: Placed) -> list[int]:
    """Those above all, the best first; the ranked ones; those below; and those that cannot be placed."""

    def key(model: int) -> tuple[int, float, int]:
        if placed.ranked[model]:
            return 1, -placed.scores[model], model
        if not np.isnan(placed.least[model]):
            return 0, -placed.least[model], model
        if not np.isnan(placed.most[model]):
            return 2, -placed.most[model], model
        return 3, 0.0, model

    return sorted(range(len(placed.scores)), key=key)


def _models(
    order: Sequence[int], tally: Tally, placed: Placed, sure: Certainty, scale: _Scale
) -> list[Mapping[str, Any]]:
    scores, least, most = (scale.points(one, placed.scores) for one in (placed.scores, placed.least, placed.most))
    ranks = dict(zip(scale.core.tolist(), sure.ranks().T.tolist(), strict=True))
    above = sum(not np.isnan(one) for one in placed.least)
    found: list[Mapping[str, Any]] = []
    for number, model in enumerate(order, 1):
        low, high = least[model], most[model]
        if placed.ranked[model] and model != scale.fixed and len(scale.core) > 1:
            low, high = (scale.value + SCALE * end for end in sure.of(scale.weights(model))[:2])
        found.append(
            {
                "model": tally.models[model],
                "rank": None if _is_lost(model, placed) else number,
                "rank_interval": [above + rank for rank in ranks[model]] if model in ranks else None,
                "score": _known(scores[model]),
                "interval": [_known(low), _known(high)],
                "reason": _reason(model, tally, placed, scale),
                "votes": int(tally.met[model].sum()),
                "won": int(tally.wins[model].sum()),
                "tied": int(tally.ties[model].sum()),
                "lost": int(tally.wins[:, model].sum()),
            }
        )
    return found


def _is_lost(model: int, placed: Placed) -> bool:
    return bool(np.isnan([placed.scores[model], placed.least[model], placed.most[model]]).all())


def _reason(model: int, tally: Tally, placed: Placed, scale: _Scale) -> str | None:
    """Why a model has no score, or one without an interval."""
    if placed.ranked[model]:
        if len(scale.core) == 1:
            return "no other model has a finite score beside it, so this is only where the scale begins"
        given = "its score was given; the intervals of the others are of their distance from it"
        return given if model == scale.fixed else None
    if _is_lost(model, placed):
        return "its votes do not lead to the ranked models in a way that bounds its score"
    votes = int(tally.met[model].sum())
    if not tally.points[:, model].any():
        why = f"it never lost ({votes} votes)"
    elif not tally.points[model].any():
        why = f"it never won ({votes} votes)"
    elif np.isnan(placed.most[model]):
        why = "it never lost to the ranked models, nor to any that lost to them"
    else:
        why = "it never won against the ranked models, nor against any that won against them"
    return f"{why}, so its likelihood has no maximum; beyond the bound such votes had a probability below 5%"


def _neighbours(a: int, b: int, tally: Tally, placed: Placed, sure: Certainty) -> Mapping[str, Any]:
    """Whether a is told apart from b, the next in rank, and how many more votes that takes."""
    names = {"better": tally.models[a], "worse": tally.models[b], "direct_votes": int(tally.met[a, b])}
    unknown = {"difference": None, "interval": None, "told_apart": None, "more_votes": None}
    if not (placed.ranked[a] and placed.ranked[b]):
        return {**names, **unknown, "reason": "one of them has no score"}
    core = np.flatnonzero(placed.ranked)
    low, high, error = sure.of(np.subtract(core == a, core == b, dtype=float))
    difference = float(placed.scores[a] - placed.scores[b])
    p = 1 / (1 + np.exp(-difference))
    told_apart = low > 0
    needed = 0 if told_apart else more_votes(float(p), _tie_share(a, b, tally), error)
    return {
        **names,
        "difference": SCALE * difference,
        "interval": [SCALE * low, SCALE * high],
        "win_probability": float(p),
        "told_apart": told_apart,
        "more_votes": needed,
        "reason": "by these votes they are equal; if so, no number of votes would tell them apart"
        if needed is None
        else None,
    }


def _tie_share(a: int, b: int, tally: Tally) -> float:
    """Of the votes between the two, or of all votes where those are few."""
    if tally.met[a, b] >= _FEWEST_VOTES:
        return float(tally.ties[a, b] / tally.met[a, b])
    return tally.tied / tally.votes


def _rate(points: float, votes: int) -> float | None:
    return float(points / votes) if votes else None


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
