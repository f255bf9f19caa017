"""What each tensor would cost in each type, measured before anything is decided.

A sample of each matrix's rows is really encoded, as the cut will encode them, in every type that its rows allow. The
loss of these rows, weighted by how much the model's prediction depends on each output (`calibrate.gradients`), gives
the damage in nats of KL divergence per token:

    damage = ½ Σᵣ E[gᵣ²] (ΔW H ΔWᵀ)ᵣᵣ

The embedding is felt twice where the head is tied to it. As the head, an error Δ in row v moves one logit, and
costs ½ pᵥ(1−pᵥ) (Δ·h)²; as the input it moves what enters the first block, and costs ½ (Δ·s·g)² wherever token v
stands. Tokens are predicted about as often as they occur, so both add up to one metric for all rows,

    M = E[(1 − Σp²) h hᵀ] + s² E[g gᵀ],    damage = ½ Σᵥ πᵥ Δᵥ M Δᵥᵀ,    π: share of token v,

and rows sampled as the text's own tokens estimate the sum over π.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.calibrate.gradients import BlockSurvey, EndSurvey, survey_blocks
from smidgen.calibrate.moments import INPUT_OF, linear_of
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import head_name
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.progress import track
from smidgen.quant.compensate import compensate, damage
from smidgen.quant.encode import Metric
from smidgen.shapes import Float, Int

#: What the cut may choose from. Every llama.cpp reads these, and rows allow at least the simple ones.
TARGET_TYPES = (
    types.Q4_0, types.IQ4_NL, types.Q4_K, types.Q4_1, types.Q5_0, types.Q5_K, types.Q5_1, types.Q6_K, types.Q8_0,
)  # fmt: skip
_SAMPLED_ROWS = 256


@dataclass(frozen=True)
class Survey:
    """The measured damages, and what the cut needs again for the two ends of the model.

    damage: canonical name → type name → nats per token.  ends: metrics of embedding and head.
    """

    damage: dict[str, dict[str, float]]
    ends: dict[str, Float[Tensor, "hidden hidden"]]


def survey(
    checkpoint: Checkpoint,
    windows: Int[Tensor, "windows position"],
    seed: int,
    kinds: Sequence[BlockType] = TARGET_TYPES,
) -> Survey:
    """Measure every matrix of the model in every type that fits it, on the tokens of `windows`."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, dict[str, float]] = {}

    def visit(seen: BlockSurvey) -> None:
        for source, moment in seen.moments.items():
            # Matrices that share an input share its factorisation, and are rounded together.
            readers = [name for name in INPUT_OF if INPUT_OF[name] == source]
            rows, importance = zip(*(_sample(seen, name, generator) for name in readers), strict=True)
            losses = _losses(torch.cat(rows), Metric.of(moment.mean()), kinds)
            for place, name in enumerate(readers):
                start = sum(len(part) for part in rows[:place])
                own = slice(start, start + len(rows[place]))
                found[f"blocks.{seen.index}.{name}.weight"] = {
                    kind: 0.5 * float(importance[place] @ loss[own]) for kind, loss in losses.items()
                }

    with track("Measuring what each type would cost", 2 * len(checkpoint.config.layers) + 1) as task:
        ends = end_metrics(checkpoint, survey_blocks(checkpoint, windows, visit, task))
    tokens = windows[:, 1:].flatten()
    for name, hessian in ends.items():
        ids = tokens[torch.randint(len(tokens), (2 * _SAMPLED_ROWS,), generator=generator)]
        losses = _losses(checkpoint.gather(name, ids), Metric.of(hessian), kinds)
        found[name] = {kind: 0.5 * float(loss.mean()) for kind, loss in losses.items()}
    return Survey(found, ends)


def end_metrics(checkpoint: Checkpoint, ends: EndSurvey) -> dict[str, Float[Tensor, "hidden hidden"]]:
    """The metric of the embedding, and of the head where it is a matrix of its own."""
    as_input = checkpoint.config.embedding_scale**2 * ends.embedded
    if head_name(checkpoint.config) == "embedding.weight":
        return {"embedding.weight": ends.head_input + as_input}
    return {"embedding.weight": as_input, "head.weight": ends.head_input}


def _sample(
    seen: BlockSurvey, name: str, generator: torch.Generator
) -> tuple[Float[Tensor, "rows in"], Float[Tensor, " rows"]]:
    """Some rows of a matrix, and how much each matters, scaled up to stand for all."""
    weight = linear_of(seen.block, name).weight.detach()
    chosen = torch.randperm(len(weight), generator=generator)[:_SAMPLED_ROWS]
    return weight[chosen], seen.importance[name][chosen] * (len(weight) / len(chosen))


def _losses(
    rows: Float[Tensor, "rows in"], metric: Metric, kinds: Sequence[BlockType]
) -> dict[str, Float[Tensor, " rows"]]:
    """(ΔW H ΔWᵀ)ᵣᵣ of each row, compensated, in each type that fits."""
    fitting = [kind for kind in kinds if kind.fits(rows.shape[1])]
    packed = {kind: compensate(rows, kind, metric.factor) for kind in fitting}
    return {kind.name: damage(decode(packed[kind], kind).sub_(rows), metric.hessian) for kind in fitting}
