"""A teacher for a student that has its tokens, but other rows of padding (`model.tokenizers.padding`).

Ids mean the same in both, so texts need no pairing. The teacher's distribution is that over the tokens, renormalised;
the student's padding is taught to be impossible, since it would otherwise be written one day. Where a student has
written such a row itself, the teacher reads its token 0 there.

Cost: as for a live teacher, and one more buffer of logits.
"""

from dataclasses import dataclass, replace

import torch

from smidgen.distillation.objectives.losses import DenseTarget
from smidgen.distillation.teachers.live import LiveTeacher
from smidgen.distillation.text.batch import Batch
from smidgen.model.tokenizer import Tokenizer
from smidgen.shapes import Float, Int

_IMPOSSIBLE = -80.0  # below the likeliest token's score, in nats: losses want finite numbers


class PaddedTeacher:
    """A live teacher as a student of the same tokens and of other padding sees it. Batches are in the student's."""

    def __init__(self, teacher: LiveTeacher, student: Tokenizer) -> None:
        self.vocabulary = len(student)
        self._teacher = teacher
        ids = torch.arange(len(student))
        padding = torch.isin(ids, torch.tensor(sorted(student.padding), dtype=torch.long))
        head = teacher.head
        self._tokens = ids[~padding].to(head.device)
        self._read = ids.masked_fill(padding, 0).to(head.device)
        self._head = head[: len(self._tokens)] if bool(padding[len(self._tokens) :].all()) else head[self._tokens]

    def targets(self, batch: Batch) -> "PaddedTarget":
        """Of a batch in tokens that both have."""
        hidden = self._teacher.hidden_states(self._read[batch.ids], batch.apart)
        known = DenseTarget(hidden.flatten(0, 1), self._head, self._teacher.config.logit_cap)
        return PaddedTarget(known, self._tokens, self.vocabulary)


@dataclass(frozen=True)
class PaddedTarget:
    """The teacher's distributions over the tokens, as scores for all of the student's rows.

    tokens: ids of the rows that `known` speaks of.  vocabulary: the student's rows.
    """

    known: DenseTarget
    tokens: Int[torch.Tensor, " tokens"]
    vocabulary: int

    @property
    def columns(self) -> int:
        """The rows that student or teacher has, whichever are more."""
        return max(self.vocabulary, self.known.columns)

    def chosen(self, positions: Int[torch.Tensor, " chosen"]) -> "PaddedTarget":
        """The same at these positions only."""
        return replace(self, known=self.known.chosen(positions))

    def scores(self, run: slice, temperature: float) -> Float[torch.Tensor, "position vocab"]:
        """Logits divided by the temperature; those of padding lie far below the highest."""
        found = self.known.scores(run, temperature)
        scores = (found.amax(1, keepdim=True) + _IMPOSSIBLE).repeat(1, self.vocabulary)
        scores[:, self.tokens] = found
        return scores
