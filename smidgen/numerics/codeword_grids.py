"""What the types IQ2 and IQ3 can hold, searched: signs, the codeword of a run, the factor of a group, a block's unit.

A run of 8 (IQ2) or 4 (IQ3) weights is stored as signs and the number of a codeword, a fixed pattern of magnitudes; see
`numerics.codeword_fields`. With importances aᵢ of its weights, and targets tᵢ = signᵢ · wᵢ / scale, the codeword g
that is wanted has the least

    Σ aᵢ (tᵢ − gᵢ)² = Σ aᵢ gᵢ² − 2 Σ (aᵢ gᵢ) tᵢ + Σ aᵢ tᵢ²

which for all codewords and many runs with the same importances is one matrix product: none is left out of the search.

The unit of a block is chosen before its groups are rounded. For each group, scales between two bounds are tried on
a stand-in for the codebook in which every weight takes the nearest magnitude by itself; the best, refined by least
squares, is the group's aim. The unit is the one whose sixteen scales, one of them for each group, come nearest to the
aims, by the loss that a missed aim costs: a large unit misses small groups, a small one cuts off large ones.

As in `numerics.grids` everything is transposed: rows are contiguous.
"""

from functools import cache

import torch
from torch import Tensor

from smidgen.numerics.block_types import BlockType
from smidgen.numerics.codebooks import codebook
from smidgen.numerics.codeword_fields import FORMATS, CodewordFormat
from smidgen.numerics.grid import inverse_scale
from smidgen.shapes import Float

FACTORS = 16  # a factor has four bits
_AIMS = 8  # scales tried for a group before its block's unit is chosen
_FARTHEST = 3.0  # times the largest magnitude: what lies beyond, counts as if it lay there
_TILE = 2**17  # distances at once: they stay in the processor's cache
_LARGEST = 65504.0
# Units tried: those for which the largest aim is the scale of factor f, for these f. Beyond 15 that group is cut off.
_FACTORS_OF_LARGEST = tuple(f / 4 for f in range(28, 73))


class CodewordGrid:
    """One of the types, with what the search needs of its codebook."""

    def __init__(self, form: CodewordFormat) -> None:
        self.form, self.kind, self.group, self.run = form, form.kind, form.group, form.run
        self.words = codebook(form.kind).float()
        magnitudes = self.words.unique()
        self.largest = float(magnitudes[-1])
        # The magnitudes are very nearly first + i · step; for the stand-in they are exactly that.
        self._first, self._count = float(magnitudes[0]), len(magnitudes)
        self._step = (self.largest - self._first) / (self._count - 1)
        # How a scale comes out if codewords are as large as what they stand for.
        self._per_size = float(1 / self.words.square().mean().sqrt())
        self._numbers = torch.arange(len(self.words), dtype=torch.int32)[:, None]

    def scales(self, unit: Float[Tensor, "*_more rows"], factors: Tensor) -> Tensor:
        """Scales of groups: what a magnitude of 1 stands for."""
        return unit * self.form.fraction * (2 * factors + 1)

    def signs(self, weights: Float[Tensor, "8 points"], importance: Float[Tensor, " 8"]) -> Float[Tensor, "8 points"]:
        """+1 or −1 each, as the weights have them.

        Where minuses must be even in number and are not, the weight turns whose size, by its importance, is least.
        """
        signs = torch.where(weights < 0, -1.0, 1.0)
        if self.form.even:
            odd = signs.prod(0) < 0
            least = (weights.abs() * importance[:, None]).argmin(0, keepdim=True)
            turned = torch.where(odd, -signs.gather(0, least), signs.gather(0, least))
            signs.scatter_(0, least, turned)
        return signs

    def nearest(self, targets: Float[Tensor, "run points"], importance: Float[Tensor, " run"]) -> Tensor:
        """Numbers of the codewords nearest to targets, int32 [points]. Targets count in units of the scale.

        importance: above zero, the largest about 1.
        """
        bound = _FARTHEST * self.largest
        targets = targets.clamp(-bound, bound)
        sizes = (targets.square() * importance[:, None]).sum(0, keepdim=True)
        features = torch.cat([targets, torch.ones_like(sizes), sizes])
        own = (self.words.square() @ importance)[:, None]
        words = torch.cat([self.words * (-2 * importance), own, torch.ones_like(own)], dim=1)
        found = torch.empty(targets.shape[1], dtype=torch.int32)
        tile = _TILE // len(words)
        space = torch.empty(len(words) * tile)
        for start in range(0, len(found), tile):
            part = features[:, start : start + tile]
            distances = space[: len(words) * part.shape[1]].view(len(words), -1)
            torch.mm(words, part, out=distances)
            # The lowest bits of a distance make room for the number of its word, so that the least distance names it:
            # several times as quick as looking for its place. They are a part in 2¹³ of the distance, or less.
            named = distances.view(torch.int32).bitwise_and_(-len(words)).bitwise_or_(self._numbers)
            torch.amin(named, 0, out=found[start : start + tile])
        return found.bitwise_and_(len(words) - 1)

    def magnitudes(self, numbers: Tensor) -> Float[Tensor, "run points"]:
        """Codewords by their numbers."""
        return self.words.index_select(0, numbers).T

    def open_block(
        self, weights: Float[Tensor, "block rows"], importance: Float[Tensor, " block"]
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, "groups rows"]]:
        """The unit of a block, float16, and the scale that each of its groups aims at."""
        aims, weight = self._aims(weights.unflatten(0, (-1, self.group)), importance.view(-1, self.group, 1))
        largest = aims.amax(0) / self.form.fraction
        best_unit, best_loss = torch.zeros_like(largest), (weight * aims.square()).sum(0)
        for factor in _FACTORS_OF_LARGEST:
            unit = (largest / (2 * factor + 1)).clamp_max(_LARGEST).half().float()
            missed = aims - self.scales(unit, self._factor(aims, unit).round_().clamp_(0, FACTORS - 1))
            loss = (weight * missed.square_()).sum(0)
            better = loss < best_loss
            best_unit, best_loss = torch.where(better, unit, best_unit), torch.where(better, loss, best_loss)
        return best_unit.half(), aims

    def candidates(
        self, aim: Float[Tensor, " rows"], unit: Float[Tensor, " rows"], count: int
    ) -> Float[Tensor, "candidates rows"]:
        """Factors of a group worth trying: the `count` whose scales are around the aim."""
        lowest = (self._factor(aim, unit) - (count - 1) / 2).round_().clamp_(0, FACTORS - count)
        return lowest + torch.arange(float(count))[:, None]

    def _factor(self, aim: Tensor, unit: Float[Tensor, " rows"]) -> Tensor:
        """The factor of a scale, were it a real number."""
        return (aim * inverse_scale(unit * self.form.fraction) - 1).mul_(0.5)

    def _aims(
        self, weights: Float[Tensor, "groups group rows"], importance: Float[Tensor, "groups group 1"]
    ) -> tuple[Float[Tensor, "groups rows"], Float[Tensor, "groups rows"]]:
        """The best scale of each group, and by how much the loss grows with the square of what is missing to it."""
        sizes = weights.abs()
        shares = importance / importance.sum(1, keepdim=True).clamp_min(1e-30)
        weighted = sizes * importance
        plain = sizes.square().mean(1).sqrt_()
        typical = torch.minimum(plain, (sizes.square() * shares).sum(1).sqrt_())
        low = 0.9 * self._per_size * typical
        high = torch.maximum(1.02 / self.largest * sizes.amax(1), 1.1 * low)
        ratio = (high / low.clamp_min(1e-30)).clamp_max_(1e6)
        aims, gained = torch.zeros_like(low), torch.zeros_like(low)
        # A group of zeros has no level of 0 to take: the smallest one, times its scale, is what it will be off by.
        curvature = (self._first**2 * importance.sum(1)).expand_as(low)
        for i in range(_AIMS):
            scale = low * ratio ** (i / (_AIMS - 1))
            levels = sizes * (inverse_scale(scale) / self._step)[:, None]
            levels.sub_(self._first / self._step).round_().clamp_(0, self._count - 1).mul_(self._step).add_(self._first)
            along = (weighted * levels).sum(1)
            across = levels.square_().mul_(importance).sum(1)
            gain = along.square() / across  # how much less is lost than without this group
            better = gain > gained
            aims = torch.where(better, along / across, aims)
            curvature = torch.where(better, across, curvature)
            gained = torch.where(better, gain, gained)
        return aims, curvature


@cache
def grid_of(kind: BlockType) -> CodewordGrid:
    """The grid of a type, made when first asked for. Raises KeyError for a type without codewords."""
    return CodewordGrid(FORMATS[kind])
