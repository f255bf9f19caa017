"""The loss of a student whose output head reads hidden states, in bounded memory; and what training makes small.

The loss is fused with the head: a run of positions at a time gets its logits, which become in place the slope of the
loss along them (`distillation.objectives.slopes`), and this goes at once back through the head, to the hidden states
and to the head's weights. Backward has nothing left to do. What is kept is as large as these two, never tokens ×
vocabulary (as in Cut Cross-Entropy, Wijmans et al. 2024, https://arxiv.org/abs/2411.09009, and Liger Kernel, Hsu et al.
2024, https://arxiv.org/abs/2410.10989). Teachers say what they know of the same run (`Target`), at the same time.

Cost: three products with the head, two where it is not trained, and one with the teacher's; they are what takes the
time. Memory beside the slopes: two buffers of at most 64 MB for the logits of both, whichever has more tokens, and
small change.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from smidgen.distillation.objectives.matching import Matching
from smidgen.distillation.objectives.slopes import (
    Divergence,
    Drawn,
    Listed,
    Losses,
    Ranked,
    Spelled,
    Taught,
    losses_and_slopes_,
)
from smidgen.distillation.text.batch import NO_TARGET, Batch
from smidgen.model.decoder import Decoder
from smidgen.numerics.divergence import soft_cap_
from smidgen.numerics.precision import quick_layers, quick_products
from smidgen.shapes import Float, Int

__all__ = [
    "DenseTarget", "DistillObjective", "Divergence", "Drawn", "LanguageObjective", "Listed", "Ranked", "Spelled",
    "Target", "Teaches", "head_loss",
]  # fmt: skip

_LOGITS = 2**24  # at a time: 64 MB, 64 positions of a vocabulary of 262,144
_BLOCK = 2**20  # of these so many at a time go through softmax and slope, so that they stay in the processor's caches


class Target(Protocol):
    """A teacher's next-token distributions at the positions of a batch, rows laid end to end."""

    @property
    def columns(self) -> int:
        """How many numbers `scores` works with at a position: mostly the teacher's tokens."""
        ...

    def chosen(self, positions: Int[Tensor, " chosen"]) -> "Target":
        """The same at these positions only: those that count at all."""
        ...

    def scores(self, run: slice, temperature: float) -> Taught:
        """The distributions at a run of positions, softened by `temperature`, over the student's vocabulary.

        Either scores whose softmax they are (logits after the soft cap, divided by the temperature; or logarithms of
        probabilities), finite, float32, in a new tensor that the caller overwrites; or the same with places marked
        where nearly nothing is possible (`Spelled`); or the probabilities of a few tokens (`Listed`, `Ranked`). A
        target that cannot be softened raises SmidgenError.
        """
        ...


@dataclass(frozen=True)
class DenseTarget:
    """A live teacher: what its head reads at each position, and the head.

    head: its rows are the student's tokens, in their order. Where the student has only some of the teacher's, give
    those rows: the distribution is then the teacher's among them alone. If it is bfloat16, so are the products.
    cap: its soft cap.  quick: factors of a float32 product may be rounded to bfloat16.
    offsets: added to the logits after the cap, one for each token.
    """

    hidden: Float[Tensor, "position teacher_hidden"]
    head: Float[Tensor, "vocab teacher_hidden"]
    cap: float | None = None
    quick: bool = False
    offsets: Float[Tensor, " vocab"] | None = None

    @property
    def columns(self) -> int:
        """Rows of the head."""
        return len(self.head)

    def chosen(self, positions: Int[Tensor, " chosen"]) -> "DenseTarget":
        """The same at these positions only."""
        return replace(self, hidden=self.hidden[positions])

    def scores(self, run: slice, temperature: float) -> Float[Tensor, "position vocab"]:
        """Logits after the cap, divided by the temperature."""
        with torch.no_grad():
            logits = soft_cap_(product(self.hidden[run], self.head.T, self.quick), self.cap)
            if self.offsets is not None:
                logits.add_(self.offsets)
            return logits if temperature == 1 else logits.div_(temperature)


def head_loss(
    hidden: Float[Tensor, "position hidden"],
    head: Float[Tensor, "vocab hidden"],
    cap: float | None,
    target: Target | None,
    targets: Int[Tensor, " position"],
    weights: Float[Tensor, " position"],
    divergence: Divergence | None = None,
    quick: bool = False,
    offsets: Float[Tensor, " vocab"] | None = None,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """The sum of weight · loss over all positions, with its slope for `hidden` and `head`; and sums to be reported.

    target: None for cross-entropy alone.  targets: next tokens; where NO_TARGET, there is no cross-entropy.
    divergence: the forward one unless given.  quick: factors of the head's products may be rounded to bfloat16; sums,
    and all of softmax, are float32.  offsets: added to the student's logits after the cap, one for each token.
    Reported are "cross_entropy" and, with a teacher of the same tokens, "kl": forward, at the loss's temperature; each
    the mean over the positions that have it, times the sum of weights. Positions of weight 0 cost nothing. Not to be
    called within autocast.
    """
    counts = weights != 0
    if target is None:
        counts &= targets != NO_TARGET
    positions = counts.nonzero()[:, 0]
    rows = _Rows(
        None if target is None else target.chosen(positions), targets[positions], weights[positions].float(), cap,
        divergence or Divergence(), quick, offsets,
    )  # fmt: skip
    loss, found = _HeadLoss.apply(hidden[positions], head, rows)
    return loss, _reported(found, rows, float(weights.sum()))


@dataclass(frozen=True)
class _Rows:
    """All that is known of the positions that count, except what the student says."""

    target: Target | None
    targets: Int[Tensor, " position"]
    weights: Float[Tensor, " position"]
    cap: float | None
    divergence: Divergence
    quick: bool
    offsets: Float[Tensor, " vocab"] | None


class _HeadLoss(torch.autograd.Function):
    """Head, loss and both slopes in one go; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Float[Tensor, "position hidden"], head: Float[Tensor, "vocab hidden"], rows: _Rows
    ) -> tuple[Float[Tensor, ""], Losses]:
        """Walks over runs of positions; over an empty one where nothing counts, since processes that train together
        have to make the same exchanges and report the same sums.
        """
        hidden_slopes, head_slope, found = [], None, []
        length = positions_at_once(_LOGITS, len(head), rows.target)
        for start in range(0, max(1, len(hidden)), length):
            run = slice(start, start + length)
            logits = product(hidden[run], head.T, rows.quick)
            found.append(_slopes_(logits, rows, run))
            slopes = logits.to(head.dtype)
            if hidden.requires_grad:
                hidden_slopes.append(product(slopes, head, rows.quick).to(hidden.dtype))
            if head.requires_grad:
                head_slope = _added(head_slope, slopes, hidden[run].to(head.dtype), rows.quick)
        losses = _joined(found)
        ctx.slopes = torch.cat(hidden_slopes) if hidden_slopes else None, head_slope
        return (losses.loss * rows.weights).sum(), losses

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """The slopes found, times that of whatever the loss goes into. Once only: they are scaled in place."""
        of_hidden, of_head = ctx.slopes
        ctx.slopes = None
        return _scaled(of_hidden, slopes[0]), _scaled(of_head, slopes[0]), None


def positions_at_once(most: int, vocabulary: int, target: Target | None) -> int:
    """Of how many positions the logits of student and teacher are at most so many numbers each."""
    return max(1, most // max(vocabulary, 1 if target is None else target.columns))


def _scaled(slopes: Tensor | None, factor: Tensor) -> Tensor | None:
    return None if slopes is None else slopes.mul_(factor)


def product(
    left: Float[Tensor, "rows inner"], right: Float[Tensor, "inner cols"], quick: bool
) -> Float[Tensor, "rows cols"]:
    """In the number format of `right`, as a new float32 tensor."""
    with _rounding(quick):
        return (left.to(right.dtype) @ right).float()


def _rounding(quick: bool) -> AbstractContextManager[None]:
    return quick_products() if quick else nullcontext()


def _added(
    total: Float[Tensor, "vocab hidden"] | None,
    slopes: Float[Tensor, "position vocab"],
    states: Float[Tensor, "position hidden"],
    quick: bool,
) -> Float[Tensor, "vocab hidden"]:
    """The slope of the head with that of a run added in place: it is as large as the head, and should pass once."""
    with _rounding(quick):
        return slopes.T @ states if total is None else total.addmm_(slopes.T, states)


def _slopes_(logits: Float[Tensor, "position vocab"], rows: _Rows, run: slice) -> Losses:
    """Turns the logits of a run into slopes, a few positions at a time."""
    taught = None if rows.target is None else rows.target.scores(run, rows.divergence.temperature)
    targets, weights = rows.targets[run], rows.weights[run]
    length = max(1, _BLOCK // logits.shape[1] if logits.device.type == "cpu" else len(logits))
    found = []
    for start in range(0, max(1, len(logits)), length):
        where = slice(start, start + length)
        part = taught[where] if isinstance(taught, Tensor) else None if taught is None else taught.part(where)
        some = logits[where], rows.cap, part, targets[where], weights[where], rows.divergence, rows.offsets
        found.append(losses_and_slopes_(*some))
    return _joined(found)


def _joined(found: list[Losses]) -> Losses:
    """One after the other."""
    kl = [part.kl for part in found if part.kl is not None]
    return Losses(
        torch.cat([part.loss for part in found]),
        torch.cat(kl) if kl else None,
        torch.cat([part.cross_entropy for part in found]),
    )


def _reported(losses: Losses, rows: _Rows, weight: float) -> dict[str, float]:
    """As `head_loss` promises."""
    on_text = float(rows.weights[rows.targets != NO_TARGET].sum())
    sums = {"cross_entropy": float(losses.cross_entropy @ rows.weights) * (weight / on_text if on_text else 0.0)}
    if rows.target is not None and losses.kl is not None:
        sums["kl"] = float(losses.kl @ rows.weights)
    return sums


class Teaches(Protocol):
    """What is needed here of a teacher (`distillation.teachers.live`)."""

    def targets(self, batch: Batch) -> Target:
        """What it says at each position of a batch, rows laid end to end."""
        ...


class LanguageObjective:
    """Cross-entropy with the text's own next tokens. bf16: compute in bfloat16 where that is quick."""

    def __init__(self, bf16: bool = False) -> None:
        self._bf16 = bf16

    def __call__(self, decoder: Decoder, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """The sum of weight · cross-entropy, and "cross_entropy"."""
        return _loss_of(decoder, batch, None, Divergence(), self._bf16)


class DistillObjective:
    """A divergence from a teacher, and perhaps cross-entropy with the text and matching of what is inside.

    bf16: as for `LanguageObjective`.  matching: with this very teacher, running in this process.
    """

    def __init__(
        self,
        teacher: Teaches,
        divergence: Divergence | None = None,
        bf16: bool = False,
        matching: Matching | None = None,
    ) -> None:
        self._teacher, self._divergence, self._bf16 = teacher, divergence or Divergence(), bf16
        self._matching = matching

    def __call__(self, decoder: Decoder, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """The sum of weight · loss, "kl" and "cross_entropy", and what the matching reports."""
        if self._matching is None:
            return _loss_of(decoder, batch, self._target(batch), self._divergence, self._bf16)
        with self._matching.watching(decoder) as (student, teacher):
            target = self._target(batch)
            loss, sums = _loss_of(decoder, batch, target, self._divergence, self._bf16)
        inside, more = self._matching.loss(student, teacher, batch)
        return loss + inside, sums | more

    @torch.no_grad()
    def _target(self, batch: Batch) -> Target:
        return self._teacher.targets(batch)


def _loss_of(
    decoder: Decoder, batch: Batch, target: Target | None, divergence: Divergence, bf16: bool
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    with quick_layers(batch.ids.device) if bf16 else nullcontext():
        hidden = decoder.hidden_states(batch.ids, documents=batch.apart)
    return head_loss(
        hidden.flatten(0, 1), decoder.head_weight(), decoder.config.logit_cap, target,
        batch.targets.flatten(), batch.weights.flatten(), divergence, bf16,
    )  # fmt: skip
