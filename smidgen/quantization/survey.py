"""What each tensor would cost in each type, measured before anything is decided.

A sample of each matrix's rows is really encoded: rounded in every type that its rows allow, and compensated, as the cut
will do it, in one. What compensation gains is about the same for all types (LOG.md). The loss of these rows, weighted
by how much the model's prediction depends on each output (`calibration.gradients`), gives the damage in nats of KL
divergence per token:

    damage = ½ Σᵣ E[gᵣ²] (ΔW H ΔWᵀ)ᵣᵣ,    H weighted by token as in `calibration.moments`

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

from smidgen.calibration.gradients import BlockSurvey, EndSurvey, steps, survey_blocks
from smidgen.calibration.moments import linear_of
from smidgen.calibration.walk import StateShelf
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import head_name
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.numerics.factor import damage
from smidgen.progress import track
from smidgen.quantization.compensate import compensate
from smidgen.quantization.encode import Metric
from smidgen.quantization.fitting import fitting_types
from smidgen.shapes import Float, Int

#: What a cut chooses from unless told otherwise; llama.cpp reads them all. Q4_0 and Q4_1 can be asked for but are not
#: worth a survey: IQ4_NL has Q4_0's bytes, and did less damage than either in every matrix of the blocks (LOG.md).
TARGET_TYPES = (types.IQ4_NL, types.Q4_K, types.Q5_0, types.Q5_K, types.Q5_1, types.Q6_K, types.Q8_0)
_SAMPLED_ROWS = 128


@dataclass(frozen=True)
class Survey:
    """The measured damages, and what the cut needs again.

    damage: canonical name → type name → nats per token.
    token_weights: canonical name → weight of every calibration token, for matrices inside blocks.
    ends: canonical name → metric, for embedding and head.
    """

    damage: dict[str, dict[str, float]]
    token_weights: dict[str, Float[Tensor, " tokens"]]
    ends: dict[str, Float[Tensor, "hidden hidden"]]


def survey(
    checkpoint: Checkpoint,
    windows: Int[Tensor, "windows position"],
    seed: int,
    shelf: StateShelf,
    kinds: Sequence[BlockType] = TARGET_TYPES,
) -> Survey:
    """Measure every matrix of the model in every type that fits it, on the tokens of `windows`.

    kinds: none where the damages are known already, and only what the cut needs again is wanted.
    """
    generator = torch.Generator().manual_seed(seed)
    damages: dict[str, dict[str, float]] = {}
    token_weights: dict[str, Tensor] = {}

    def visit(seen: BlockSurvey) -> None:
        for name, linear in seen.linears.items():
            full_name = f"blocks.{seen.index}.{name}.weight"
            weight = linear_of(seen.block, name).weight.detach()
            chosen = torch.randperm(len(weight), generator=generator)[:_SAMPLED_ROWS]
            importance = linear.importance[chosen] * (len(weight) / len(chosen))
            token_weights[full_name] = linear.token_weights()
            hessians = [moment.mean() for moment in linear.moments]
            damages[full_name] = _damages(weight[chosen], importance, hessians, kinds)

    with track("Measuring what each type would cost", steps(checkpoint, windows)) as task:
        ends = end_metrics(checkpoint, survey_blocks(checkpoint, windows, visit, shelf, task))
    tokens = windows[:, 1:].flatten()
    for name, hessian in ends.items():
        ids = tokens[torch.randint(len(tokens), (2 * _SAMPLED_ROWS,), generator=generator)]
        importance = torch.full((len(ids),), 1 / len(ids))
        damages[name] = _damages(checkpoint.gather(name, ids), importance, [hessian], kinds)
    return Survey(damages, token_weights, ends)


def end_metrics(checkpoint: Checkpoint, ends: EndSurvey) -> dict[str, Float[Tensor, "hidden hidden"]]:
    """The metric of the embedding, and of the head where it is a matrix of its own."""
    as_input = checkpoint.config.embedding_scale**2 * ends.embedded
    if head_name(checkpoint.config) == "embedding.weight":
        return {"embedding.weight": ends.head_input + as_input}
    return {"embedding.weight": as_input, "head.weight": ends.head_input}


def _damages(
    rows: Float[Tensor, "rows in"],
    importance: Float[Tensor, " rows"],
    hessians: Sequence[Float[Tensor, "span span"]],
    kinds: Sequence[BlockType],
) -> dict[str, float]:
    """½ Σ importance · (ΔW H ΔWᵀ)ᵣᵣ of compensated rows, in each type that they can have.

    hessians: of runs of columns; what connects the runs is taken as 0.
    """
    fitting = fitting_types(rows.shape[1], kinds)
    if not fitting:
        return {}
    rounded, compensated = dict.fromkeys(fitting, 0.0), 0.0
    smallest = min(fitting, key=lambda kind: kind.bits_per_weight)
    for hessian, columns in zip(hessians, rows.split(len(hessians[0]), dim=1), strict=True):
        columns, metric = columns.contiguous(), Metric.of(hessian)
        for kind in fitting:
            rounded[kind] += _loss(columns, kind, metric.rounding, hessian, importance)
        assert metric.factor is not None
        compensated += _loss(columns, smallest, metric.factor, hessian, importance)
    gain = 1.0 if rounded[smallest] <= compensated else compensated / rounded[smallest]
    return {kind.name: 0.5 * gain * loss for kind, loss in rounded.items()}


def _loss(
    rows: Float[Tensor, "rows in"],
    kind: BlockType,
    factor: Tensor,
    hessian: Float[Tensor, "in in"],
    importance: Float[Tensor, " rows"],
) -> float:
    return float(importance @ damage(decode(compensate(rows, kind, factor), kind).sub_(rows), hessian))
