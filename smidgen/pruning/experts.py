"""Taking whole experts out of a mixture, in every layer the same number.

An expert's routed mass is what it has of all tokens' outputs: the mean over calibration tokens of the share that the
router gives it, zero where it is not among the chosen. The experts with the least mass go, layer by layer; their rows
leave the router, so that their tokens go to the best of the others.

Merged, a dropped expert does not just vanish: its weights join those of the kept expert most like it, as a mean
weighted by routed mass (M-SMoE, Li et al. 2023, arXiv:2310.01334, section 3.2). Most like it is the one to which the
router gives the most similar scores, by their correlation over tokens (there: by cosine). We do not align the neurons
of the two first, as that paper does.

Cost: one pass over the calibration text. Memory: one block.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smidgen.calibration.walk import States, advance
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Changed, Derived, Kept
from smidgen.formats.parts import embed, load_block
from smidgen.model.decoder import Block
from smidgen.progress import track
from smidgen.shapes import Float, Int

_PARTS = ("gate", "up", "down")


@dataclass(frozen=True)
class LayerExperts:
    """One layer's experts. Numbers are those of the original.

    mass: share that each has of all tokens' outputs.  kept: ascending.  joins: dropped expert → the kept one most like
    it.
    """

    mass: tuple[float, ...]
    kept: tuple[int, ...]
    joins: dict[int, int]

    @property
    def dropped_mass(self) -> float:
        """What the dropped ones had."""
        return sum(self.mass[expert] for expert in self.joins)


@dataclass(frozen=True)
class ExpertPlan:
    """Which experts go. used: how many each token takes, and how many it took before."""

    layers: tuple[LayerExperts, ...]
    used: int
    used_before: int

    def report(self) -> dict[str, Any]:
        """As in the card."""
        before, keep = len(self.layers[0].mass), len(self.layers[0].kept)
        dropped = [layer.dropped_mass for layer in self.layers]
        mean = sum(dropped) / len(dropped)
        fewer = f", {self.used} instead of {self.used_before} for each token" if self.used < self.used_before else ""
        return {
            "step": "experts",
            "summary": f"{before} → {keep} experts in each layer{fewer}; they had {mean:.1%} of the routed mass",
            "experts": keep,
            "experts_used": self.used,
            "dropped_mass": dropped,
            "layers": [
                {"mass": list(layer.mass), "dropped": [{"expert": one, "joins": to} for one, to in layer.joins.items()]}
                for layer in self.layers
            ],
        }


def plan(checkpoint: Checkpoint, keep: int, windows: Int[Tensor, "windows position"]) -> ExpertPlan:
    """Which `keep` experts stay in each layer, by what the tokens of `windows` use.

    Raises Unsupported for a model without experts, SmidgenError for a number that cannot be.
    """
    layers = checkpoint.config.layers
    if not all(layer.experts for layer in layers):
        raise Unsupported(f"a {checkpoint.family.name} model like this has no experts to take out; prune its width")
    most = min(layer.experts for layer in layers)
    if not 0 < keep < most:
        raise SmidgenError(f"{keep} experts cannot be kept of {most}; ask for 1 to {most - 1}.")
    states, chosen = embed(checkpoint, windows), []
    with track("Counting what each expert does", len(layers)) as task:
        for index in range(len(layers)):
            block = load_block(checkpoint, index)
            chosen.append(_choose(*_routing(block, states), keep))
            checkpoint.release()
            task.advance()
    used = layers[0].experts_used
    return ExpertPlan(tuple(chosen), min(used, keep), used)


def apply(checkpoint: Checkpoint, plan: ExpertPlan, merge: bool) -> Derived:
    """The model with those experts.  merge: the dropped ones join the kept ones most like them."""
    parts: dict[str, Kept | Changed] = {}
    for index, layer in enumerate(plan.layers):
        prefix = f"blocks.{index}.experts"
        parts[f"{prefix}.router.weight"] = Kept(f"{prefix}.router.weight", np.array(layer.kept))
        for new, old in enumerate(layer.kept):
            joining = [expert for expert, other in layer.joins.items() if other == old] if merge else []
            for part in _PARTS:
                name = f"{prefix}.{old}.{part}.weight"
                members = {f"{prefix}.{expert}.{part}.weight": layer.mass[expert] for expert in (old, *joining)}
                kept = Changed(partial(_weighted_mean, checkpoint, members)) if joining else Kept(name)
                parts[f"{prefix}.{new}.{part}.weight"] = kept
    config = checkpoint.config
    experts = len(plan.layers[0].kept)
    layers = tuple(replace(layer, experts=experts, experts_used=plan.used) for layer in config.layers)
    return Derived(replace(config, layers=layers), parts)


def _routing(block: Block, states: States) -> tuple[Float[Tensor, " experts"], Float[Tensor, "experts experts"]]:
    """Routed mass of each expert, and how the router's scores correlate over tokens. Advances `states`."""
    experts = block.experts
    assert experts is not None
    mass, scores = torch.zeros(len(experts.networks), dtype=torch.float64), []

    def watch(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tokens = inputs[0].flatten(0, -2)
        shares, chosen = experts.route(tokens)
        mass.index_add_(0, chosen.flatten(), shares.flatten().double())
        scores.append(experts.router(tokens).float())

    handle = experts.register_forward_pre_hook(watch)
    try:
        advance(block, states)
    finally:
        handle.remove()
    return mass / mass.sum(), torch.corrcoef(torch.cat(scores).T).nan_to_num(0.0)


def _choose(mass: Float[Tensor, " experts"], alike: Float[Tensor, "experts experts"], keep: int) -> LayerExperts:
    """The `keep` experts with the most routed mass, the lower number among equals, and where the others would go."""
    order = mass.argsort(descending=True, stable=True).tolist()
    kept = sorted(order[:keep])
    joins = {expert: kept[int(alike[expert, kept].argmax())] for expert in sorted(order[keep:])}
    return LayerExperts(tuple(mass.tolist()), tuple(kept), joins)


def _weighted_mean(checkpoint: Checkpoint, members: Mapping[str, float]) -> Float[Tensor, "out in"]:
    """Mean of some matrices by weight; all alike where no weight is above zero."""
    total = sum(members.values())
    shares = {name: weight / total if total else 1 / len(members) for name, weight in members.items()}
    mean = torch.zeros(checkpoint.shape(next(iter(members))))
    for name, share in shares.items():
        mean += share * checkpoint.tensor(name)
    return mean
