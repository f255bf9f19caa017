"""Losses between two next-token distributions, and their slopes along the student's logits, over a few positions.

Divergences between the teacher's distribution p and the student's q = softmax y (Agarwal et al. 2023, "On-policy
distillation of language models", https://arxiv.org/abs/2306.13649, section 2; m = β p + (1 − β) q):

    forward          KL(p ‖ q)                              ∂/∂y = q − p
    reverse          KL(q ‖ p)                              ∂/∂y = q (log q/p − KL(q ‖ p))
    jensen-shannon   β KL(p ‖ m) + (1 − β) KL(q ‖ m)        ∂/∂y = (1 − β) q (log q/m − KL(q ‖ m))

With a temperature T both sides are softened (logits / T, after their soft caps) and the divergence is multiplied by T²,
so that its slope keeps its size (Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2). A share `hard` of
the loss is cross-entropy with the text's own next tokens, at temperature 1.

Of a teacher that is a list of tokens with the mass of the rest, p and q are distributions over the listed tokens and
the rest as one class. A loss D of class probabilities Q has the slope  ∂D/∂y_j = q_j (g_c(j) − Σ_c Q_c g_c),  where
g_c = ∂D/∂Q_c and c(j) is token j's class: for a token in the rest, that of the rest.

Inside the rest r, with p' = p / r and q' alike there, the forward divergence has a part r · KL(p' ‖ q') more. With
tokens v drawn from p' and w = q'(v) / p'(v), it and its slope r (q' − p') are, for any λ, the expectations of

    r · (λ (w − 1) − log w)        r · (λ w − 1) (e_v − q')

λ = 0 is what Anshumann et al. do: noise from the draws that stays as large as it is while the slope fades. With λ = 1
it fades too, as w comes near 1 (a control variate; as an estimate of KL the third of Schulman 2020,
http://joschu.net/blog/kl-approx.html), but is without bounds while the two are far apart. How far is known from the
classes: λ = exp(−4 KL of the classes) has, of synthetic pairs from KL 0.005 to 2.5, less noise than either on each.

Everything is float32, in the buffers that come in. Per logit: one exponential for each side, a dozen plain operations.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from smidgen.distillation.text.batch import NO_TARGET
from smidgen.errors import SmidgenError
from smidgen.shapes import Bool, Float, Int

_TINY = torch.finfo(torch.float32).tiny
_DISTRUST = 4.0


@dataclass(frozen=True)
class Divergence:
    """Which loss. beta: of jensen-shannon, between 0 and 1.  hard: share of cross-entropy with the text, 0 to 1."""

    kind: Literal["forward", "reverse", "jensen-shannon"] = "forward"
    beta: float = 0.5
    temperature: float = 1.0
    hard: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("forward", "reverse", "jensen-shannon"):
            raise SmidgenError(f"No divergence is called {self.kind}: there are forward, reverse and jensen-shannon.")
        if not 0 < self.beta < 1:
            raise SmidgenError(
                f"Jensen-Shannon's beta is {self.beta}: it must lie between 0 and 1. "
                "What it comes near at these ends are the forward and the reverse divergence."
            )
        if not 0 < self.temperature < float("inf"):
            raise SmidgenError(f"The temperature of the distillation is {self.temperature}: it must be above 0.")
        if not 0 <= self.hard <= 1:
            raise SmidgenError(f"The share of cross-entropy is {self.hard}: it must lie between 0 and 1.")


@dataclass(frozen=True)
class Drawn:
    """Tokens drawn from those that are not listed, in proportion to the teacher's probabilities, and these."""

    ids: Int[Tensor, "position drawn"]
    probabilities: Float[Tensor, "position drawn"]

    def part(self, where: slice | Int[Tensor, " some"]) -> "Drawn":
        """Some of the positions."""
        return Drawn(self.ids[where], self.probabilities[where])


@dataclass(frozen=True)
class Listed:
    """A teacher of which some tokens' probabilities are known.

    probabilities: of the tokens `ids`.  rest: the probability of all other tokens together, compared as one class; each
    id then occurs once in a row. None: there is no rest, as with sampled tokens, weighted so that they are an unbiased
    estimate (Anshumann et al. 2025, https://arxiv.org/abs/2503.16870). These serve for the forward divergence only, may
    repeat an id, and a probability of 0 says nothing.  entropy: where there is no rest, −Σ p log p of the teacher's
    whole distribution, in nats, without which the loss, not its slope, is off by a constant; None: that of the list.
    drawn: some tokens of the rest, for the forward divergence.  few: as in `Spelled`; None for nowhere.
    """

    ids: Int[Tensor, "position listed"]
    probabilities: Float[Tensor, "position listed"]
    rest: Float[Tensor, " position"] | None
    entropy: Float[Tensor, " position"] | None = None
    drawn: Drawn | None = None
    few: Bool[Tensor, " position"] | None = None

    def part(self, where: slice | Int[Tensor, " some"]) -> "Listed":
        """Some of the positions."""
        rest, entropy, few = (None if field is None else field[where] for field in (self.rest, self.entropy, self.few))
        drawn = None if self.drawn is None else self.drawn.part(where)
        return Listed(self.ids[where], self.probabilities[where], rest, entropy, drawn, few)


@dataclass(frozen=True)
class Ranked:
    """A teacher with other tokens, of which only the probabilities say something, not whose they are.

    probabilities: largest first.  rest: of all tokens that are not among them.  known: where there is a teacher at all.
    """

    probabilities: Float[Tensor, "position ranked"]
    rest: Float[Tensor, " position"]
    known: Bool[Tensor, " position"]

    def part(self, where: slice) -> "Ranked":
        """Some of the positions."""
        return Ranked(self.probabilities[where], self.rest[where], self.known[where])


@dataclass(frozen=True)
class Spelled:
    """Scores as in `Taught`, and at which positions but a few tokens are possible at all: inside a spelling.

    There the reverse divergence would be as large as one likes, since every token that the student thinks of, and the
    teacher does not know, costs the logarithm of a made-up probability. So it is the forward one that is taken there.
    """

    scores: Float[Tensor, "position vocab"]
    few: Bool[Tensor, " position"]

    def part(self, where: slice) -> "Spelled":
        """Some of the positions."""
        return Spelled(self.scores[where], self.few[where])


#: What a teacher says of some positions. A tensor of scores over the whole vocabulary, whose softmax its distribution
#: is and which may be overwritten, the same with marks, or one of the two shorter ways.
Taught = Float[Tensor, "position vocab"] | Spelled | Listed | Ranked


@dataclass(frozen=True)
class Losses:
    """Of each position: the loss; the forward KL, if the teacher has one; the cross-entropy, 0 without a target."""

    loss: Float[Tensor, " position"]
    kl: Float[Tensor, " position"] | None
    cross_entropy: Float[Tensor, " position"]


def losses_and_slopes_(
    logits: Float[Tensor, "position vocab"],
    cap: float | None,
    taught: Taught | None,
    targets: Int[Tensor, " position"],
    weights: Float[Tensor, " position"],
    divergence: Divergence,
    offsets: Float[Tensor, " vocab"] | None = None,
) -> Losses:
    """The losses at some positions. Turns logits before the soft cap `cap` into the slope of Σ weight · loss.

    taught: already softened by the temperature, overwritten; None for cross-entropy alone.
    offsets: added after the cap.
    """
    bounded = None
    if cap is not None:
        bounded = (logits / cap).tanh_()
        torch.mul(bounded, cap, out=logits)
    if offsets is not None:
        logits.add_(offsets)
    temperature = 1.0 if taught is None else divergence.temperature
    hard = 1.0 if taught is None else divergence.hard
    plain = _softmax_(logits if temperature == 1 else logits.clone())
    cross_entropy, hard_slope = _cross_entropy(plain, targets, hard * weights)
    loss, kl = hard * cross_entropy, None
    if taught is None:
        assert hard_slope is not None
        logits.copy_(hard_slope)
    else:
        student = plain if temperature == 1 else _softmax_(logits.div_(temperature))
        slope, divergences, kl = _compare(student, taught, divergence)
        loss += (1 - hard) * temperature**2 * divergences
        torch.mul(slope, ((1 - hard) * temperature * weights)[:, None], out=logits)
        if hard_slope is not None:
            logits += hard_slope
    if bounded is not None:
        logits.mul_(bounded.square_().neg_().add_(1))
    return Losses(loss, kl, cross_entropy)


@dataclass(frozen=True)
class _Softmax:
    """probabilities = exp(scores − log_total); the largest score of a position is 0."""

    scores: Float[Tensor, "position vocab"]
    probabilities: Float[Tensor, "position vocab"]
    log_total: Float[Tensor, " position"]


def _softmax_(scores: Float[Tensor, "position vocab"]) -> _Softmax:
    scores.sub_(scores.amax(1, keepdim=True))
    probabilities = scores.exp()
    total = probabilities.sum(1)
    return _Softmax(scores, probabilities.div_(total[:, None]), total.log())


def _cross_entropy(
    student: _Softmax, targets: Int[Tensor, " position"], weights: Float[Tensor, " position"]
) -> tuple[Float[Tensor, " position"], Float[Tensor, "position vocab"] | None]:
    """−log q(target), 0 where there is none; and its slope times the weights, unless these are all 0."""
    has_target = targets != NO_TARGET
    places = targets.clamp(min=0)[:, None]
    likelihood = student.scores.gather(1, places)[:, 0] - student.log_total
    cross_entropy = torch.where(has_target, -likelihood, 0.0)
    if len(weights) and not weights.any():
        return cross_entropy, None
    counts = (weights * has_target)[:, None]
    slope = student.probabilities * counts
    return cross_entropy, slope.scatter_add_(1, places, -counts)


_Compared = tuple[Float[Tensor, "position vocab"], Float[Tensor, " position"], Float[Tensor, " position"] | None]


def _compare(student: _Softmax, taught: Taught, divergence: Divergence) -> _Compared:
    """Slope, loss and forward KL at each position. The student's tensors and the teacher's are overwritten."""
    if isinstance(taught, Spelled | Listed) and taught.few is not None and divergence.kind == "reverse":
        return _compare_spelled(student, taught, taught.few)
    if isinstance(taught, Spelled):
        return _compare(student, taught.scores, divergence)
    if isinstance(taught, Ranked):
        return _compare_ranked(student, taught, divergence)
    if isinstance(taught, Listed):
        return _compare_listed(student, taught, divergence)
    teacher = _softmax_(taught)
    if divergence.kind == "jensen-shannon":
        return _jensen_shannon(student, teacher, divergence.beta)
    p, q = teacher.probabilities, student.probabilities
    log_ratio = teacher.scores.sub_(student.scores)  # log p/q, but for one constant a position
    constant = student.log_total - teacher.log_total
    kl = torch.linalg.vecdot(p, log_ratio) + constant
    if divergence.kind == "forward":
        return q.sub_(p), kl, kl
    mean = torch.linalg.vecdot(q, log_ratio)
    return q.mul_(log_ratio.sub_(mean[:, None]).neg_()), -mean - constant, kl


def _compare_spelled(student: _Softmax, taught: Spelled | Listed, few: Bool[Tensor, " position"]) -> _Compared:
    """The reverse divergence, but the forward one at the places that are marked."""
    slope, loss, kl = torch.empty_like(student.probabilities), student.log_total.clone(), student.log_total.clone()
    for which, divergence in ((~few, Divergence("reverse")), (few, Divergence("forward"))):
        places = which.nonzero()[:, 0]
        part = _Softmax(student.scores[places], student.probabilities[places], student.log_total[places])
        said = taught.scores[places] if isinstance(taught, Spelled) else replace(taught.part(places), few=None)
        slope[places], loss[places], found = _compare(part, said, divergence)
        assert found is not None
        kl[places] = found
    return slope, loss, kl


def _jensen_shannon(student: _Softmax, teacher: _Softmax, beta: float) -> _Compared:
    p, q = teacher.probabilities, student.probabilities
    kl = torch.linalg.vecdot(p, teacher.scores - student.scores) + student.log_total - teacher.log_total
    log_m = torch.lerp(q, p, beta).clamp_(min=_TINY).log_()
    of_teacher = torch.linalg.vecdot(p, teacher.scores.sub_(log_m)) - teacher.log_total
    log_ratio = student.scores.sub_(log_m)  # log q/m, but for one constant a position
    mean = torch.linalg.vecdot(q, log_ratio)
    loss = beta * of_teacher + (1 - beta) * (mean - student.log_total)
    return q.mul_(log_ratio.sub_(mean[:, None]).mul_(1 - beta)), loss, kl


def _compare_listed(student: _Softmax, taught: Listed, divergence: Divergence) -> _Compared:
    if taught.rest is not None:
        return _compare_classes(student, taught, taught.rest, divergence)
    if divergence.kind != "forward":
        raise SmidgenError(
            f"The teacher is a list of sampled tokens, which says nothing of the {divergence.kind} divergence. "
            "Take the forward one, or a teacher with the mass of the rest."
        )
    p = taught.probabilities
    log_q = student.scores.gather(1, taught.ids) - student.log_total[:, None]
    entropy = torch.special.entr(p).sum(1) if taught.entropy is None else taught.entropy
    kl = -torch.linalg.vecdot(p, log_q) - entropy
    slope = student.probabilities.mul_(p.sum(1, keepdim=True)).scatter_add_(1, taught.ids, -p)
    return slope, kl, kl


def _compare_classes(
    student: _Softmax, taught: Listed, rest: Float[Tensor, " position"], divergence: Divergence
) -> _Compared:
    """See the module's text: the classes are the listed tokens and, as the last one, the rest."""
    others = student.probabilities.scatter_(1, taught.ids, 0.0)
    log_q = student.scores.gather(1, taught.ids) - student.log_total[:, None]
    log_q = torch.cat([log_q, others.sum(1, keepdim=True).clamp(min=_TINY).log()], 1)
    p, q = torch.cat([taught.probabilities, rest[:, None]], 1), log_q.exp()
    log_p = p.clamp(min=_TINY).log()
    kl = torch.linalg.vecdot(p, log_p - log_q)
    if divergence.kind == "forward":
        loss, slope = kl, -p  # slope: Q g, yet without the mean
    elif divergence.kind == "reverse":
        slope = q * (log_q - log_p)
        loss = slope.sum(1)
    else:
        beta = divergence.beta
        log_m = torch.lerp(q, p, beta).clamp_(min=_TINY).log_()
        slope = (1 - beta) * q * (log_q - log_m)
        loss = beta * torch.linalg.vecdot(p, log_p - log_m) + slope.sum(1)
    slope = slope - q * slope.sum(1, keepdim=True)
    by_share = slope[:, -1:] / q[:, -1:]  # each token of the rest by its share in it
    if divergence.kind != "forward" or taught.drawn is None:
        return others.mul_(by_share).scatter_add_(1, taught.ids, slope[:, :-1]), loss, kl
    trust = (-_DISTRUST * kl).exp() if taught.ids.shape[1] else torch.zeros_like(kl)
    within, pull = _within_rest(others, q[:, -1:], taught.drawn, rest, trust)
    others.mul_(by_share - pull.sum(1, keepdim=True) / q[:, -1:]).scatter_add_(1, taught.drawn.ids, pull)
    return others.scatter_add_(1, taught.ids, slope[:, :-1]), loss + within, kl + within


def _within_rest(
    others: Float[Tensor, "position vocab"], total: Float[Tensor, "position 1"], drawn: Drawn,
    rest: Float[Tensor, " position"], trust: Float[Tensor, " position"],
) -> tuple[Float[Tensor, " position"], Float[Tensor, "position drawn"]]:  # fmt: skip
    """What the divergence inside the rest adds, estimated without bias; and its slope along the drawn logits, but for
    the share that all of the rest has of it. others: the student's probabilities there.  total: their sum.  trust: λ.
    """
    ratio = others.gather(1, drawn.ids) / total * rest[:, None] / drawn.probabilities.clamp(min=_TINY)
    each, trusted = rest / drawn.ids.shape[1], trust[:, None] * ratio
    loss = each * (trusted - trust[:, None] - ratio.clamp(min=_TINY).log()).sum(1)
    return loss, each[:, None] * (trusted - 1)


def _compare_ranked(student: _Softmax, taught: Ranked, divergence: Divergence) -> _Compared:
    """Σ |q − p| over ranks: see `distillation.teachers.other_tokenizer`."""
    if divergence.hard == 0:
        raise SmidgenError(
            "The teacher has another tokenizer: its ranked probabilities do not tell which token they belong to, so "
            "that the student could not learn from them alone. Mix them with cross-entropy on the text (hard above 0)."
        )
    top = student.probabilities.topk(taught.probabilities.shape[1], dim=1)
    others = student.probabilities.scatter_(1, top.indices, 0.0)
    gaps = torch.cat([top.values - taught.probabilities, others.sum(1, keepdim=True) - taught.rest[:, None]], 1)
    signs = gaps.sign() * taught.known[:, None]
    mean = (torch.linalg.vecdot(top.values, signs[:, :-1]) + others.sum(1) * signs[:, -1])[:, None]
    others.mul_(signs[:, -1:] - mean).scatter_(1, top.indices, top.values * (signs[:, :-1] - mean))
    return others, gaps.abs().sum(1) * taught.known, None
