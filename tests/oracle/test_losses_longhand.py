"""The fused head loss against the naive one: full logits and autograd in float64, and the definition as plain sums."""

import math
from itertools import product
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from smidgen.distillation.objectives import losses
from smidgen.distillation.objectives.losses import DenseTarget, Divergence, Listed, Ranked, Target, head_loss
from smidgen.distillation.objectives.slopes import Taught
from smidgen.distillation.text.batch import NO_TARGET

POSITIONS, VOCABULARY, HIDDEN, TEACHER_HIDDEN = 13, 97, 8, 12
Kind = Literal["forward", "reverse", "jensen-shannon"]
KINDS: tuple[Kind, ...] = ("forward", "reverse", "jensen-shannon")


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several runs of several blocks, the last ones shorter."""
    monkeypatch.setattr(losses, "_LOGITS", 4 * VOCABULARY)
    monkeypatch.setattr(losses, "_BLOCK", 3 * VOCABULARY)


class Case:
    """Random hidden states, heads, targets (some missing) and weights (some 0)."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        self.hidden, self.head = normal(POSITIONS, HIDDEN), normal(VOCABULARY, HIDDEN)
        self.teacher_hidden, self.teacher_head = normal(POSITIONS, TEACHER_HIDDEN), normal(VOCABULARY, TEACHER_HIDDEN)
        self.targets = torch.randint(VOCABULARY, (POSITIONS,), generator=generator)
        self.targets[[1, 7]] = NO_TARGET
        self.weights = torch.rand(POSITIONS, generator=generator)
        self.weights[[0, 4, 5, 6]] = 0

    def fused(self, target: Target | None, cap: float | None, divergence: Divergence) -> tuple[Tensor, ...]:
        """Loss, and slopes of twice the loss."""
        hidden, head = self.hidden.clone().requires_grad_(), self.head.clone().requires_grad_()
        loss, _ = head_loss(hidden, head, cap, target, self.targets, self.weights, divergence)
        (2 * loss).backward()
        assert hidden.grad is not None and head.grad is not None
        return loss.detach(), hidden.grad, head.grad

    def naive(self, teacher: Tensor | None, cap: float | None, divergence: Divergence) -> tuple[Tensor, ...]:
        """The same in float64 with all logits at once. teacher: its logits after the cap."""
        hidden, head = self.hidden.double().requires_grad_(), self.head.double().requires_grad_()
        logits = capped(hidden @ head.T, cap)
        cross_entropy = functional.cross_entropy(logits, self.targets, ignore_index=NO_TARGET, reduction="none")
        loss = cross_entropy
        if teacher is not None:
            softened = divergence.temperature**2 * naive_divergence(logits, teacher, divergence)
            loss = (1 - divergence.hard) * softened + divergence.hard * cross_entropy
        loss = (loss * self.weights).sum()
        (2 * loss).backward()
        assert hidden.grad is not None and head.grad is not None
        return loss.detach(), hidden.grad, head.grad

    def teacher_logits(self, cap: float | None) -> Tensor:
        return capped(self.teacher_hidden.double() @ self.teacher_head.double().T, cap)


def capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else cap * torch.tanh(logits / cap)


def naive_divergence(student: Tensor, teacher: Tensor, divergence: Divergence) -> Tensor:
    log_q = (student / divergence.temperature).log_softmax(1)
    log_p = (teacher / divergence.temperature).log_softmax(1)
    return divergence_of(log_p, log_q, divergence)


def divergence_of(log_p: Tensor, log_q: Tensor, divergence: Divergence) -> Tensor:
    p, q = log_p.exp(), log_q.exp()
    if divergence.kind == "forward":
        return (p * (log_p - log_q)).sum(1)
    if divergence.kind == "reverse":
        return (q * (log_q - log_p)).sum(1)
    beta = divergence.beta
    log_m = (beta * p + (1 - beta) * q).log()
    return beta * (p * (log_p - log_m)).sum(1) + (1 - beta) * (q * (log_q - log_m)).sum(1)


def assert_same(fused: tuple[Tensor, ...], naive: tuple[Tensor, ...]) -> None:
    for mine, expected in zip(fused, naive, strict=True):
        assert torch.allclose(mine.double(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("kind", "cap", "temperature", "hard"), list(product(KINDS, (None, 3.0), (1.0, 2.5), (0.0, 0.3, 1.0)))
)
def test_the_fused_loss_is_the_naive_one(kind: Kind, cap: float | None, temperature: float, hard: float) -> None:
    case, divergence = Case(0), Divergence(kind, 0.3, temperature, hard)
    target = DenseTarget(case.teacher_hidden, case.teacher_head, cap)
    assert_same(case.fused(target, cap, divergence), case.naive(case.teacher_logits(cap), cap, divergence))


@pytest.mark.parametrize("cap", [None, 3.0])
def test_cross_entropy_alone(cap: float | None) -> None:
    case = Case(1)
    assert_same(case.fused(None, cap, Divergence(temperature=2.0)), case.naive(None, cap, Divergence()))


class Fixed:
    """A target that was made beforehand."""

    columns = 1

    def __init__(self, taught: Taught) -> None:
        self.taught = taught

    def chosen(self, positions: Tensor) -> "Fixed":
        if isinstance(self.taught, Listed):
            rest, entropy = (
                None if part is None else part[positions] for part in (self.taught.rest, self.taught.entropy)
            )
            return Fixed(Listed(self.taught.ids[positions], self.taught.probabilities[positions], rest, entropy))
        assert isinstance(self.taught, Ranked)
        parts = self.taught.probabilities, self.taught.rest, self.taught.known
        return Fixed(Ranked(*(part[positions] for part in parts)))

    def scores(self, run: slice, temperature: float) -> Taught:
        assert isinstance(self.taught, Listed | Ranked)
        return self.taught.part(run)


@pytest.mark.parametrize(("kind", "cap", "hard"), list(product(KINDS, (None, 3.0), (0.0, 0.3))))
def test_listed_tokens_and_the_rest_as_one_class(kind: Kind, cap: float | None, hard: float) -> None:
    case, divergence = Case(2), Divergence(kind, 0.3, 1.0, hard)
    top = case.teacher_logits(cap).softmax(1).topk(5)
    rest = 1 - top.values.sum(1)
    fused = case.fused(Fixed(Listed(top.indices, top.values.float(), rest.float())), cap, divergence)

    hidden, head = case.hidden.double().requires_grad_(), case.head.double().requires_grad_()
    logits = capped(hidden @ head.T, cap)
    q = logits.softmax(1)
    listed = q.gather(1, top.indices)
    log_q = torch.cat([listed, 1 - listed.sum(1, keepdim=True)], 1).log()
    log_p = torch.cat([top.values, rest[:, None]], 1).log()
    cross_entropy = functional.cross_entropy(logits, case.targets, ignore_index=NO_TARGET, reduction="none")
    loss = (((1 - hard) * divergence_of(log_p, log_q, divergence) + hard * cross_entropy) * case.weights).sum()
    slopes = torch.autograd.grad(2 * loss, (hidden, head))
    assert_same(fused, (loss.detach(), *slopes))


def test_a_list_of_all_tokens_is_the_dense_teacher() -> None:
    case = Case(3)
    p = case.teacher_logits(None).softmax(1).float()
    everything = Listed(torch.arange(VOCABULARY).expand(POSITIONS, -1), p, None)
    assert_same(
        case.fused(Fixed(everything), None, Divergence()), case.naive(case.teacher_logits(None), None, Divergence())
    )


def test_sampled_tokens_give_the_slope_of_their_sum_and_may_repeat() -> None:
    """The slope is that of −Σ p log q over the list; on average over samples it is the teacher's own."""
    case = Case(4)
    teacher = case.teacher_logits(None).softmax(1)
    ids = torch.multinomial(teacher, 6, replacement=True, generator=torch.Generator().manual_seed(5))
    ids[:, 1] = ids[:, 0]
    p = torch.full(ids.shape, 1 / 5)
    p[:, 5] = 0
    entropy = torch.special.entr(teacher).sum(1)
    fused = case.fused(Fixed(Listed(ids, p, None, entropy.float())), None, Divergence())

    hidden, head = case.hidden.double().requires_grad_(), case.head.double().requires_grad_()
    log_q = (hidden @ head.T).log_softmax(1).gather(1, ids)
    loss = ((-(p * log_q).sum(1) - entropy) * case.weights).sum()
    assert_same(fused, (loss.detach(), *torch.autograd.grad(2 * loss, (hidden, head))))


@pytest.mark.parametrize("ranked", [5, VOCABULARY])
def test_ranked_probabilities(ranked: int) -> None:
    case, hard = Case(6), 0.3
    p = torch.randn(POSITIONS, 60, generator=torch.Generator().manual_seed(7)).softmax(1).sort(descending=True).values
    p = functional.pad(p, (0, VOCABULARY - 60))[:, :ranked]
    rest, known = 1 - p.sum(1), torch.arange(POSITIONS) % 3 != 2
    fused = case.fused(Fixed(Ranked(p, rest, known)), None, Divergence(hard=hard))

    hidden, head = case.hidden.double().requires_grad_(), case.head.double().requires_grad_()
    logits = hidden @ head.T
    q = logits.softmax(1).sort(descending=True).values
    gap = (q[:, :ranked] - p).abs().sum(1)
    if ranked < VOCABULARY:
        gap = gap + (q[:, ranked:].sum(1) - rest).abs()
    cross_entropy = functional.cross_entropy(logits, case.targets, ignore_index=NO_TARGET, reduction="none")
    loss = (((1 - hard) * gap * known + hard * cross_entropy) * case.weights).sum()
    assert_same(fused, (loss.detach(), *torch.autograd.grad(2 * loss, (hidden, head))))


@pytest.mark.parametrize("kind", KINDS)
def test_the_definition_written_out(kind: Kind) -> None:
    """One position, all sums by hand."""
    x, y, beta, temperature = [0.5, -1.0, 2.0, 0.0], [1.0, 0.3, -0.7, 1.5], 0.2, 1.7
    p, q = softmax([value / temperature for value in x]), softmax([value / temperature for value in y])
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]

    def kl(a: list[float], b: list[float]) -> float:
        return math.fsum(s * math.log(s / t) for s, t in zip(a, b, strict=True))

    values = {"forward": kl(p, q), "reverse": kl(q, p), "jensen-shannon": beta * kl(p, m) + (1 - beta) * kl(q, m)}
    expected = 0.75 * temperature**2 * values[kind] - 0.25 * math.log(softmax(y)[3])
    loss, sums = head_loss(
        torch.tensor([y]), torch.eye(4), None, DenseTarget(torch.tensor([x]), torch.eye(4)),
        torch.tensor([3]), torch.tensor([2.0]), Divergence(kind, beta, temperature, 0.25),
    )  # fmt: skip
    assert float(loss) == pytest.approx(2 * expected, rel=1e-5)
    assert sums["kl"] == pytest.approx(2 * kl(p, q), rel=1e-5)
    assert sums["cross_entropy"] == pytest.approx(-2 * math.log(softmax(y)[3]), rel=1e-5)


def softmax(x: list[float]) -> list[float]:
    total = math.fsum(math.exp(value) for value in x)
    return [math.exp(value) / total for value in x]
