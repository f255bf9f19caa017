"""Errors compensated across rows as well as along them: each row makes up for what the rows before it did to the model.

What one output of a layer is wrong by, others can make up for. An error Δ of the whole matrix costs

    tr(G Δ H Δᵀ),    G = E[g gᵀ]    (`calibration.outputs`)

and `quantization.compensate` minimises that as if G were diagonal. YAQA (Tseng et al. 2025, arXiv:2505.22988, section
3) rounds with feedback from both sides, by triangular factors of G and H. Here it goes from some rows to all behind
them: these rows are rounded, with compensation along them; their errors Δ_r, which can no longer be changed, are made
up for by the rows b behind, as columns do in GPTQ (arXiv:2210.17323, eq. 4):

    E = U_rr⁻ᵀ Δ_r,    W_b ← W_b − U_rbᵀ E,    UᵀU = G⁻¹

G comes from few tokens, as H does, and is trusted in part: what is beside its diagonal is shrunk.

Runs of outputs know nothing of each other, so each has a core of its own: 64 rows are too few for all cores to share.

Cost: beside that of `compensate`, rows of a run · rows · columns multiply-adds, and a factor for each run.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from smidgen.calibration.outputs import OutputMoment
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.cores import on_all_cores
from smidgen.numerics.decode import decode
from smidgen.numerics.factor import inverse_factor
from smidgen.quantization.compensate import Compensator
from smidgen.shapes import Float, UInt8

_ROWS = 64  # rounded together, without feedback among each other
_SHRINKAGE = 0.7
_DAMPING = 0.01


def output_factors(outputs: OutputMoment) -> list[Float[Tensor, "_run _run"]]:
    """U of each run of outputs."""
    return [inverse_factor(run, _DAMPING, _SHRINKAGE) for run in outputs.runs]


def compensate_both_ways(
    weight: Float[Tensor, "out in"],
    kind: BlockType,
    U: Float[Tensor, "in in"],
    across: Sequence[Float[Tensor, "_run _run"]],
) -> tuple[UInt8[Tensor, "out bytes"], Float[Tensor, "out in"]]:
    """Encode a matrix as `kind`, errors fed back along rows through U and across them through `across`.

    Returns the bytes, and what each row was to be, given the errors of those before it.
    """
    along, targets = Compensator(kind, U), weight.clone()
    runs = zip(targets.split([len(factor) for factor in across]), across, strict=True)
    packed = on_all_cores(lambda run: _compensate_run(run[0], kind, along, run[1]), list(runs))
    return torch.cat(packed), targets


def _compensate_run(
    targets: Float[Tensor, "run in"], kind: BlockType, along: Compensator, across: Float[Tensor, "run run"]
) -> UInt8[Tensor, "run bytes"]:
    """`targets` move as the rows before them are rounded."""
    errors = torch.empty_like(targets)  # E
    packed: list[Tensor] = []
    for start in range(0, len(targets), _ROWS):
        rows, before = slice(start, start + _ROWS), slice(0, start)
        target = targets[rows].addmm_(across[before, rows].T, errors[before], alpha=-1)
        packed.append(along.encode(target))
        left = target - decode(packed[-1], kind)
        errors[rows] = torch.linalg.solve_triangular(across[rows, rows].T, left, upper=False)
    return torch.cat(packed)
