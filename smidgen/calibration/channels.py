"""Which inputs of a layer matter least: the order in which to remove feed-forward channels, heads and groups of heads.

Removing the columns Q of a matrix W while the others make up for it as well as they can costs

    ½ Σᵣ qᵣ W[r, Q] (H⁻¹[Q, Q])⁻¹ W[r, Q]ᵀ  nats per token,   qᵣ = E[gᵣ²],  H = E[w x xᵀ]/E[w]

(Optimal Brain Surgeon, Hassibi & Stork 1992, eq. 5; for columns that all rows share, ZipLM, Kurtic et al. 2023,
arXiv:2302.04089, eq. 2; qᵣ and w from `calibration.gradients`). The cheapest goes first; then

    W ← W − W[:, Q] (H⁻¹[Q, Q])⁻¹ H⁻¹[Q, :],    H⁻¹ ← H⁻¹ − H⁻¹[:, Q] (H⁻¹[Q, Q])⁻¹ H⁻¹[Q, :]

and the rest is scored anew, so that of two channels that say the same only one is removed. Where we differ: single
channels go a few at a time (1/64 of all), each scored alone but removed exactly. Cost: 2 columns² · removed.

The other methods are there to be compared with: "activation" is the importance of Minitron (Muralidharan et al. 2024,
arXiv:2407.14679) in the same metric, E[w x²], "magnitude" the size of the columns, "random" a seeded choice.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import torch
from torch import Tensor

from smidgen.calibration.gradients import BlockSurvey, costs, survey_blocks
from smidgen.calibration.moments import linear_of
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
    loss: what is lost once each of them is gone, with all before it, in nats per token.
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
        hessian = torch.block_diag(*(sample.moment for sample in seen.inputs.samples()))
        weight = linear_of(survey.block, linear).weight.detach()
        for (name, width), method in product(units.items(), METHODS):
            generator = torch.Generator().manual_seed(_SEED + survey.index)
            removal = removal_order(weight, hessian, seen.importance, width, method, generator)
            kept[f"{survey.index}.{name}.{method}.order"] = removal.order
            kept[f"{survey.index}.{name}.{method}.loss"] = removal.loss
    return kept


@torch.no_grad()
def removal_order(
    weight: Float[Tensor, "out in"],
    hessian: Float[Tensor, "in in"],
    importance: Float[Tensor, " out"],
    width: int = 1,
    method: Method = "obs",
    generator: torch.Generator | None = None,
) -> Removal:
    """In which order to remove units of `width` neighbouring columns each, all but the last sixteenth of them.

    hessian, importance: H and q of the layer.  generator: for "random".
    """
    units = weight.shape[1] // width
    removed = units - max(1, units // 16)
    if method == "obs":
        return _Surgeon(weight, hessian, importance, width).remove(removed)
    if method == "activation":
        score = hessian.diagonal()
    elif method == "magnitude":
        score = weight.square().sum(0)
    else:
        score = torch.rand(weight.shape[1], generator=generator)
    order = score.view(units, width).sum(1).argsort()[:removed]
    return Removal(order, torch.full((removed,), torch.nan))


class _Surgeon:
    """A matrix from which columns are taken, and H⁻¹ of those that are left."""

    def __init__(self, weight: Tensor, hessian: Tensor, importance: Tensor, width: int) -> None:
        dtype = torch.float64 if len(hessian) <= _FLOAT64_WIDTH else torch.float32
        self._width = width
        self._weight = weight.to(dtype, copy=True)
        self._importance = importance.to(dtype)
        factor = inverse_factor(hessian).to(dtype)
        self._inverse = factor.T @ factor
        self._left = torch.arange(len(hessian) // width)  # units, by their number in the whole matrix

    def remove(self, count: int) -> Removal:
        """Take so many units, the cheapest first."""
        at_once = max(1, len(self._left) // _ROUNDS) if self._width == 1 else 1
        order, losses = [self._left[:0]], [torch.zeros(0, dtype=self._weight.dtype)]
        spent = 0.0
        while count > 0:
            cost = self._costs()
            chosen = cost.argsort()[: min(at_once, count)]
            total = self._take(chosen)
            # Together they cost more or less than the sum of their scores: spread over them alike.
            steps = cost[chosen].cumsum(0)
            losses.append(spent + total * steps / steps[-1].clamp_min(1e-300))
            order.append(self._left[chosen])
            keep = torch.ones(len(self._left), dtype=torch.bool)
            keep[chosen] = False
            self._left = self._left[keep]
            spent, count = spent + total, count - len(chosen)
        return Removal(torch.cat(order), torch.cat(losses).float())

    def _columns(self, units: Int[Tensor, " units"]) -> Int[Tensor, "units width"]:
        """Where units are now that others are gone."""
        return units[:, None] * self._width + torch.arange(self._width)

    def _costs(self) -> Float[Tensor, " units"]:
        """½ Σᵣ qᵣ W[r, Q] (H⁻¹[Q, Q])⁻¹ W[r, Q]ᵀ of each unit that is left."""
        if self._width == 1:
            return 0.5 * (self._importance @ self._weight.square()) / self._inverse.diagonal()
        columns = self._columns(torch.arange(len(self._left)))
        return torch.stack([self._cost(unit) for unit in columns])

    def _cost(self, columns: Int[Tensor, " columns"]) -> Float[Tensor, ""]:
        part = self._weight[:, columns]
        pushed = torch.linalg.solve(self._inverse[columns][:, columns], part.T)
        return 0.5 * self._importance @ (part * pushed.T).sum(1)

    def _take(self, units: Int[Tensor, " units"]) -> float:
        """Remove units, have the rest make up for it, and return what it costs."""
        columns = self._columns(units).flatten()
        cost = float(self._cost(columns))
        rest = torch.ones(len(self._inverse), dtype=torch.bool)
        rest[columns] = False
        across = self._inverse[columns][:, rest]
        push = torch.linalg.solve(self._inverse[columns][:, columns], across)
        self._weight = self._weight[:, rest] - self._weight[:, columns] @ push
        self._inverse = self._inverse[rest][:, rest] - across.T @ push
        return cost
