"""How far one next-token distribution is from another, exactly, without ever holding [positions, vocabulary] logits.

For logits x (original, p = softmax x) and y (cut, q = softmax y) at one position,

    KL(p ‖ q) = Σ p (log p − log q) = Σ eˣ (x − y) / Σ eˣ − log Σ eˣ + log Σ eʸ

Each sum runs over the vocabulary, so a stream of vocabulary chunks is enough. The sums are kept relative to a
running maximum and rescaled whenever it grows ("online softmax": Milakov & Gimelshein 2018, arXiv:1805.02867), here
extended by the cross term Σ eˣ (x − y). Products are float32; what is kept per position is float64.

Two equal streams give exactly 0. Cost: the two head products, plus about three exponentials' worth of work a logit.

Where the cut has only some of the original's tokens (K), p is taken over K alone and renormalised: `StreamedDivergence`
is fed the logits of K, `StreamedSoftmax` those of the entries that were left out, and `Restriction` puts them together
again. For a target in K,  log p(t) = log p_K(t) + log P(K),  with  P(K) = Z_K / (Z_K + Z_left out)  and Z = Σ eˣ.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.shapes import Float, Int


@dataclass(frozen=True)
class PositionScores:
    """What is known of each position once the whole vocabulary has passed. All float64 in nats, or indices."""

    kl: Float[Tensor, " position"]
    original_log_likelihood: Float[Tensor, " position"]  # of the target token; NaN where the target is NO_TARGET
    cut_log_likelihood: Float[Tensor, " position"]
    original_top: Int[Tensor, " position"]  # most likely token; the lowest index among equals
    cut_top: Int[Tensor, " position"]
    original_log_total: Float[Tensor, " position"]  # log Σ eˣ
    cut_log_total: Float[Tensor, " position"]
    original_sureness: Float[Tensor, " position"]  # probability of its most likely token


NO_TARGET = -1


class _RunningSoftmax:
    """Running maximum, its index, Σ exp(logit − maximum) and the target's logit, for one model."""

    def __init__(self, targets: Int[Tensor, " position"]) -> None:
        self.targets = targets
        self.maximum = torch.full(targets.shape, -torch.inf, dtype=torch.float32)
        self.top = torch.zeros_like(targets)
        self.total = torch.zeros(targets.shape, dtype=torch.float64)
        self.target_logit = torch.full(targets.shape, torch.nan, dtype=torch.float64)

    def add(self, where: slice, first: int, logits: Float[Tensor, "position vocab"]) -> Float[Tensor, " position"]:
        """Take in the logits of vocabulary entries first, first+1, … for the positions `where`.

        Returns the factor that turns sums relative to the old maximum into sums relative to the new one.
        """
        chunk_maximum, chunk_top = logits.max(dim=1)
        old = self.maximum[where].clone()
        higher = chunk_maximum > old
        self.top[where] = torch.where(higher, chunk_top + first, self.top[where])
        self.maximum[where] = torch.where(higher, chunk_maximum, old)
        rescale = torch.exp(old.double() - self.maximum[where].double())
        self.total[where] *= rescale
        inside = (self.targets[where] >= first) & (self.targets[where] < first + logits.shape[1])
        rows = inside.nonzero().squeeze(1)
        self.target_logit[where][rows] = logits[rows, self.targets[where][rows] - first].double()
        return rescale

    def log_total(self) -> Float[Tensor, " position"]:
        return self.maximum.double() + self.total.log()


class StreamedSoftmax:
    """One model's distribution over a stream of vocabulary chunks. targets: as for `StreamedDivergence`."""

    def __init__(self, targets: Int[Tensor, " position"]) -> None:
        self._softmax = _RunningSoftmax(targets)

    def add(self, where: slice, first: int, logits: Float[Tensor, "position vocab"]) -> None:
        """Take in float32 logits of entries first, first+1, … for the positions `where`; they are overwritten."""
        self._softmax.add(where, first, logits)
        self._softmax.total[where] += logits.sub_(self._softmax.maximum[where, None]).exp_().sum(dim=1).double()

    def log_likelihood(self) -> Float[Tensor, " position"]:
        """Of each target among the entries that came, in nats; NaN where it is NO_TARGET."""
        return self._softmax.target_logit - self._softmax.log_total()

    @property
    def top(self) -> Int[Tensor, " position"]:
        """The most likely of the entries that came; the lowest index among equals."""
        return self._softmax.top

    def log_total(self) -> Float[Tensor, " position"]:
        """log Σ eˣ over the entries that came."""
        return self._softmax.log_total()


class StreamedDivergence:
    """Feed it chunks of the vocabulary in any order, each entry once for each position, then `finish()`.

    targets: the token that truly came next at each position, or NO_TARGET.  cut_targets: where it is another for the
    cut, which may spell the same text in other tokens.
    Logits must be finite: a NaN or ∞ among them ends as a NaN in the scores of that position.
    """

    def __init__(self, targets: Int[Tensor, " position"], cut_targets: Int[Tensor, " position"] | None = None) -> None:
        self._original = _RunningSoftmax(targets)
        self._cut = _RunningSoftmax(targets if cut_targets is None else cut_targets)
        self._cross = torch.zeros(targets.shape, dtype=torch.float64)  # Σ exp(x − max x) (x − y)

    def add(
        self, where: slice, first: int,
        original: Float[Tensor, "position vocab"], cut: Float[Tensor, "position vocab"],
    ) -> None:  # fmt: skip
        """Take in float32 logits of vocabulary entries first, first+1, … for the positions `where`.

        Both logit matrices are overwritten: they are the largest tensors here, and are needed no longer.
        """
        self._cross[where] *= self._original.add(where, first, original)
        self._cut.add(where, first, cut)
        difference = original - cut
        weights = original.sub_(self._original.maximum[where, None]).exp_()
        self._original.total[where] += weights.sum(dim=1).double()
        self._cross[where] += torch.linalg.vecdot(weights, difference).double()
        self._cut.total[where] += cut.sub_(self._cut.maximum[where, None]).exp_().sum(dim=1).double()

    def finish(self) -> PositionScores:
        """The scores; the stream must have covered the whole vocabulary."""
        log_total, cut_log_total = self._original.log_total(), self._cut.log_total()
        return PositionScores(
            kl=(self._cross / self._original.total - log_total + cut_log_total).clamp(min=0),  # rounding: −2e-7
            original_log_likelihood=self._original.target_logit - log_total,
            cut_log_likelihood=self._cut.target_logit - cut_log_total,
            original_top=self._original.top,
            cut_top=self._cut.top,
            original_log_total=log_total,
            cut_log_total=cut_log_total,
            original_sureness=(self._original.maximum.double() - log_total).exp(),
        )


@dataclass(frozen=True)
class Restriction:
    """What a distribution is over its whole vocabulary, when only some entries of it were compared.

    masses: its probability of the others, stream by stream, 0 to 1.  log_likelihood: of its target, over all entries
    (NaN: NO_TARGET).
    """

    masses: tuple[Float[Tensor, " position"], ...]
    log_likelihood: Float[Tensor, " position"]

    @classmethod
    def of(
        cls, log_likelihood: Float[Tensor, " position"], log_total: Float[Tensor, " position"], *others: StreamedSoftmax
    ) -> "Restriction":
        """From the scores over the compared entries, and the streams of the others.

        A target is in one of them, or NO_TARGET in all.
        """
        totals = [other.log_total() for other in others]
        whole = log_total
        for total in totals:
            whole = torch.logaddexp(whole, total)
        likelihood = log_likelihood + log_total - whole
        for other, total in zip(others, totals, strict=True):
            likelihood = torch.where(likelihood.isnan(), other.log_likelihood() + total - whole, likelihood)
        return cls(tuple((total - whole).exp() for total in totals), likelihood)


def soft_cap_(logits: Float[Tensor, "position vocab"], cap: float | None) -> Float[Tensor, "position vocab"]:
    """cap · tanh(logits / cap), in place; None leaves them alone. (Gemma 2 report, section 2.)"""
    return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)
