"""Scores from votes: the Bradley–Terry model.

The model (Bradley & Terry 1952, "Rank analysis of incomplete block designs: I", Biometrika 39): each model i has a
score θᵢ, and i is found better than j with probability 1 / (1 + exp(θⱼ − θᵢ)). A tie counts as half a vote for each
side, as on public arenas (Chiang et al. 2024, arXiv:2403.04132). The scores are those of largest likelihood, found by
`choix` (iterated Luce spectral ranking: Maystre & Grossglauser 2015, "Fast and accurate inference of Plackett–Luce
models").

`choix` and scipy are extras (`pip install smidgen[eval]`), imported when first used.
"""

import numpy as np
from numpy.typing import NDArray

from smidgen.errors import SmidgenError

Scores = NDArray[np.float64]
_TOLERANCE = 1e-9  # a millionth of a point on the scale of 400
_MOST_STEPS = 10_000


def require_library() -> None:
    """Raises SmidgenError, with what to install, where `choix` is missing."""
    try:
        import choix  # noqa: F401
        import threadpoolctl  # noqa: F401
    except ImportError as error:
        raise SmidgenError(
            "models are ranked with choix, which is not installed: pip install 'smidgen[eval]'"
        ) from error


def fit(points: NDArray[np.float64], start: Scores | None = None, tolerance: float = _TOLERANCE) -> Scores:
    """The scores θ of largest likelihood, in nats, with mean 0.

    points: [i, j], the votes that i won against j, ties as half. Each model must be reachable from each other by wins,
    else the maximum lies at infinity (see placing.py).  start: scores to begin at.
    tolerance: of the last step, in nats, as a mean over models.
    """
    import choix

    try:
        return choix.ilsr_pairwise_dense(points, initial_params=start, max_iter=_MOST_STEPS, tol=tolerance)
    except (RuntimeError, ValueError) as error:
        far = "are some models far better than others?"
        raise SmidgenError(f"the scores could not be fitted ({error}); {far}") from error
