"""How many more votes it takes to tell two models apart.

A vote gives the better model 1, ½ or 0. With fitted win probability p (ties as half a win) and the share t of ties, its
variance is v = p(1 − p) − t/4, and (1 − t)/4 were both models equal. A two-sided test of "equal" with 95% confidence
finds the difference with 80% probability after

    n = ((z₀.₉₇₅ · √((1 − t)/4) + z₀.₈ · √v) / (p − ½))²

votes between the two (the usual size of a sample for one proportion; Fleiss, Levin & Paik 2003, "Statistical methods
for rates and proportions", chapter 2, with ties added). Votes that are there already count, also those against third
models: a standard error s of the difference of the scores θ is what m = v / (p(1 − p)s)² direct votes would give. So
n − m more are needed. All of it supposes that the fitted difference is the true one.
"""

from math import ceil, inf, sqrt

_Z_CONFIDENCE, _Z_POWER = 1.959963984540054, 0.8416212335729143
CONFIDENCE, POWER = 0.95, 0.80
_EQUAL = 1e-6  # of p from one half: nothing but rounding


def votes_needed(p: float, tie_share: float) -> float:
    """n above; infinite for models that are equal.  p: above 0 and below 1.  tie_share: below 1."""
    if abs(p - 0.5) < _EQUAL:
        return inf
    # With few votes, more ties may have been counted than the fitted p leaves room for.
    spread = _Z_CONFIDENCE * sqrt((1 - tie_share) / 4) + _Z_POWER * sqrt(variance(p, tie_share))
    return (spread / (p - 0.5)) ** 2


def variance(p: float, tie_share: float) -> float:
    """Of one vote: v above. Where p leaves no room for so many ties, as many as it leaves room for."""
    return p * (1 - p) - min(tie_share, 2 * min(p, 1 - p)) / 4


def votes_worth(p: float, tie_share: float, standard_error: float) -> float:
    """m above: how many direct votes would tell as much as all votes do.  standard_error: in nats."""
    return variance(p, tie_share) / (p * (1 - p) * standard_error) ** 2


def more_votes(p: float, tie_share: float, standard_error: float) -> int | None:
    """How many more votes between the two, at least one; None where no number would do, since they are equal."""
    needed = votes_needed(p, tie_share)
    return None if needed == inf else max(1, ceil(needed - votes_worth(p, tie_share, standard_error)))
