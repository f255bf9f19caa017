"""What one step of training reads: tokens, what should come after them, and how much each prediction counts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from smidgen.shapes import Float, Int

#: In `Batch.targets`: the text does not say what comes after this position.
NO_TARGET = -1


@dataclass(frozen=True)
class Batch:
    """Rows of tokens.

    targets: the token after each position, or NO_TARGET.  weights: of the prediction made at each position, 0 for none.
    documents: number of the document that each position belongs to, from left to right; below 0 for padding.
    name: which texts these are, for error messages.
    teacher_ids: where the teacher has other tokens, its own of the same text (any length).  teacher_positions: at which
    of its positions the teacher has read exactly what the student has, −1 for none.
    """

    ids: Int[Tensor, "rows position"]
    targets: Int[Tensor, "rows position"]
    weights: Float[Tensor, "rows position"]
    documents: Int[Tensor, "rows position"]
    name: str = ""
    teacher_ids: Int[Tensor, "rows teacher_position"] | None = None
    teacher_positions: Int[Tensor, "rows position"] | None = None

    @property
    def apart(self) -> Int[Tensor, "rows position"] | None:
        """`documents` where a row holds several, whose tokens must not see each other. Else None, for then causal
        attention needs no mask, which is quicker.
        """
        others = (self.documents != self.documents[:, :1]) & (self.documents >= 0)
        return self.documents if bool(others.any()) else None

    def weight(self) -> float:
        """Sum of all weights: what the loss of the whole step is divided by."""
        return float(self.weights.sum())

    def rows(self, part: slice | Int[Tensor, " some"]) -> "Batch":
        """Some of the rows."""
        return self._each(lambda field: field[part])

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return self._each(lambda field: field.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        fields = {name: field for name, field in vars(self).items() if isinstance(field, Tensor)}
        return replace(self, **{name: change(field) for name, field in fields.items()})


class Batches(Protocol):
    """All batches of a training, in order."""

    def batch(self, step: int) -> Batch:
        """That of a step, from 0. A pure function of the step: who resumes needs to know nothing else."""
        ...
