"""A teacher for a student that has only some of its tokens.

Where the student lacks a token it spells it in pieces (`model.tokenizers.respelling`), and meets them in an order that
the teacher never wrote. Such a student must be trained on texts in its own spelling, and told there what comes next in
its own tokens. The teacher reads the same text in its tokens (`Paired`); wherever both have read the same bytes, its
distribution p over the next token t of its own is turned into the student's, over the next piece s:

    q(s) = p(s) [s is a token of both] + Σ p(t) over the dropped t whose spelling begins with s

That is what a text looks like whose tokens are drawn from p and then spelled. (Other than an exact marginal over texts
in two ways: a piece at a token's border may merge with what comes after it, and the teacher might itself write a token
in pieces. Both are rare, as tokenizers go.) `restrict` instead leaves the dropped tokens out and renormalises, as the
report card measures: q(s) = p(s) / Σ p(s').

Inside the spelling of a dropped token, after the pieces s₁ … sₘ, the teacher has last read the text before the token:

    q(s | s₁ … sₘ) ∝ Σ p(t) over the dropped t whose spelling begins with s₁ … sₘ s

Texts in which s₁ … sₘ are tokens of their own are not forgotten: the teacher has a position after them, which is paired
and has its say there. Over texts, the two come together in the proportion of their probabilities (Bayes), so the
student that does best is the one with the exact conditional distribution. Where the student's spelling is not that of
one token (pieces merged across a border), its target is the text's own next piece. Control tokens without a spelling
lose their mass to the others.

Cost: the product with the whole head, as for any teacher, and one pass over it. Inside spellings, a product with the
few dropped tokens that are still possible.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from smidgen.distillation.objectives.losses import Spelled, Target, product
from smidgen.distillation.teachers.live import LiveTeacher, Teacher
from smidgen.distillation.text.batch import NO_TARGET, Batch, Batches
from smidgen.distillation.text.paired import NO_POSITION, Paired
from smidgen.errors import SmidgenError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.respelling import NOT_KEPT, Respelling
from smidgen.numerics.divergence import soft_cap_
from smidgen.shapes import Float, Int

_IMPOSSIBLE = -80.0  # logarithm of the probability of what cannot come next: losses want finite numbers
_LEAST = 1e-38  # a probability relative to the highest that is told from zero
_TEXT = -1  # in `_Places.first`: the target is the text's own next token
_ANY = -2  # in `_Places.first`: both have read the same, anything may follow


def teach(
    teacher: Checkpoint, student: Checkpoint, batches: Batches, *, restrict: bool = False, quick: bool = True
) -> tuple[Teacher, Batches]:
    """A live teacher for a student of its own vocabulary or of a part of it, and the batches as it wants them.

    batches: in the student's tokens.  restrict: as for `RestrictedTeacher`.  quick: as for `LiveTeacher`.
    Raises Unsupported where the student has a token that the teacher lacks, SmidgenError for too little memory.
    """
    larger, smaller = (Tokenizer.from_gguf(checkpoint.tokenizer_metadata) for checkpoint in (teacher, student))
    respelling = Respelling.between(larger, smaller)
    live = LiveTeacher(teacher, quick=quick)
    if respelling.same and respelling.smaller == respelling.larger:
        return live, batches
    paired = Paired.respelled(batches, smaller, larger, respelling)
    return RestrictedTeacher(live, respelling, restrict=restrict), paired


class RestrictedTeacher:
    """A live teacher as a student with some of its tokens sees it. Batches come from `distillation.text.paired.Paired`.

    restrict: leave out what was dropped and renormalise, rather than move it to the first pieces.
    """

    def __init__(self, teacher: LiveTeacher, respelling: Respelling, *, restrict: bool = False) -> None:
        self._teacher, self._respelling = teacher, respelling
        self._head = _SpelledHead.of(teacher, respelling, restrict)

    @property
    def vocabulary(self) -> int:
        """The student's tokens."""
        return self._respelling.smaller

    def targets(self, batch: Batch) -> Target:
        """Of a batch in the student's tokens, with the teacher's tokens of the same text beside them."""
        if batch.teacher_ids is None or batch.teacher_positions is None:
            raise SmidgenError("a teacher of more tokens than the student needs batches with its own tokens: pair them")
        hidden = self._teacher.hidden_states(batch.teacher_ids, teacher_documents(batch)).flatten(0, 1)
        return RestrictedTarget(hidden, _places(batch, self._respelling), self._head)


def teacher_documents(batch: Batch) -> Int[Tensor, "rows teacher_position"] | None:
    """Which document each of the teacher's positions is in: that of the next one that the student has too.

    Documents end with the same byte for both. What comes after the last shared position (padding) is in its document.
    """
    if batch.apart is None or batch.teacher_ids is None or batch.teacher_positions is None:
        return None
    shared = batch.teacher_positions
    latest = int(batch.documents.max())
    found = torch.full_like(batch.teacher_ids, latest + 1)
    rows, columns = (shared >= 0).nonzero(as_tuple=True)
    found[rows, shared[rows, columns]] = batch.documents[rows, columns]
    ascending = found.flip(1).cummin(1).values.flip(1)  # documents are numbered from left to right
    return torch.minimum(ascending, found.masked_fill(found > latest, -1).amax(1, keepdim=True))


@dataclass(frozen=True)
class _Places:
    """What the targets of positions are made of.

    source: the teacher's position, in rows laid end to end.  first, stop: which of the dropped tokens are possible
    inside a spelling; first is _ANY where nothing is spelled, _TEXT where only the text tells.  after: pieces read.
    targets: the text's own next tokens.
    """

    source: Int[Tensor, " position"]
    first: Int[Tensor, " position"]
    stop: Int[Tensor, " position"]
    after: Int[Tensor, " position"]
    targets: Int[Tensor, " position"]

    def __getitem__(self, which: slice | Int[Tensor, " chosen"]) -> "_Places":
        return _Places(self.source[which], self.first[which], self.stop[which], self.after[which], self.targets[which])


def _places(batch: Batch, respelling: Respelling) -> _Places:
    """What both have read, and inside which spellings the other positions are."""
    assert batch.teacher_ids is not None
    assert batch.teacher_positions is not None
    rows, width = batch.teacher_ids.shape
    starts = torch.arange(rows, device=batch.ids.device)[:, None] * width
    shared = batch.teacher_positions != NO_POSITION
    places = _Places(
        (batch.teacher_positions + starts).flatten(), torch.where(shared, _ANY, _TEXT).flatten(),
        torch.zeros_like(batch.ids).flatten(), torch.zeros_like(batch.ids).flatten(), batch.targets.flatten(),
    )  # fmt: skip
    for place, source, possible, after in _spelled(batch, respelling):
        places.source[place], places.after[place] = source, after
        places.first[place], places.stop[place] = possible.start, possible.stop
    return places


def _spelled(batch: Batch, respelling: Respelling) -> Iterator[tuple[int, int, range, int]]:
    """The positions inside a spelling of the text: the teacher's position before it, what is possible, pieces read."""
    assert batch.teacher_ids is not None
    assert batch.teacher_positions is not None
    inside = (batch.teacher_positions == NO_POSITION) & (batch.weights != 0)
    width, teacher_width = batch.ids.shape[1], batch.teacher_ids.shape[1]
    ids, shared, taught = (part.tolist() for part in (batch.ids, batch.teacher_positions, batch.teacher_ids))
    documents = batch.documents.tolist()
    for row, place in inside.nonzero().tolist():
        before = next((earlier for earlier in range(place - 1, -1, -1) if shared[row][earlier] != NO_POSITION), None)
        if before is None or documents[row][before] != documents[row][place]:
            continue
        position = shared[row][before]
        rank = int(respelling.ranks[taught[row][position + 1]]) if position + 1 < teacher_width else NOT_KEPT
        pieces = tuple(ids[row][before + 1 : place + 1])
        if rank == NOT_KEPT or pieces != respelling.spellings[rank][: len(pieces)]:
            continue
        possible = respelling.beginning_with(pieces)
        if rank in possible:
            yield row * width + place, row * teacher_width + position, possible, len(pieces)


@dataclass(frozen=True)
class _SpelledHead:
    """The teacher's head, and what its tokens are for the student.

    rows: of the head; those of the student's tokens alone if dropped ones are left out.  members, starts: which of the
    rows make up each of the student's tokens, token by token (no row makes up padding); None if each is one.
    dropped: the rows of the whole head of `Respelling.dropped`.
    """

    head: Float[Tensor, "teacher_vocab teacher_hidden"]
    rows: Float[Tensor, "_rows teacher_hidden"]
    cap: float | None
    respelling: Respelling
    members: Int[Tensor, " members"] | None
    starts: Int[Tensor, " vocab"] | None

    @classmethod
    def of(cls, teacher: LiveTeacher, respelling: Respelling, restrict: bool) -> "_SpelledHead":
        head, cap = teacher.head, teacher.config.logit_cap
        has = np.flatnonzero(respelling.kept != NOT_KEPT)
        if restrict and len(has) == respelling.smaller:
            kept = torch.from_numpy(respelling.kept).to(head.device)
            return cls(head, head[kept], cap, respelling, None, None)
        spelled = (respelling.first[:0], respelling.dropped[:0]) if restrict else (respelling.first, respelling.dropped)
        pieces = np.concatenate([has, spelled[0]])
        order = np.argsort(pieces, kind="stable")
        members = np.concatenate([respelling.kept[has], spelled[1]])[order]
        starts = np.searchsorted(pieces[order], np.arange(respelling.smaller))
        members, starts = (torch.from_numpy(part).to(head.device) for part in (members, starts))
        return cls(head, head, cap, respelling, members, starts)

    def anything(self, hidden: Float[Tensor, "position teacher_hidden"]) -> Float[Tensor, "position vocab"]:
        """Logarithms of what each of the student's tokens weighs where any may follow."""
        if self.members is None:
            return soft_cap_(product(hidden, self.rows.T, False), self.cap)
        weights = soft_cap_(product(self.rows, hidden.to(self.rows.dtype).T, False), self.cap)
        weights.sub_(weights.amax(0)).exp_()  # [token, position]: sums over tokens are then sums of rows
        summed = functional.embedding_bag(self.members, weights, self.starts, mode="sum")
        return summed.clamp_(min=_LEAST).log_().T.contiguous()

    def inside(
        self, hidden: Float[Tensor, " teacher_hidden"], possible: range, after: int
    ) -> tuple[Int[Tensor, " pieces"], Float[Tensor, " pieces"]]:
        """Which pieces may come next inside a spelling, and the logarithms of their probabilities."""
        rows = torch.from_numpy(self.respelling.dropped[possible.start : possible.stop]).to(hidden.device)
        logits = soft_cap_(product(hidden[None], self.head[rows].T, False), self.cap)[0]
        pieces = torch.from_numpy(self.respelling.next_pieces(possible, after)).to(hidden.device)
        distinct, which = pieces.unique(return_inverse=True)
        summed = torch.zeros(len(distinct), device=hidden.device).index_add_(0, which, logits.softmax(0))
        return distinct, summed.clamp_(min=_LEAST).log_()


@dataclass(frozen=True)
class RestrictedTarget:
    """The teacher's distributions as the student sees them. hidden: at the teacher's positions, rows end to end."""

    hidden: Float[Tensor, "teacher_position teacher_hidden"]
    places: _Places
    head: _SpelledHead

    @property
    def columns(self) -> int:
        """The teacher's tokens that the student's are made of."""
        return len(self.head.rows)

    def chosen(self, positions: Int[Tensor, " chosen"]) -> "RestrictedTarget":
        """The same at these positions only."""
        return replace(self, places=self.places[positions])

    @torch.no_grad()
    def scores(self, run: slice, temperature: float) -> Float[Tensor, "position vocab"] | Spelled:
        """Logarithms of probabilities up to a constant, divided by the temperature."""
        places = self.places[run]
        free = (places.first == _ANY).nonzero()[:, 0]
        found = self.head.anything(self.hidden[places.source[free]])
        if temperature != 1:
            found.div_(temperature)
        if len(free) == len(places.first):
            return found
        scores = found.new_full((len(places.first), found.shape[1]), _IMPOSSIBLE)
        scores[free] = found
        text = ((places.first == _TEXT) & (places.targets != NO_TARGET)).nonzero()[:, 0]
        scores[text, places.targets[text]] = 0
        for row in (places.first >= 0).nonzero()[:, 0].tolist():
            possible = range(int(places.first[row]), int(places.stop[row]))
            pieces, logs = self.head.inside(self.hidden[places.source[row]], possible, int(places.after[row]))
            scores[row, pieces] = logs / temperature
        return Spelled(scores, places.first != _ANY)
