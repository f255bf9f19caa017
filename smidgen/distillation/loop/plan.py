"""What a training will do, decided once: shown when it begins, kept in its workspace, and carried out however often it
is interrupted.

Some of it depends on the machine and the moment (how many steps fit into a time), and all of it on the version of
smidgen. A resumed training that decided again would be another one.

A learning rate says how far a step moves what learns. In a quantized model that is counted in codes
(`students.lattice`), and a code changes where half a one has come together, so what is a usual rate elsewhere does
nothing there. With Adam a step moves a place by the rate at most; the sum over the schedule bounds how far one comes.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from smidgen.distillation.loop.optimizer import schedule_factor
from smidgen.distillation.loop.trainer import TrainingOptions
from smidgen.distillation.students.lattice import careful_rate
from smidgen.errors import SmidgenError, printable
from smidgen.formats.workspace import Workspace
from smidgen.progress import say
from smidgen.sizes import format_size

#: In what a learning rate is counted: weights as they are, the thin matrices of an adapter, or codes of a lattice.
Counted = Literal["weights", "adapter", "codes"]

_MOST_PASSES = 4  # Muennighoff et al. 2023, arXiv:2305.16264: up to four epochs are nearly as good as new text
_HALF_A_CODE = 0.5
_IDLE = 0.1  # of the way to a code, or of what the usual rate does: less is nothing
_IN_WORDS = {"weights": "of the weights", "adapter": "of the adapter", "codes": "in codes of the model's types"}
_PART = "plan"


def decided(workspace: Workspace, decide: Callable[[], TrainingOptions]) -> TrainingOptions:
    """The plan of the training that `workspace` belongs to: as it was decided when that began, or decided now."""
    known = workspace.load_json(_PART)
    if known is None:
        known = asdict(decide())
        workspace.save_json(_PART, known)
    names = {field.name for field in fields(TrainingOptions)}
    return TrainingOptions(**{name: value for name, value in known.items() if name in names})


def tell(plan: TrainingOptions, counted: Counted) -> None:
    """Say it in a line."""
    saved = f", a checkpoint every {plan.checkpoint_every}" if plan.checkpoint_every else ""
    averaged = f", states of {plan.average_over} steps averaged" if plan.average_over > 1 else ""
    say(
        f"Plan: {plan.steps} steps{saved}; learning rate {plan.learning_rate:.2g} {_IN_WORDS[counted]}, "
        f"{plan.schedule}{averaged}."
    )


def warning_of_passes(passes: float) -> list[str]:
    """A line where a text is read more often than it is good for; or no line."""
    if passes <= _MOST_PASSES:
        return []
    return [
        f"The text is read {passes:.1f} times. After about {_MOST_PASSES} passes little is learned but the text "
        "itself: give more of it, or fewer steps."
    ]


def refuse_idle_rate(plan: TrainingOptions, counted: Counted) -> list[str]:
    """A line where a rate in codes changes no code, only what is beside them; or no line.

    Raises SmidgenError where it does nothing at all.
    """
    if counted != "codes":
        return []
    reach, usual = _reach(plan), careful_rate(plan.steps)
    wanted = min(_HALF_A_CODE, usual * reach / plan.learning_rate)
    if reach >= wanted:
        return []
    what = (
        f"--lr {plan.learning_rate:g} moves the weights of this quantized model by at most {reach:.2g} of a code in "
        f"{plan.steps} steps, and a code changes at half a one"
    )
    choose = f"Its rates are counted in codes a step: leave out --lr (that is {usual:.2g}), or choose about that."
    if reach < _IDLE * wanted:
        raise SmidgenError(f"{what}: nothing would be learned. {choose}")
    return [f"{what}: only scales and norms learn. {choose}"]


def _reach(plan: TrainingOptions) -> float:
    """How far a place can come at most, in codes."""
    shares = ((step + 1) / plan.steps for step in range(plan.steps))
    return plan.learning_rate * sum(schedule_factor(plan.schedule, share, plan.warmup, plan.floor) for share in shares)


@dataclass(frozen=True)
class Room:
    """What a work will need of a disk, in bytes: for checkpoints, and for what it writes beside them."""

    checkpoints: int
    others: int = 0

    def refuse_full(self, folder: Path) -> None:
        """Raises SmidgenError where the disk of `folder`, which is there, has less. What lies in it already counts."""
        there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        needed, free = self.checkpoints + self.others, shutil.disk_usage(folder).free
        if needed > free + there:
            raise SmidgenError(
                f"The disk of {printable(folder)} has {format_size(free)} free. This work needs about "
                f"{format_size(needed)}: {format_size(self.checkpoints)} for checkpoints, which go in the end, and "
                f"{format_size(self.others)} for models that it writes. Make room, or choose another folder with -o."
            )


def checkpoint_room(trained: int, *, slots: int = 2, averaged: bool = False) -> int:
    """Bytes that checkpoints of so many trained numbers take at most. slots: numbers that the optimizer keeps of each.

    While a checkpoint is written the one before is still there; the best state is a file of its own.
    """
    state = 4 * trained
    checkpoint = state * (1 + slots + averaged)
    return 2 * checkpoint + 2 * state
