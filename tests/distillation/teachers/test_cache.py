"""A teacher on disk: what comes back, on whose behalf, and what happens when something breaks."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from smidgen.distillation.objectives.losses import Divergence, Drawn, Listed, Target, head_loss
from smidgen.distillation.teachers.cache import CachedTarget, CachedTeacher, CacheOptions, cache_teacher, thin_out
from smidgen.distillation.text.batch import NO_TARGET, Batch
from smidgen.errors import BadFile, SmidgenError

VOCABULARY, WIDTH, HIDDEN = 90, 12, 8
TEXTS = {"texts": "abc", "length": WIDTH}


@dataclass(frozen=True)
class Dense:
    """A target that is known everywhere."""

    logits: torch.Tensor

    @property
    def columns(self) -> int:
        return self.logits.shape[1]

    def chosen(self, positions: torch.Tensor) -> "Dense":
        return Dense(self.logits[positions])

    def scores(self, run: slice, temperature: float) -> torch.Tensor:
        return self.logits[run] / temperature


class TableTeacher:
    """Logits by token. Counts the rows that it is asked about."""

    vocabulary = VOCABULARY

    def __init__(self) -> None:
        self.table = 2.5 * torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(3))
        self.rows = 0

    def targets(self, batch: Batch) -> Dense:
        self.rows += len(batch.ids)
        return Dense(self.table[batch.ids].flatten(0, 1))


class RandomBatches:
    """Three rows a step; steps come again after four."""

    def batch(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(step % 4)
        ids = torch.randint(VOCABULARY, (3, WIDTH), generator=generator)
        targets = torch.cat([ids[:, 1:], torch.full((3, 1), NO_TARGET)], dim=1)
        weights = (torch.rand(ids.shape, generator=generator) < 0.7).float() * (targets != NO_TARGET)
        return Batch(ids, targets, weights, torch.zeros_like(ids), f"step {step}")


def cache(folder: Path, steps: int = 6, options: CacheOptions = CacheOptions(5, 4), sha256: str = "aa") -> TableTeacher:  # noqa: B008
    teacher = TableTeacher()
    cache_teacher(
        teacher, RandomBatches(), steps, folder, teacher_sha256=sha256, fingerprint=TEXTS, options=options,
        steps_a_shard=2,
    )  # fmt: skip
    return teacher


def listed(teacher: CachedTeacher, batch: Batch, temperature: float = 1.0) -> Listed:
    positions = (batch.weights.flatten() != 0).nonzero()[:, 0]
    found = teacher.targets(batch).chosen(positions).scores(slice(0, len(positions)), temperature)
    assert isinstance(found, Listed)
    return found


def test_the_likeliest_come_back_with_the_mass_of_the_rest(tmp_path: Path) -> None:
    made = cache(tmp_path)
    assert made.rows == 12  # each row once, though steps 4 and 5 are 0 and 1 again
    cached = CachedTeacher(tmp_path, "aa", TEXTS)
    assert cached.vocabulary == VOCABULARY
    for step in (3, 0, 5):
        batch = RandomBatches().batch(step).rows(torch.tensor([2, 0]))
        found = listed(cached, batch)
        p = made.table[batch.ids][batch.weights != 0].softmax(1)
        best = p.topk(5)
        assert torch.equal(found.ids, best.indices)
        torch.testing.assert_close(found.probabilities, best.values, rtol=1e-3, atol=1e-7)
        assert found.rest is not None
        torch.testing.assert_close(found.rest, 1 - best.values.sum(1), rtol=1e-4, atol=1e-6)
        assert found.drawn is not None
        torch.testing.assert_close(found.drawn.probabilities, p.gather(1, found.drawn.ids))


def test_a_softened_teacher_stays_softened(tmp_path: Path) -> None:
    made = cache(tmp_path, options=CacheOptions(5, 0, temperature=2.0))
    batch, cached = RandomBatches().batch(0), CachedTeacher(tmp_path, "aa", TEXTS)
    best = (made.table[batch.ids][batch.weights != 0] / 2).softmax(1).topk(5)
    torch.testing.assert_close(listed(cached, batch, 2.0).probabilities, best.values, rtol=1e-3, atol=1e-7)
    with pytest.raises(SmidgenError, match=r"cached at temperature 2.0, not at 1.0"):
        listed(cached, batch)


def test_stopped_work_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache(tmp_path / "whole", 4)
    calls, ask = 0, TableTeacher.targets

    def stop_in_the_second_shard(self: TableTeacher, batch: Batch) -> Dense:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return ask(self, batch)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(TableTeacher, "targets", stop_in_the_second_shard)
        cache(tmp_path / "stopped", 4)
    (tmp_path / "stopped" / "shard-00001.safetensors").write_bytes(b"half")  # as after kill -9 on a bad disk
    made = cache(tmp_path / "stopped", 4)
    assert made.rows == 6
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "stopped" / file.name).read_bytes()
    assert cache(tmp_path / "stopped", 4).rows == 0


def test_a_cache_can_grow(tmp_path: Path) -> None:
    cache(tmp_path, 1)
    assert cache(tmp_path, 4).rows == 9
    for step in range(4):
        listed(CachedTeacher(tmp_path, "aa", TEXTS), RandomBatches().batch(step))


@pytest.mark.parametrize(
    ("sha256", "texts", "message"),
    [
        ("bb", TEXTS, "from another teacher .hash mismatch: aa there, bb here"),
        ("aa", TEXTS | {"length": 13}, "other texts: length differs"),
    ],
)
def test_another_ones_cache_is_refused(tmp_path: Path, sha256: str, texts: dict[str, object], message: str) -> None:
    cache(tmp_path, 2)
    with pytest.raises(SmidgenError, match=message):
        CachedTeacher(tmp_path, sha256, texts)
    with pytest.raises(SmidgenError, match=message):
        cache_teacher(TableTeacher(), RandomBatches(), 3, tmp_path, teacher_sha256=sha256, fingerprint=texts)


def test_other_options_are_refused(tmp_path: Path) -> None:
    cache(tmp_path, 2)
    with pytest.raises(SmidgenError, match="cache with options"):
        cache(tmp_path, 3, CacheOptions(6, 4))
    with pytest.raises(SmidgenError, match="holds nothing"):
        CacheOptions(0, 0)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    cache(tmp_path, 4)
    shard = tmp_path / "shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    cached = CachedTeacher(tmp_path, "aa", TEXTS)
    listed(cached, RandomBatches().batch(0))
    with pytest.raises(BadFile, match=r"shard-00001.safetensors, a part of the teacher cache, is damaged"):
        listed(cached, RandomBatches().batch(3))
    shard.write_bytes(data[:20])
    with pytest.raises(BadFile, match=r"shard-00001.safetensors.*damaged"):
        CachedTeacher(tmp_path, "aa", TEXTS)


def test_unknown_rows_and_missing_caches_are_named(tmp_path: Path) -> None:
    cache(tmp_path, 2)
    with pytest.raises(SmidgenError, match="step 3, row 0 is not in the teacher cache"):
        CachedTeacher(tmp_path, "aa", TEXTS).targets(RandomBatches().batch(3))
    with pytest.raises(SmidgenError, match="holds no teacher cache"):
        CachedTeacher(tmp_path / "none", "aa", TEXTS)
    (tmp_path / "index.json").write_text(json.dumps({"format": 7}))
    with pytest.raises(BadFile, match="no index of a teacher cache"):
        CachedTeacher(tmp_path, "aa", TEXTS)


def test_a_full_disk_leaves_what_was_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache(tmp_path, 2)
    with monkeypatch.context() as patched, pytest.raises(SmidgenError, match="its disk has 10 free"):
        patched.setattr("smidgen.atomic.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
        cache(tmp_path, 4)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["index.json", "shard-00000.safetensors"]
    assert cache(tmp_path, 4).rows == 6


@pytest.mark.parametrize(("top", "samples", "apart", "noise"), [(4, 6, 2.0, 1.0), (0, 10, 2.0, 1.0), (4, 6, 0.1, 0.6)])
def test_the_expected_slope_is_the_whole_distributions(top: int, samples: int, apart: float, noise: float) -> None:
    """Over many draws, as the loss is; each drawn slope alone is not, but is near it where the student is near."""
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(20, VOCABULARY, generator=generator)
    student = logits + apart * torch.randn(logits.shape, generator=generator)
    targets, weights, head = torch.zeros(20, dtype=torch.long), torch.ones(20), torch.eye(VOCABULARY)

    def slope(target: Target) -> tuple[torch.Tensor, float]:
        states = student.clone().requires_grad_()
        loss, sums = head_loss(states, head, None, target, targets, weights)
        loss.backward()
        assert states.grad is not None
        return states.grad, sums["kl"]

    def drawn(top: int) -> tuple[torch.Tensor, float]:
        kept = {
            name: part.float() for name, part in thin_out(logits.clone(), CacheOptions(top, samples), generator).items()
        }
        tail = Drawn(kept["drawn"].long(), kept["drawn_probabilities"])
        listed = Listed(kept["ids"].long(), kept["probabilities"], kept["rest"], drawn=tail)
        return slope(CachedTarget(listed, torch.arange(20), 1.0))

    whole, kl = slope(Dense(logits))
    found = [drawn(top) for _ in range(400)]
    each = torch.stack([one for one, _ in found])
    spread = (each - whole).flatten(1).norm(dim=1).square().mean().sqrt()
    assert (each.mean(0) - whole).norm() < 1.5 * spread / 400**0.5
    assert (each.mean(0) - whole).norm() < 0.05 * whole.norm()
    assert spread < noise * whole.norm()
    assert sum(loss for _, loss in found) / 400 == pytest.approx(kl, rel=0.02)


def test_a_cached_teacher_is_learned_from(tmp_path: Path) -> None:
    """With all tokens in the list it is the teacher itself, for every divergence."""
    made = cache(tmp_path, options=CacheOptions(VOCABULARY, 0))
    batch = RandomBatches().batch(1)
    hidden, head = torch.randn(batch.ids.numel(), HIDDEN), torch.randn(VOCABULARY, HIDDEN)
    targets, weights = batch.targets.flatten(), batch.weights.flatten()
    for divergence in (Divergence(), Divergence("reverse"), Divergence("jensen-shannon")):
        cached = CachedTeacher(tmp_path, "aa", TEXTS).targets(batch)
        losses = [
            head_loss(hidden, head, None, target, targets, weights, divergence)[0]
            for target in (made.targets(batch), cached)
        ]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-3)


def test_draws_are_in_proportion() -> None:
    logits = 2 * torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    p, counts = logits.softmax(1), torch.zeros(2, 40)
    generator, options = torch.Generator().manual_seed(1), CacheOptions(3, 8)
    kept = thin_out(logits.clone(), options, generator)
    for _ in range(2000):
        counts.scatter_add_(1, thin_out(logits.clone(), options, generator)["drawn"], torch.ones(2, 8))
    assert (counts.gather(1, kept["ids"]) == 0).all()
    torch.testing.assert_close(kept["probabilities"].float(), p.gather(1, kept["ids"]))
    tail = p.scatter(1, kept["ids"], 0.0)
    torch.testing.assert_close(kept["rest"].float(), tail.sum(1))
    torch.testing.assert_close(counts / 16_000, tail / tail.sum(1, keepdim=True), atol=0.004, rtol=0.05)
