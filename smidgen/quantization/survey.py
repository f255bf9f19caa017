"""What each tensor would cost in each type, measured before anything is decided.

A sample of each matrix's rows is really encoded: rounded in every type that its rows allow, and compensated, as the cut
will do it, in one of few bits, in one of more, and in a portable one. What compensation gains is about the same for
types of a kind (LOG.md). The loss of these rows, weighted by how much the model's prediction depends on each output
(`calibration.gradients`), gives the damage in nats of KL divergence per token:

    damage = ½ Σᵣ E[gᵣ²] (ΔW H ΔWᵀ)ᵣᵣ,    H weighted by token as in `calibration.moments`

Rows are drawn by their importance E[gᵣ²], so that few of them estimate the sum. What compensation gains is read off
tokens that it was not fitted to (`calibration.sample`): on those that it was, it always seems to gain. This takes
tokens as independent; errors of one window's tokens are not, and so the whole is multiplied by

    κ = Σᵣ (ΔW Fᵣ ΔWᵀ)ᵣᵣ / Σᵣ E[gᵣ²] (ΔW H ΔWᵀ)ᵣᵣ,    Fᵣ from sums over windows (`calibration.row_gradients`),

with the errors ΔW that the cut will make: 1.1 to 1.25 in most matrices, 1.2 to 2.5 in those of values (LOG.md).

The embedding is felt twice where the head is tied to it. As the head, an error Δ in row v moves one logit, and
costs ½ pᵥ(1−pᵥ) c'ᵥ² (Δ·h)², c' the slope of the soft cap; as the input it moves what enters the first block, and costs
½ (Δ·s·g)² wherever token v stands. Tokens are predicted about as often as they occur, so both add up to one metric for
all rows,

    M = E[Σ p(1−p)c'² h hᵀ] + s² E[g gᵀ],    damage = ½ Σᵥ πᵥ Δᵥ M Δᵥᵀ,    π: share of token v,

and rows sampled as the text's own tokens estimate the sum over π.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from smidgen.calibration.gradients import (
    BlockSurvey,
    EndSurvey,
    LookedUp,
    costs,
    scored_positions,
    survey_blocks,
)
from smidgen.calibration.moments import SecondMoment, linear_of
from smidgen.calibration.outputs import OutputMoment
from smidgen.calibration.row_gradients import RowGradients, draw_rows
from smidgen.calibration.sample import Sample, judging
from smidgen.calibration.walk import StateShelf
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import embed_once, head_name
from smidgen.model.parameters import LAYER_EMBEDDING, PROJECTION, block_linears, block_shapes
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.cores import on_all_cores
from smidgen.numerics.decode import decode
from smidgen.numerics.factor import damage
from smidgen.progress import track
from smidgen.quantization.compensate import compensate
from smidgen.quantization.encode import Metric
from smidgen.quantization.fitting import fitting_types
from smidgen.shapes import Bool, Float, Int, UInt8

#: What a cut chooses from unless told otherwise; llama.cpp reads them all. Q4_0 and Q4_1 can be asked for but are not
#: worth a survey: IQ4_NL has Q4_0's bytes, and did less damage than either in every matrix of the blocks (LOG.md).
TARGET_TYPES = (
    types.IQ2_XXS, types.IQ2_XS, types.IQ2_S, types.Q2_K, types.IQ3_XXS, types.IQ3_S, types.Q3_K, types.IQ4_XS,
    types.IQ4_NL, types.Q4_K, types.Q5_0, types.Q5_K, types.Q5_1, types.Q6_K, types.Q8_0,
)  # fmt: skip
_FEW_BITS = 4.0  # types below gain something else from compensation than those above
_SAMPLED_TOKENS = 256  # rows of the embedding, as often as tokens occur
_COLUMN = 4e6  # operations of a layer that take as long as encoding a column of all sampled rows in one type
_FEWEST_WINDOWS = 8  # that say how errors add up over one


#: Called with a block's number and what is known of the outputs of its matrices.
KeepOutputs = Callable[[int, dict[str, OutputMoment]], None]


@dataclass(frozen=True)
class Survey:
    """The measured damages, and what the cut needs again.

    damage: canonical name → type name → nats per token.
    token_weights: canonical name → weight of every calibration token, for matrices inside blocks.
    ends: canonical name → what their errors meet, for matrices outside of the blocks, in equal runs of columns.
    """

    damage: dict[str, dict[str, float]]
    token_weights: dict[str, Float[Tensor, " tokens"]]
    ends: dict[str, tuple[Sample, ...]]


def survey(
    checkpoint: Checkpoint,
    windows: Int[Tensor, "windows position"],
    seed: int,
    shelf: StateShelf,
    kinds: Sequence[BlockType] = TARGET_TYPES,
    keep: KeepOutputs | None = None,
) -> Survey:
    """Measure every matrix of the model in every type that fits it, on the tokens of `windows`.

    kinds: none where the damages are known already, and only what the cut needs again is wanted.
    keep: called for each block with what is known of its matrices' outputs, by canonical name.
    """
    generator = torch.Generator().manual_seed(seed)
    damages: dict[str, dict[str, float]] = {}
    token_weights: dict[str, Tensor] = {}
    tables: list[LookedUp] = []

    def visit(seen: BlockSurvey) -> None:
        if seen.looked_up is not None:
            tables.insert(0, seen.looked_up)  # blocks come last to first
        if keep is not None:
            moments = {f"blocks.{seen.index}.{name}.weight": linear.outputs() for name, linear in seen.linears.items()}
            keep(seen.index, {name: moment for name, moment in moments.items() if moment is not None})
        for name, linear in seen.linears.items():
            full_name = f"blocks.{seen.index}.{name}.weight"
            weight = linear_of(seen.block, name).weight.detach()
            chosen, share = draw_rows(linear.importance) if linear.rows is None else linear.rows.drawn
            rows, importance = weight[chosen], linear.importance[chosen] * share
            token_weights[full_name] = linear.token_weights()
            damages[full_name] = _damages(rows, importance, linear.inputs.samples(), kinds, linear.rows)

    with track("Measuring what each type would cost", _costs(checkpoint, windows, kinds)) as task:
        seen = survey_blocks(checkpoint, windows, visit, shelf, task, seed)
        ends = {name: (sample,) for name, sample in end_metrics(checkpoint, seen).items()}
    if tables:
        ends |= _looked_up(checkpoint, windows, tables)
    tokens = windows[:, 1:].flatten()
    for name, samples in ends.items():
        if name == PROJECTION:
            importance = torch.cat([table.projected for table in tables])
            chosen, share = draw_rows(importance)
            damages[name] = _damages(checkpoint.gather(name, chosen), importance[chosen] * share, samples, kinds)
            continue
        ids = tokens[torch.randint(len(tokens), (_SAMPLED_TOKENS,), generator=generator)]
        ids = ids.where(ids < checkpoint.shape(name)[0], 0)
        damages[name] = _damages(checkpoint.gather(name, ids), torch.full((len(ids),), 1 / len(ids)), samples, kinds)
    return Survey(damages, token_weights, ends)


def _looked_up(
    checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], tables: Sequence[LookedUp]
) -> dict[str, tuple[Sample, ...]]:
    """What errors of the table of the layers meet, a run of columns for each layer, and those of the projection."""
    judges, entered = judging(*windows.shape), scored_positions(checkpoint, windows)
    embedded = embed_once(checkpoint, windows[entered])
    return {
        LAYER_EMBEDDING: tuple(_of_sums((table.table, table.judging)) for table in tables),
        PROJECTION: (_of_sums((embedded, judges[entered])),),
    }


def _costs(checkpoint: Checkpoint, windows: Int[Tensor, "windows position"], kinds: Sequence[BlockType]) -> list[float]:
    """About what each step takes, in operations of a layer: the damages come on top of the backward passes."""
    config, found = checkpoint.config, costs(checkpoint, windows)
    for place, layer in enumerate(reversed(config.layers), len(found) - len(config.layers)):
        shapes = block_shapes(layer, config.hidden)
        widths = [shapes[f"{name}.weight"][1] for name in block_linears(layer)]
        found[place] += _COLUMN * sum(width * len(fitting_types(width, kinds)) for width in widths)
    return found


def end_metrics(checkpoint: Checkpoint, ends: EndSurvey) -> dict[str, Sample]:
    """What errors of the embedding meet, and those of the head where it is a matrix of its own."""
    embedded = checkpoint.config.embedding_scale * ends.embedded
    entered, predicted = (embedded, ends.judging[0]), (ends.head_input, ends.judging[1])
    if head_name(checkpoint.config) == "embedding.weight":
        return {"embedding.weight": _of_sums(entered, predicted)}
    return {"embedding.weight": _of_sums(entered), "head.weight": _of_sums(predicted)}


def _of_sums(*terms: tuple[Float[Tensor, "_rows hidden"], Bool[Tensor, " _rows"]]) -> Sample:
    """Of the sum of E[x xᵀ] over `terms`, each with its own number of rows."""
    moment, judges, tokens = 0, [], 0
    for rows, judge in terms:
        fitting, aside = rows[~judge], rows[judge]
        of_these = SecondMoment(rows.shape[1])
        of_these.add(fitting, fitting.new_ones(len(fitting)))
        moment = moment + of_these.mean()
        judges.append(aside * max(len(aside), 1) ** -0.5)
        tokens = max(tokens, len(fitting))
    assert isinstance(moment, Tensor)
    return Sample(moment, torch.cat(judges), tokens, float(tokens))


def _damages(
    rows: Float[Tensor, "rows in"],
    importance: Float[Tensor, " rows"],
    runs: Sequence[Sample],
    kinds: Sequence[BlockType],
    gradients: RowGradients | None = None,
) -> dict[str, float]:
    """½ κ Σ importance · (ΔW H ΔWᵀ)ᵣᵣ of compensated rows, in each type that they can have.

    runs: the inputs, in runs of columns. The tokens that judge say what connects them, and what compensation gains.
    gradients: of these rows, for κ; without them it is 1.
    """
    fitting = fitting_types(len(runs[0].moment), fitting_types(rows.shape[1], kinds))
    if not fitting:
        return {}
    rounded = dict.fromkeys(fitting, 0.0)
    tried = {min(alike, key=lambda kind: kind.bits_per_weight): alike for alike in _alike(fitting)}
    errors: dict[BlockType, list[tuple[Tensor, Tensor]]] = {kind: [] for kind in tried}  # rounded and compensated
    for run, columns in zip(runs, rows.split(len(runs[0].moment), dim=1), strict=True):
        metric = Metric(run)
        bold = next(iter(metric.factors()), None)
        work = partial(_encoded, columns.contiguous(), metric, bold, importance, tried)
        for kind, (loss, pair) in zip(fitting, on_all_cores(work, fitting), strict=True):
            rounded[kind] += loss
            if pair is not None:
                errors[kind].append(pair)
    gains: dict[BlockType, float] = {}
    for one, alike in tried.items():
        gains |= dict.fromkeys(alike, _gain(errors[one], importance, runs, gradients))
    return {kind.name: 0.5 * gains[kind] * loss for kind, loss in rounded.items()}


def _alike(kinds: Sequence[BlockType]) -> list[list[BlockType]]:
    """Types of which compensation gains about the same."""
    found: dict[tuple[bool, bool], list[BlockType]] = {}
    for kind in kinds:
        found.setdefault((kind.bits_per_weight < _FEW_BITS, kind in types.PORTABLE), []).append(kind)
    return list(found.values())


def _encoded(
    columns: Float[Tensor, "rows span"],
    metric: Metric,
    bold: tuple[float, Float[Tensor, "span span"]] | None,
    importance: Float[Tensor, " rows"],
    tried: Collection[BlockType],
    kind: BlockType,
) -> tuple[float, tuple[Float[Tensor, "rows span"], Float[Tensor, "rows span"]] | None]:
    """Of a run of columns, what rounding costs; for types that are `tried` also the errors of rounding and of the best.

    bold: shrinkage and factor to compensate with, if it can be judged.
    """
    error = _wrong(columns, compensate(columns, kind, metric.rounding), kind)
    loss = float(importance @ damage(error, metric.sample.moment))
    if kind not in tried:
        return loss, None
    return loss, (error, error if bold is None else _wrong(columns, metric.compensate(columns, kind, *bold), kind))


def _gain(
    errors: Sequence[tuple[Float[Tensor, "rows span"], Float[Tensor, "rows span"]]],
    importance: Float[Tensor, " rows"],
    runs: Sequence[Sample],
    gradients: RowGradients | None,
) -> float:
    """What the better of both errors costs, in terms of what the rounded runs cost one by one, token by token.

    How the two compare is read off the tokens that judge; how the better one adds up over a window, off all windows.
    """
    rounded, compensated = ([pair[way] for pair in errors] for way in (0, 1))
    if not runs[0].can_judge:
        return _adding_up(rounded, importance, runs, gradients)
    apart = float(sum(importance @ run.damage(error) for run, error in zip(runs, rounded, strict=True)))
    costs = [float(importance @ _outputs(runs, way).square().sum(0)) for way in (rounded, compensated)]
    better = rounded if costs[0] <= costs[1] else compensated
    return min(costs) / max(apart, 1e-30) * _adding_up(better, importance, runs, gradients) if apart > 0 else 1.0


def _adding_up(
    errors: Sequence[Float[Tensor, "rows span"]],
    importance: Float[Tensor, " rows"],
    runs: Sequence[Sample],
    gradients: RowGradients | None,
) -> float:
    """κ, with runs of columns apart above and below; 1 where too few windows say anything of it."""
    if gradients is None or gradients.windows < _FEWEST_WINDOWS:
        return 1.0
    together, apart, first = 0.0, 0.0, 0
    for run, error in zip(runs, errors, strict=True):
        together += float(gradients.cost(error, first))
        apart += float(importance @ damage(error, run.moment))
        first += error.shape[1]
    return together / apart if apart > 0 else 1.0


def _outputs(runs: Sequence[Sample], errors: Sequence[Float[Tensor, "rows span"]]) -> Float[Tensor, "judges rows"]:
    """What the errors of all runs together do to the outputs, for each token that judges."""
    total = runs[0].judges @ errors[0].T
    for run, error in zip(runs[1:], errors[1:], strict=True):
        total.addmm_(run.judges, error.T)
    return total


def _wrong(
    columns: Float[Tensor, "rows span"], packed: UInt8[Tensor, "rows bytes"], kind: BlockType
) -> Float[Tensor, "rows span"]:
    return decode(packed, kind).sub_(columns)
