"""Fitting a matrix to targets in closed form, with the ridge chosen on tokens kept aside; `pruning.refit` has the why.

Plain:   W' = W + E[w (t − W a) aᵀ] (A + λI)⁻¹,   A = E[w a aᵀ]
Normed:  the output is g ⊙ W a / rms(W a). For rms = s as it is now, the same with targets s t/g and weights w/s²; then
         g'ᵣ = E[w nᵣ tᵣ] / E[w nᵣ²] with n = W' a / rms(W' a). Twice, since s moves with W'.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from smidgen.calibration.moments import SecondMoment
from smidgen.numerics.precision import quick_layers, quick_products
from smidgen.numerics.triangular import NotPositiveDefinite, cholesky_
from smidgen.shapes import Bool, Float

_FIRST_RIDGE = 0.1  # λ tried first, relative to the mean of the diagonal of A; then by powers of √10 up or down
_RIDGES = tuple(_FIRST_RIDGE * 10 ** (step / 2) for step in range(-8, 5))
_ROUNDS = 2  # of matrix and gain
_FLOAT64_WIDTH = 1024  # of the matrices that are solved in float64
_SMALLEST_GAIN = 0.1  # of the median; targets are divided by gains


@dataclass(frozen=True)
class Tokens:
    """Some tokens: what enters a matrix, what should come out, and how much each counts."""

    inputs: Float[Tensor, "tokens in"]
    targets: Float[Tensor, "tokens out"]
    weights: Float[Tensor, " tokens"]

    def take(self, which: Bool[Tensor, " tokens"]) -> "Tokens":
        """Those at which `which` is true."""
        return Tokens(self.inputs[which], self.targets[which], self.weights[which])

    @staticmethod
    def join(parts: Iterable["Tokens"]) -> "Tokens":
        """All of them."""
        columns = zip(*((part.inputs, part.targets, part.weights) for part in parts), strict=True)
        return Tokens(*(torch.cat(column) for column in columns))


#: All tokens in batches, with those marked that are kept aside; can be asked for more than once.
Batches = Callable[[], Iterable[tuple[Tokens, Bool[Tensor, " tokens"]]]]


class Moments:
    """A = Σ w a aᵀ and B = Σ w t aᵀ."""

    def __init__(self, out: int, width: int) -> None:
        self._inputs = SecondMoment(width)
        self._cross: Float[Tensor, "out in"] = torch.zeros(out, width)

    def add(self, tokens: Tokens) -> None:
        """Take in more tokens."""
        self._inputs.add(tokens.inputs, tokens.weights)
        roots = tokens.weights.sqrt()[:, None]
        with quick_products():
            self._cross.addmm_((tokens.targets * roots).T, tokens.inputs * roots)

    def solve(self, ridge: float) -> Float[Tensor, "out in"]:
        """B (A + λI)⁻¹, λ being `ridge` times the mean of the diagonal of A; more where float32 needs more."""
        total = self._inputs.total.T  # its lower half is filled
        dtype = torch.float64 if len(total) <= _FLOAT64_WIDTH else torch.float32
        mean = float(total.diagonal().double().mean().clamp_min(1e-30))
        while True:
            factor = total.to(dtype, copy=True)
            factor.diagonal().add_(ridge * mean)
            try:
                cholesky_(factor)
                break
            except NotPositiveDefinite:
                ridge = max(10 * ridge, 1e-7)
        return torch.cholesky_solve(self._cross.T.to(dtype), factor).T.float().contiguous()


def fit(weight: Float[Tensor, "out in"], batches: Batches) -> Float[Tensor, "out in"] | None:
    """The matrix refitted, or None where no ridge lowers the error of the tokens kept aside."""
    moments, parts = Moments(*weight.shape), []
    for tokens, aside in batches():
        missing = Tokens(tokens.inputs, tokens.targets - _outputs(tokens.inputs, weight), tokens.weights)
        moments.add(missing.take(~aside))
        parts.append(missing.take(aside))
    late = Tokens.join(parts)
    ridge, error = _best_ridge(lambda ridge: _error(late.targets - _outputs(late.inputs, moments.solve(ridge)), late))
    if error >= _error(late.targets, late):
        return None
    moments.add(late)
    return weight + moments.solve(ridge)


def _best_ridge(error: Callable[[float], float]) -> tuple[float, float]:
    """The ridge with the least error, and that: downhill from the first, which is about right for few tokens."""
    first = _RIDGES.index(_FIRST_RIDGE)
    best, least = _FIRST_RIDGE, error(_FIRST_RIDGE)
    for way in (_RIDGES[first + 1 :], _RIDGES[first - 1 :: -1]):
        for ridge in way:
            if (tried := error(ridge)) >= least:
                break
            best, least = ridge, tried
        if best != _FIRST_RIDGE:
            break
    return best, least


def fit_normed(
    weight: Float[Tensor, "out in"], gain: Float[Tensor, " out"], epsilon: float, batches: Batches
) -> tuple[Float[Tensor, "out in"], Float[Tensor, " out"]] | None:
    """Matrix and gain of the norm after it refitted, or None where that does not help the tokens kept aside.

    These stay aside: with them, the second round could not be judged.
    """
    late = Tokens.join(tokens.take(aside) for tokens, aside in batches())

    def error(matrix: Tensor, factor: Tensor) -> float:
        return _error(late.targets - factor * _normal(_outputs(late.inputs, matrix), epsilon), late)

    kept, start = (weight, gain), error(weight, gain)
    least = start
    for _ in range(_ROUNDS):
        better, found = _normed_round(*kept, epsilon, batches, error)
        if found >= least:
            break
        kept, least = better, found
    return kept if least < start else None


def _normed_round(
    weight: Tensor, gain: Tensor, epsilon: float, batches: Batches, error: Callable[[Tensor, Tensor], float]
) -> tuple[tuple[Tensor, Tensor], float]:
    """A new matrix, with or without a new gain, whichever is better; and its error."""
    moments = _normed_moments(weight, gain, epsilon, batches)
    ridge, _ = _best_ridge(lambda ridge: error(weight + moments.solve(ridge), gain))
    matrix = weight + moments.solve(ridge)
    tried = [(matrix, gain), (matrix, _gain(matrix, gain, epsilon, batches))]
    errors = [error(*one) for one in tried]
    return tried[errors.index(min(errors))], min(errors)


def _normed_moments(weight: Tensor, gain: Tensor, epsilon: float, batches: Batches) -> Moments:
    """Of what is missing before the norm, for the present root mean squares."""
    moments = Moments(*weight.shape)
    floor = _SMALLEST_GAIN * gain.abs().median()
    divisor = torch.where(gain < 0, -1.0, 1.0) * gain.abs().clamp_min(floor)
    for tokens, aside in batches():
        seen = tokens.take(~aside)
        outputs = _outputs(seen.inputs, weight)
        size = (outputs.square().mean(-1, keepdim=True) + epsilon).sqrt()
        moments.add(Tokens(seen.inputs, size * seen.targets / divisor - outputs, seen.weights / size[:, 0].square()))
    return moments


def _gain(weight: Tensor, gain: Tensor, epsilon: float, batches: Batches) -> Float[Tensor, " out"]:
    """The best gain for a matrix; a channel that never speaks keeps its own."""
    crossed, squares = torch.zeros_like(gain), torch.zeros_like(gain)
    for tokens, aside in batches():
        seen = tokens.take(~aside)
        normal = _normal(_outputs(seen.inputs, weight), epsilon)
        crossed += (seen.weights[:, None] * normal * seen.targets).sum(0)
        squares += (seen.weights[:, None] * normal.square()).sum(0)
    return torch.where(squares > 0, crossed / squares, gain)


def _outputs(inputs: Float[Tensor, "tokens in"], weight: Float[Tensor, "out in"]) -> Float[Tensor, "tokens out"]:
    """As the walk through the model computes them: what it only rounds must not look like something to refit."""
    with quick_layers():
        return functional.linear(inputs, weight).float()


def _normal(outputs: Float[Tensor, "tokens out"], epsilon: float) -> Float[Tensor, "tokens out"]:
    return functional.rms_norm(outputs, outputs.shape[-1:], None, epsilon)


def _error(difference: Float[Tensor, "tokens out"], tokens: Tokens) -> float:
    """Σ w ‖difference‖²."""
    return float(difference.square().sum(1).double() @ tokens.weights.double())
