"""The fused head loss: bounded memory, what it reports, what it refuses; and the objectives made of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from smidgen.distillation.objectives import losses
from smidgen.distillation.objectives.losses import (
    DenseTarget,
    DistillObjective,
    Divergence,
    LanguageObjective,
    Listed,
    head_loss,
)
from smidgen.distillation.objectives.slopes import Taught
from smidgen.distillation.text.batch import NO_TARGET, Batch
from smidgen.errors import SmidgenError
from smidgen.model.decoder import Decoder
from tests.tiny_models import GEMMA3_CONFIG, LLAMA_CONFIG, VOCABULARY, random_decoder


class Memory(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is open: the most that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: PLR0913
        result = func(*args, **(kwargs or {}))
        before = {part.untyped_storage().data_ptr() for part in args if isinstance(part, Tensor)}
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, Tensor) and part.untyped_storage().data_ptr() not in before:
                storage = part.untyped_storage()
                self._alive[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {place: held for place, held in self._alive.items() if not held[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._alive.values()))
        return result


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("divergence", [Divergence(), Divergence("jensen-shannon", temperature=2.0, hard=0.5)])
@pytest.mark.parametrize("cap", [None, 5.0])
def test_memory_does_not_grow_with_the_text(
    divergence: Divergence, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary, width = 2000, 16
    monkeypatch.setattr(losses, "_LOGITS", 8 * vocabulary)
    monkeypatch.setattr(losses, "_BLOCK", 2 * vocabulary)
    run, block, head_size = (4 * vocabulary * rows for rows in (8, 2, width))
    most = {}
    for positions in (32, 160):
        hidden = normal(positions, width).requires_grad_()
        head, teacher_head = normal(vocabulary, width, seed=1).requires_grad_(), normal(vocabulary, width, seed=2)
        target = DenseTarget(normal(positions, width, seed=3), teacher_head, cap)
        targets, weights = torch.arange(positions), torch.ones(positions)
        with Memory() as memory:
            loss, _ = head_loss(hidden, head, cap, target, targets, weights, divergence)
            loss.backward()
        most[positions] = memory.most
    # One run's logits on each side, some blocks, the head's slope; a position costs the slopes of its hidden states.
    assert most[32] < 2 * run + 8 * block + head_size + 100_000
    assert most[160] - most[32] < (160 - 32) * (4 * 4 * width + 200)
    assert most[160] - head_size < 160 * vocabulary * 4 / 3


def test_positions_of_no_weight_are_never_looked_at() -> None:
    asked = []

    class Asked(DenseTarget):
        def chosen(self, positions: Tensor) -> DenseTarget:
            asked.extend(positions.tolist())
            return super().chosen(positions)

    hidden, head = normal(6, 4).requires_grad_(), normal(50, 4, seed=1)
    hidden.data[2] = torch.nan
    target = Asked(normal(6, 4, seed=2), head)
    weights = torch.tensor([1.0, 0, 0, 2, 0, 1])
    loss, sums = head_loss(hidden, head, None, target, torch.arange(6), weights)
    loss.backward()
    assert asked == [0, 3, 5]
    assert loss.isfinite() and sums["kl"] == pytest.approx(loss.item())
    assert hidden.grad is not None
    assert hidden.grad[[1, 2, 4]].abs().max() == 0 and hidden.grad[[0, 3, 5]].abs().amin(1).min() > 0


def test_no_weight_at_all_is_a_loss_of_zero() -> None:
    hidden, head = normal(3, 4).requires_grad_(), normal(50, 4, seed=1).requires_grad_()
    target = DenseTarget(normal(3, 4), head.detach())
    for teacher in (None, target):
        loss, sums = head_loss(hidden, head, 3.0, teacher, torch.arange(3), torch.zeros(3))
        loss.backward()
        assert loss.item() == 0 and set(sums.values()) == {0.0}


def test_only_the_slopes_that_are_wanted() -> None:
    for of_hidden, of_head in ((True, False), (False, True)):
        hidden, head = normal(5, 4).requires_grad_(of_hidden), normal(50, 4, seed=1).requires_grad_(of_head)
        loss, _ = head_loss(hidden, head, None, None, torch.arange(5), torch.ones(5))
        loss.backward()
        assert (hidden.grad is not None, head.grad is not None) == (of_hidden, of_head)


def test_a_missing_target_does_not_count_in_the_mean_cross_entropy() -> None:
    hidden, head, targets = normal(4, 8), normal(30, 8, seed=1), torch.tensor([3, NO_TARGET, 5, 7])
    target = DenseTarget(hidden, head)
    _, sums = head_loss(hidden, head, None, target, targets, torch.tensor([1.0, 1, 2, 0]))
    each = torch.nn.functional.cross_entropy(hidden @ head.T, targets, reduction="none", ignore_index=NO_TARGET)
    assert sums["cross_entropy"] / 4 == pytest.approx(float((each[0] + 2 * each[2]) / 3), rel=1e-5)
    assert sums["kl"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen-shannon"])
def test_a_student_like_its_teacher_has_nothing_to_learn(kind: Any) -> None:
    hidden, head = (3 * normal(7, 16)).requires_grad_(), normal(400, 16, seed=1).requires_grad_()
    target = DenseTarget(hidden.detach(), head.detach(), 20.0)
    loss, _ = head_loss(hidden, head, 20.0, target, torch.arange(7), torch.ones(7), Divergence(kind))
    loss.backward()
    assert abs(loss.item()) < 1e-4
    assert hidden.grad is not None and hidden.grad.abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen-shannon"])
def test_distributions_far_apart_stay_finite(kind: Any) -> None:
    hidden, head = (500 * normal(7, 16)).requires_grad_(), normal(400, 16, seed=1)
    target = DenseTarget(500 * normal(7, 16, seed=2), head)
    loss, _ = head_loss(hidden, head, None, target, torch.arange(7), torch.ones(7), Divergence(kind, hard=0.5))
    loss.backward()
    assert loss.isfinite() and hidden.grad is not None and hidden.grad.isfinite().all()


def test_quick_products_change_little() -> None:
    hidden, head = normal(40, 64).requires_grad_(), (0.3 * normal(3000, 64, seed=1)).requires_grad_()
    target_hidden = hidden.detach() + 0.3 * normal(40, 64, seed=2)
    slopes = []
    for quick in (False, True):
        target = DenseTarget(target_hidden, head.detach(), None, quick)
        loss, _ = head_loss(hidden, head, None, target, torch.arange(40), torch.ones(40), None, quick)
        slopes.append(torch.autograd.grad(loss, (hidden, head)))
    for exact, rounded in zip(*slopes, strict=True):
        assert (exact - rounded).norm() < 0.02 * exact.norm()


def test_a_teacher_of_bfloat16() -> None:
    hidden, head = normal(9, 64), normal(300, 64, seed=1) / 8
    exact = DenseTarget(hidden, head).scores(slice(2, 5), 2.0)
    rounded = DenseTarget(hidden, head.bfloat16()).scores(slice(2, 5), 2.0)
    assert rounded.dtype is torch.float32 and (exact - rounded).abs().max() < 0.03


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "sideways"}, "sideways"), ({"beta": 1.0}, "beta is 1.0"), ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"), ({"hard": 1.5}, "1.5"),
    ],
)  # fmt: skip
def test_a_divergence_that_cannot_be(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises((SmidgenError, TypeError), match=says):  # a check of annotations, on in tests, may be first
        Divergence(**wrong)


def test_sampled_tokens_say_nothing_of_the_reverse_divergence() -> None:
    class Sampled:
        columns = 1

        def chosen(self, positions: Tensor) -> "Sampled":
            return self

        def scores(self, run: slice, temperature: float) -> Taught:
            return Listed(torch.zeros(3, 1, dtype=torch.long), torch.ones(3, 1), None)

    with pytest.raises(SmidgenError, match="sampled"):
        head_loss(normal(3, 4), normal(30, 4), None, Sampled(), torch.arange(3), torch.ones(3), Divergence("reverse"))


class Model:
    """A decoder that teaches."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def targets(self, batch: Batch) -> DenseTarget:
        hidden = self.decoder.hidden_states(batch.ids, documents=batch.apart)
        return DenseTarget(hidden.flatten(0, 1), self.decoder.embedding.weight, self.decoder.config.logit_cap)


def batch_of(rows: int, length: int) -> Batch:
    ids = torch.randint(VOCABULARY, (rows, length + 1), generator=torch.Generator().manual_seed(0))
    weights = torch.ones(rows, length)
    weights[:, :3] = 0
    return Batch(ids[:, :-1], ids[:, 1:], weights, torch.zeros(rows, length, dtype=torch.long), "random")


def test_objectives_are_the_models_own_losses() -> None:
    student, teacher, batch = random_decoder(GEMMA3_CONFIG), random_decoder(GEMMA3_CONFIG, 1), batch_of(2, 12)
    log_q, log_p = (model(batch.ids).double().log_softmax(-1) for model in (student, teacher))
    cross_entropy = -(log_q.gather(2, batch.targets[..., None])[..., 0] * batch.weights).sum()
    kl = ((log_p.exp() * (log_p - log_q)).sum(-1) * batch.weights).sum()

    loss, sums = LanguageObjective()(student, batch)
    assert loss.item() == pytest.approx(cross_entropy.item(), rel=1e-5) == sums["cross_entropy"]
    expected = torch.autograd.grad(cross_entropy, list(student.parameters()), retain_graph=True)
    for mine, other in zip(torch.autograd.grad(loss, list(student.parameters())), expected, strict=True):
        assert torch.allclose(mine, other, rtol=1e-3, atol=1e-5)  # the tied head's slope, too

    loss, sums = DistillObjective(Model(teacher), Divergence(hard=0.25))(student, batch)
    assert float(loss.detach()) == pytest.approx((0.75 * kl + 0.25 * cross_entropy).item(), rel=1e-5)
    assert sums["kl"] == pytest.approx(kl.item(), rel=1e-5)


def test_an_untied_head_and_documents_and_bfloat16() -> None:
    student, teacher, batch = random_decoder(LLAMA_CONFIG), random_decoder(GEMMA3_CONFIG, 1), batch_of(2, 12)
    apart = Batch(batch.ids, batch.targets, batch.weights, torch.arange(12).expand(2, -1) // 5)
    found = {}
    for bf16 in (False, True):
        loss, sums = DistillObjective(Model(teacher), bf16=bf16)(student, apart)
        loss.backward()
        assert student.head is not None and student.head.weight.grad is not None
        found[bf16] = sums["kl"]
    together = DistillObjective(Model(teacher))(student, batch)[1]["kl"]
    assert found[True] == pytest.approx(found[False], rel=0.05)
    assert abs(together - found[False]) > 0.001 * together
