"""How models stretch rotary positions beyond the length they were first trained on; torch-free.

Every kind comes down to the same two things: a divisor for the frequency of each pair of features, and a factor on the
cosines and sines. A pair j of `width/2` turns by base^(-2j/width) per position; its wavelength is the positions in a
full turn. The kinds are kept with the parameters that files give them, so that they can be written back.
"""

import math
from dataclasses import dataclass

#: What GGUF files have for infinity: a pair turns by nothing within any text.
STANDING_STILL = 1e30


def _frequencies(base: float, width: int) -> list[float]:
    """Radians per position of each pair, unscaled."""
    return [base ** (-2 * pair / width) for pair in range(width // 2)]


@dataclass(frozen=True)
class LinearScaling:
    """Position interpolation (Chen et al. 2023, https://arxiv.org/abs/2306.15595): all positions over `factor`."""

    factor: float

    @property
    def magnitude(self) -> float:
        """Factor on cosines and sines."""
        return 1.0

    def divisors(self, base: float, width: int, length: int) -> tuple[float, ...]:
        """One divisor for each pair. length: positions in use."""
        return (self.factor,) * (width // 2)


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's scaling (Meta 2024, https://arxiv.org/abs/2407.21783): slow pairs are divided, quick ones are not.

    Between the wavelengths original_context/high_factor and original_context/low_factor the divisor goes over smoothly.
    """

    factor: float
    low_factor: float
    high_factor: float
    original_context: int

    @property
    def magnitude(self) -> float:
        """Factor on cosines and sines."""
        return 1.0

    def divisors(self, base: float, width: int, length: int) -> tuple[float, ...]:
        """One divisor for each pair."""
        return tuple(self._divisor(2 * math.pi / frequency) for frequency in _frequencies(base, width))

    def _divisor(self, wavelength: float) -> float:
        turns = self.original_context / wavelength
        if turns > self.high_factor:
            return 1.0
        if turns < self.low_factor:
            return self.factor
        smooth = (turns - self.low_factor) / (self.high_factor - self.low_factor)
        return 1 / ((1 - smooth) / self.factor + smooth)


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (Peng et al. 2023, https://arxiv.org/abs/2309.00071, section 3.2): a ramp over the pairs, a temperature.

    Pairs that turn more than `beta_fast` times within original_context stay, those with fewer than `beta_slow` turns
    are divided by `factor`. attention_factor: on cosines and sines; None for the paper's 0.1 ln(factor) + 1.
    """

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    @property
    def magnitude(self) -> float:
        """Factor on cosines and sines."""
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

    def divisors(self, base: float, width: int, length: int) -> tuple[float, ...]:
        """One divisor for each pair. The ramp begins and ends at whole pairs, as in the reference."""
        low = max(math.floor(self._pair_with(self.beta_fast, base, width)), 0)
        high = min(math.ceil(self._pair_with(self.beta_slow, base, width)), width - 1)
        ramp = [min(max((pair - low) / max(high - low, 0.001), 0.0), 1.0) for pair in range(width // 2)]
        return tuple(1 / (share / self.factor + (1 - share)) for share in ramp)

    def _pair_with(self, turns: float, base: float, width: int) -> float:
        """The (fractional) pair that turns so many times within the original context."""
        return width * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(base))


@dataclass(frozen=True)
class LongRopeScaling:
    """LongRoPE (Ding et al. 2024, https://arxiv.org/abs/2402.13753), as Phi-3 uses it: divisors found by search.

    short, long: for texts up to `original_context` positions, and for longer ones.
    attention_factor: on cosines and sines.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_context: int
    attention_factor: float

    @property
    def magnitude(self) -> float:
        """Factor on cosines and sines."""
        return self.attention_factor

    def divisors(self, base: float, width: int, length: int) -> tuple[float, ...]:
        """One divisor for each pair."""
        return self.long if length > self.original_context else self.short


@dataclass(frozen=True)
class GivenDivisors:
    """Divisors as a file lists them: GGUF's tensor rope_freqs.weight, where Llama 3's scaling is already worked out."""

    values: tuple[float, ...]

    @property
    def magnitude(self) -> float:
        """Factor on cosines and sines."""
        return 1.0

    def divisors(self, base: float, width: int, length: int) -> tuple[float, ...]:
        """One divisor for each pair."""
        return self.values


@dataclass(frozen=True)
class ProportionalScaling:
    """Only the quickest pairs turn, this share of all; the others stand still (Gemma 4's layers that see everything).

    Unlike a narrower `Rotary.width`, pairs keep the frequencies that they have in the whole head.
    """

    share: float

    @property
    def magnitude(self) -> float:
        """Factor on cosines and sines."""
        return 1.0

    def divisors(self, base: float, width: int, length: int) -> tuple[float, ...]:
        """One divisor for each pair; infinity for those that stand still."""
        turning = int(self.share * width // 2)
        return (1.0,) * turning + (math.inf,) * (width // 2 - turning)


def recognise_proportional(divisors: tuple[float, ...]) -> ProportionalScaling | None:
    """The share of the divisors in a GGUF file, where they are 1 for the first pairs and huge for the rest."""
    turning = sum(divisor == 1 for divisor in divisors)
    still = all(divisor >= STANDING_STILL for divisor in divisors[turning:])
    return ProportionalScaling(turning / len(divisors)) if still and 0 < turning < len(divisors) else None


def recognise_llama3(divisors: tuple[float, ...], base: float, width: int) -> Llama3Scaling | None:
    """The parameters of the divisors in a GGUF file, where they are those with which all Llama 3.x models came."""
    candidate = Llama3Scaling(round(max(divisors), 4), 1.0, 4.0, 8192)
    expected = candidate.divisors(base, width, 0)
    alike = all(abs(one - other) <= 1e-4 * other for one, other in zip(divisors, expected, strict=True))
    return candidate if alike and candidate.factor > 1 else None


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling | GivenDivisors | ProportionalScaling
