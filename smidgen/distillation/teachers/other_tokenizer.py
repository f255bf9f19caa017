"""A teacher with another tokenizer: what can be learned from it, and when it cannot be asked.

Both read the same text. Where a token of both ends at one byte of it, both have read the same and say what comes next,
each in its own tokens, which have nothing to do with each other. So only the shapes of the two distributions are
compared: ULD, "Universal Logit Distillation" (Boizard et al. 2024, https://arxiv.org/abs/2402.12030, eq. 3 and 5), the
Wasserstein distance of p and q if any token is as far from any other as the next one, in closed form

    Σ_r | q₍ᵣ₎ − p₍ᵣ₎ |      over ranks r: the largest probability of one against the largest of the other, and so on

where the shorter vocabulary is filled up with zeros. Its slope along the student's logits is  q_j (s_j − Σ_i q_i s_i),
s the sign of the difference at the token's rank. Different here: beyond the first `ranks` ranks the sums of both are
compared, since sorting two vocabularies costs more than all the rest, and little probability is left there (the result
is a lower bound of the above); and positions are paired by the bytes read, not by counting tokens.

The shape alone says how sure to be, not of what: it is refused without a share of cross-entropy with the text. Refused
as well are texts with control tokens that the teacher lacks (chats: templates differ), since the teacher would not have
read what the student has, and tokenizers that never stop at the same byte.

Cost: products with both heads, and the largest `ranks` of each run of logits. A run of positions at a time.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from smidgen.distillation.objectives.losses import product
from smidgen.distillation.objectives.slopes import Ranked
from smidgen.distillation.teachers.restricted import teacher_documents
from smidgen.distillation.text.batch import Batch, Batches
from smidgen.distillation.text.paired import NO_POSITION, Paired
from smidgen.errors import SmidgenError, printable
from smidgen.model.config import ModelConfig
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.padding import first_difference
from smidgen.numerics.divergence import soft_cap_
from smidgen.shapes import Bool, Float, Int


class Reader(Protocol):
    """What is needed here of a live teacher (`distillation.teachers.live.LiveTeacher`)."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def head(self) -> Float[Tensor, "teacher_vocab teacher_hidden"]: ...

    def hidden_states(
        self, ids: Int[Tensor, "rows position"], documents: Int[Tensor, "rows position"] | None = None
    ) -> Float[Tensor, "rows position teacher_hidden"]: ...


class OtherTokenizerTeacher:
    """A live teacher, for a student with other tokens. Batches come from `Aligned`.

    vocabulary: of the student.  ranks: so many of the largest probabilities are compared one by one.
    """

    def __init__(self, teacher: Reader, vocabulary: int, ranks: int = 1024) -> None:
        self.vocabulary = vocabulary
        self._teacher, self._ranks = teacher, min(ranks, vocabulary, teacher.config.vocabulary)

    def targets(self, batch: Batch) -> "RankedTarget":
        """Of a batch in the student's tokens, with the teacher's tokens of the same text beside them."""
        if batch.teacher_ids is None or batch.teacher_positions is None:
            raise SmidgenError("A teacher with another tokenizer needs batches with its own tokens: align them first.")
        hidden = self._teacher.hidden_states(batch.teacher_ids, teacher_documents(batch))
        known = batch.teacher_positions != NO_POSITION
        taken = torch.take_along_dim(hidden, batch.teacher_positions.clamp(min=0)[..., None], 1)
        config = self._teacher.config
        return RankedTarget(taken.flatten(0, 1), known.flatten(), self._teacher.head, config.logit_cap, self._ranks)


@dataclass(frozen=True)
class RankedTarget:
    """What a teacher with other tokens says at each position of the student's. known: where it says anything."""

    hidden: Float[Tensor, "position teacher_hidden"]
    known: Bool[Tensor, " position"]
    head: Float[Tensor, "teacher_vocab teacher_hidden"]
    cap: float | None
    ranks: int

    @property
    def columns(self) -> int:
        """The teacher's tokens."""
        return len(self.head)

    def chosen(self, positions: Int[Tensor, " chosen"]) -> "RankedTarget":
        """The same at these positions only."""
        return replace(self, hidden=self.hidden[positions], known=self.known[positions])

    @torch.no_grad()
    def scores(self, run: slice, temperature: float) -> Ranked:
        """The largest probabilities at a run of positions."""
        logits = soft_cap_(product(self.hidden[run], self.head.T, False), self.cap).div_(temperature)
        top = logits.topk(self.ranks, dim=1).values
        highest = top[:, :1].clone()
        total = logits.sub_(highest).exp_().sum(1, keepdim=True)
        probabilities = top.sub_(highest).exp_().div_(total)
        return Ranked(probabilities, (1 - probabilities.sum(1)).clamp(min=0), self.known[run])


class Aligned(Paired):
    """Batches for such a student, each with the teacher's tokens of its texts and where both have read the same."""

    def __init__(self, batches: Batches, student: Tokenizer, teacher: Tokenizer) -> None:
        if first_difference(student.tokens, teacher.tokens) is None:
            raise SmidgenError("Student and teacher have the same tokens: compare their probabilities token by token.")
        opening = teacher.bos_id if teacher.adds_bos else None
        controls = dict.fromkeys(student.eos_ids, teacher.eos_id)
        if student.bos_id is not None:
            controls[student.bos_id] = opening
        super().__init__(batches, student, teacher, controls, opening)

    def pair(self, batch: Batch) -> Batch:
        """A batch of the student's tokens with the teacher's. Raises SmidgenError where they never meet."""
        paired = super().pair(batch)
        positions = paired.teacher_positions
        if positions is None or not bool(((positions != NO_POSITION) & (batch.weights != 0)).any()):
            raise SmidgenError(
                f"The tokenizers of student and teacher never stop at the same byte of {_name(batch.name)}: "
                "nothing can be learned from this teacher there. Take one with a related tokenizer, or other texts."
            )
        return paired


def _name(name: str) -> str:
    return printable(name) if name else "the text"
