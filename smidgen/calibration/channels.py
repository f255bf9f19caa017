"""Which inputs of a layer matter least: the order in which to remove feed-forward channels, heads and groups of heads.

Removing the columns Q of a matrix W while the others make up for it as well as they can costs

    ½ Σᵣ qᵣ W[r, Q] (H⁻¹[Q, Q])⁻¹ W[r, Q]ᵀ  nats per token,   qᵣ = E[gᵣ²],  H = E[w x xᵀ]/E[w]

(Optimal Brain Surgeon, Hassibi & Stork 1992, eq. 5; for columns that all rows share, ZipLM, Kurtic et al. 2023,
arXiv:2302.04089, eq. 2; qᵣ and w from `calibration.gradients`). The cheapest goes first; then

    W ← W − W[:, Q] (H⁻¹[Q, Q])⁻¹ H⁻¹[Q, :],    H⁻¹ ← H⁻¹ − H⁻¹[:, Q] (H⁻¹[Q, Q])⁻¹ H⁻¹[Q, :]

and the rest is scored anew, so that of two channels that say the same only one is removed. Where we differ: single
channels go a few at a time (1/64 of all), each scored alone but removed exactly. Cost: 2 columns² · removed.

H is of the tokens to fit to, shrunk as everywhere (`calibration.sample`). What a removal loses is measured on those
that judge. Where compensation loses more on them than leaving the channels out does, with H shrunk more too, the order
is that of

    ½ Σᵣ qᵣ W[r, Q]² E[w x²]

which leans on nothing that two inputs do together.

The other methods are there to be compared with: "activation" is the importance of Minitron (Muralidharan et al. 2024,
arXiv:2407.14679) in the same metric, E[w x²], "magnitude" the size of the columns, "random" a seeded choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

import torch
from torch import Tensor

from smidgen.calibration.gradients import BlockSurvey, costs, survey_blocks
from smidgen.calibration.moments import linear_of
from smidgen.calibration.sample import DAMPING, SHRINKAGES, Sample
from smidgen.calibration.walk import StateShelf
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.workspace import Workspace
from smidgen.model.config import LayerConfig
from smidgen.numerics.factor import inverse_factor
from smidgen.progress import track
from smidgen.shapes import Float, Int

Method = Literal["obs", "activation", "magnitude", "random"]
METHODS: tuple[Method, ...] = get_args(Method)

_ROUNDS = 64
_FLOAT64_WIDTH = 2048
_SEED = 0


@dataclass(frozen=True)
class Removal:
    """In which order units go.

    order: units, the one to go first in front; those that are never removed are not in it.
    loss: what is lost once each of them is gone, with all before it, in nats per token, on the tokens that judge; NaN
    where it was not estimated, or none judge.
    """

    order: Int[Tensor, " removed"]
    loss: Float[Tensor, " removed"]


@dataclass(frozen=True)
class LayerRanking:
    """One layer.  ffn: channels (None for experts); groups: key/value heads with their queries; heads: query heads."""

    ffn: Removal | None
    groups: Removal
    heads: Removal


def rank(
    checkpoint: Checkpoint,
    windows: Int[Tensor, "windows position"],
    workspace: Workspace,
    method: Method = "obs",
) -> list[LayerRanking]:
    """The rankings of every layer, from one forward and one backward pass over the calibration text.

    Those of all methods are kept in `workspace`, as "channels": a second call reads them there.
    """
    if not workspace.has("channels"):
        found: dict[str, Tensor] = {}

        def visit(survey: BlockSurvey) -> None:
            found.update(_rank_block(survey, checkpoint.config.layers[survey.index]))

        with track("Weighing channels", costs(checkpoint, windows)) as task:
            survey_blocks(checkpoint, windows, visit, StateShelf(workspace.folder), task)
        workspace.save_tensors("channels", found)
    known = workspace.load_tensors("channels")

    def removal(index: int, name: str) -> Removal:
        return Removal(*(known[f"{index}.{name}.{method}.{part}"] for part in ("order", "loss")))

    return [
        LayerRanking(None if layer.experts else removal(i, "ffn"), removal(i, "groups"), removal(i, "heads"))
        for i, layer in enumerate(checkpoint.config.layers)
    ]


def _rank_block(survey: BlockSurvey, layer: LayerConfig) -> dict[str, Tensor]:
    """One layer's part of what is kept. Moments that were taken in runs of columns stand on the diagonal of H."""
    heads = {"groups": layer.heads // layer.kv_heads * layer.head_dim, "heads": layer.head_dim}
    asked = {"attention.output": heads} | ({} if layer.experts else {"feed_forward.down": {"ffn": 1}})
    kept: dict[str, Tensor] = {}
    for linear, units in asked.items():
        seen = survey.linears[linear]
        sample = _joined(seen.inputs.samples())
        weight = linear_of(survey.block, linear).weight.detach()
        for (name, width), method in product(units.items(), METHODS):
            generator = torch.Generator().manual_seed(_SEED + survey.index)
            removal = removal_order(weight, sample, seen.importance, width, method, generator)
            kept[f"{survey.index}.{name}.{method}.order"] = removal.order
            kept[f"{survey.index}.{name}.{method}.loss"] = removal.loss
    return kept


def _joined(runs: Sequence[Sample]) -> Sample:
    """Runs of columns side by side; what connects them is not known."""
    if len(runs) == 1:
        return runs[0]
    moment, judges = torch.block_diag(*(run.moment for run in runs)), torch.cat([run.judges for run in runs], 1)
    return replace(runs[0], moment=moment, judges=judges)


@torch.no_grad()
def removal_order(
    weight: Float[Tensor, "out in"],
    sample: Sample,
    importance: Float[Tensor, " out"],
    width: int = 1,
    method: Method = "obs",
    generator: torch.Generator | None = None,
) -> Removal:
    """In which order to remove units of `width` neighbouring columns each, all but the last sixteenth of them.

    sample, importance: of the layer's inputs, and q.  generator: for "random".
    """
    units = weight.shape[1] // width
    removed = units - max(1, units // 16)
    if method == "obs":
        return _judged(weight, sample, importance, width, removed)
    if method == "activation":
        score = sample.moment.diagonal()
    elif method == "magnitude":
        score = weight.square().sum(0)
    else:
        score = torch.rand(weight.shape[1], generator=generator)
    return Removal(_lowest(score, width, removed), torch.full((removed,), torch.nan))


def _lowest(score: Float[Tensor, " in"], width: int, count: int) -> Int[Tensor, " removed"]:
    """So many units, the one with the lowest score in front."""
    return score.unflatten(0, (-1, width)).sum(1).argsort()[:count]


def _judged(
    weight: Float[Tensor, "out in"], sample: Sample, importance: Float[Tensor, " out"], width: int, count: int
) -> Removal:
    """The boldest of the surgeon's orders that loses no more than leaving units out does, half way through."""
    plain = _left_out(weight, sample, importance, width, count)
    for shrinkage in SHRINKAGES if sample.can_judge and count else ():
        removal = _Surgeon(weight, sample, importance, width, shrinkage).remove(count)
        if removal.loss[count // 2] <= plain.loss[count // 2]:
            return removal
    return plain


def _left_out(
    weight: Float[Tensor, "out in"], sample: Sample, importance: Float[Tensor, " out"], width: int, count: int
) -> Removal:
    """Units in the order of what their inputs carry, and what is lost once they are left out and nothing else moves."""
    order = _lowest((importance @ weight.square()) * sample.moment.diagonal(), width, count)
    if not len(sample.judges):
        return Removal(order, torch.full((count,), torch.nan))
    wrong: Float[Tensor, "judges out"] = torch.zeros(len(sample.judges), len(weight))
    losses, lost = [], 0.0
    for units in order.split(max(1, count // _ROUNDS)):
        columns = _columns(units, width).flatten()
        wrong.addmm_(sample.judges[:, columns], weight[:, columns].T)
        now = _nats(wrong, importance)
        losses.append(torch.linspace(lost, now, len(units) + 1)[1:])
        lost = now
    return Removal(order, torch.cat(losses))


def _columns(units: Int[Tensor, " units"], width: int) -> Int[Tensor, "units width"]:
    return units[:, None] * width + torch.arange(width)


def _nats(wrong: Float[Tensor, "judges out"], importance: Float[Tensor, " out"]) -> float:
    """½ Σᵣ qᵣ E[w Δyᵣ²] / E[w] of errors of outputs, weighted as `Sample.judges` are."""
    return 0.5 * float(wrong.square().sum(0) @ importance)


class _Surgeon:
    """A matrix from which columns are taken, H⁻¹ of those that are left, and what that does to tokens that judge."""

    def __init__(self, weight: Tensor, sample: Sample, importance: Tensor, width: int, shrinkage: float) -> None:
        dtype = torch.float64 if weight.shape[1] <= _FLOAT64_WIDTH else torch.float32
        self._width = width
        self._weight = weight.to(dtype, copy=True)
        self._importance = importance.to(dtype)
        factor = inverse_factor(sample.moment, DAMPING, shrinkage).to(dtype)
        self._inverse = factor.T @ factor
        self._judges = sample.judges.to(dtype)
        self._wrong = self._judges.new_zeros(len(sample.judges), len(weight))
        self._left = torch.arange(weight.shape[1] // width)  # units, by their number in the whole matrix

    def remove(self, count: int) -> Removal:
        """Take so many units, the cheapest first."""
        at_once = max(1, len(self._left) // _ROUNDS) if self._width == 1 else 1
        order, losses, lost = [self._left[:0]], [torch.zeros(0, dtype=self._weight.dtype)], 0.0
        while count > 0:
            cost = self._costs()
            chosen = cost.argsort()[: min(at_once, count)]
            self._take(chosen)
            now = _nats(self._wrong, self._importance)
            # Together they cost more or less than the sum of their scores: spread over them alike.
            steps = cost[chosen].cumsum(0)
            losses.append(lost + (now - lost) * steps / steps[-1].clamp_min(1e-300))
            order.append(self._left[chosen])
            keep = torch.ones(len(self._left), dtype=torch.bool)
            keep[chosen] = False
            self._left = self._left[keep]
            lost, count = now, count - len(chosen)
        return Removal(torch.cat(order), torch.cat(losses).float())

    def _costs(self) -> Float[Tensor, " units"]:
        """½ Σᵣ qᵣ W[r, Q] (H⁻¹[Q, Q])⁻¹ W[r, Q]ᵀ of each unit that is left."""
        if self._width == 1:
            return 0.5 * (self._importance @ self._weight.square()) / self._inverse.diagonal()
        return torch.stack([self._cost(unit) for unit in _columns(torch.arange(len(self._left)), self._width)])

    def _cost(self, columns: Int[Tensor, " columns"]) -> Float[Tensor, ""]:
        part = self._weight[:, columns]
        pushed = torch.linalg.solve(self._inverse[columns][:, columns], part.T)
        return 0.5 * self._importance @ (part * pushed.T).sum(1)

    def _take(self, units: Int[Tensor, " units"]) -> None:
        """Remove units and have the rest make up for it."""
        columns = _columns(units, self._width).flatten()
        rest = torch.ones(len(self._inverse), dtype=torch.bool)
        rest[columns] = False
        across = self._inverse[columns][:, rest]
        push = torch.linalg.solve(self._inverse[columns][:, columns], across)
        removed, kept = self._weight[:, columns], self._judges[:, rest]
        self._wrong += (self._judges[:, columns] + kept @ push.T) @ removed.T
        self._judges = kept
        self._weight = self._weight[:, rest] - removed @ push
        self._inverse = self._inverse[rest][:, rest] - across.T @ push
