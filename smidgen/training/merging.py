"""An adapter put into the model that it was trained beside, which keeps its types.

Where weights have 16 bits or more, W + s·B·A is stored as it is. On a lattice of few bits most of what an adapter
changes is less than half a step of a code, and rounding loses nearly all that was learned. But other codes of the same
lattice can say the same: so the sum is written in 16 bits, and the rounded model learns to predict what that predicts
(forward KL divergence) through its lattice (`distillation.students.lattice`), on the examples that the adapter was
trained on. It begins at the codes nearest to the sum, inside their cells where the sum lies. The matrices that have an
adapter learn; all others stay as they are.
"""

from contextlib import ExitStack
from dataclasses import dataclass

import torch

from smidgen.distillation.loop.memory import EACH
from smidgen.distillation.loop.plan import checkpoint_room
from smidgen.distillation.loop.trainer import Reports, Trainer, TrainingOptions
from smidgen.distillation.loop.watch import Measured
from smidgen.distillation.objectives.losses import DistillObjective
from smidgen.distillation.students.lattice import LatticeStudent, careful_rate
from smidgen.distillation.students.lora import Adapted
from smidgen.distillation.teachers.remembering import RememberingTeacher
from smidgen.distillation.team.team import Team
from smidgen.distillation.text.batch import Batches
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Derived, Part, write_derived
from smidgen.formats.frozen import frozen_bytes
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.workspace import Workspace
from smidgen.memory import total_memory
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.precision import is_quick

_EVALUATIONS, _SAVES = 4, 10
_MEMORY_SHARE = 0.7  # of the machine's memory that training may take


@dataclass(frozen=True)
class MergeOptions:
    """steps: batches to learn from.  rows_at_once: of a batch, computed together."""

    steps: int
    rows_at_once: int
    seed: int
    gradient_checkpointing: bool = False


def is_on_lattice(checkpoint: Checkpoint, adapted: Adapted) -> bool:
    """Whether rounding would lose something of an adapter."""
    return any(checkpoint.kind(name) in GRIDS for name in adapted.names)


def merging_bytes(checkpoint: Checkpoint, adapted: Adapted) -> int:
    """Memory that the weights take while an adapter is trained into a lattice, and all that learns of them; about.

    The adapter, what learns, the student's other matrices, and its teacher.
    """
    trained = sum(rows * columns for rows, columns in map(checkpoint.shape, adapted.names))
    return EACH["codes"] * trained + 3 * frozen_bytes(checkpoint)


def fits_in_memory(checkpoint: Checkpoint, adapted: Adapted) -> bool:
    """Whether this machine can train an adapter into a lattice."""
    return merging_bytes(checkpoint, adapted) <= _MEMORY_SHARE * total_memory()


def disk_needed(checkpoint: Checkpoint, adapted: Adapted) -> int:
    """Bytes that `trained_in` takes of a disk: the sum in 16 bits, the rounded model, and checkpoints."""
    trained = sum(rows * columns for rows, columns in map(checkpoint.shape, adapted.names))
    return 2 * checkpoint.file.size + 2 * trained + checkpoint_room(trained)


def trained_in(
    adapted: Adapted,
    checkpoint: Checkpoint,
    batches: Batches,
    measured: Measured,
    options: MergeOptions,
    workspace: Workspace,
    team: Team,
    resume: bool,
) -> dict[str, Part]:
    """What of `checkpoint` has to change, in the types that it has, to predict as `adapted` does.

    measured: on what the state that is kept is chosen.  workspace: for files and checkpoints.
    """
    files = workspace.folder / "sum.gguf", workspace.folder / "rounded.gguf"
    if team.writes:
        for file, parts in zip(files, (adapted.parts(), adapted.parts_in(checkpoint)), strict=True):
            write_derived(checkpoint, Derived(checkpoint.config, parts), file, {"step": "merge"})
    team.same(0)  # now they are there
    with ExitStack() as stack:
        whole, rounded = (stack.enter_context(open_checkpoint(file)) for file in files)
        student = LatticeStudent(rounded, lambda name: name in adapted.names, original=whole)
        objective = DistillObjective(RememberingTeacher(whole), bf16=is_quick(torch.device("cpu")))
        training = TrainingOptions(
            options.steps, careful_rate(options.steps), rows_at_once=options.rows_at_once,
            gradient_checkpointing=options.gradient_checkpointing,
            checkpoint_every=max(1, options.steps // _SAVES), seed=options.seed,
        )  # fmt: skip
        every = max(1, options.steps // _EVALUATIONS)
        Trainer(
            student, objective, batches, training, workspace.folder / "training",
            watch=measured.watch(student, every),
            reports=Reports("Merging"), team=team,
        ).run(resume)  # fmt: skip
        return student.parts()
