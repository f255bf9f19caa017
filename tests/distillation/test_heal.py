"""Budgets of healing, and the pieces that make it quick."""

from pathlib import Path

import pytest
import torch

from smidgen.distillation.heal import HealBudget, _trainee
from smidgen.distillation.objectives.losses import DistillObjective
from smidgen.distillation.objectives.sampled_head import SampledHeadObjective, frequent_tokens
from smidgen.distillation.students.lattice import LatticeStudent
from smidgen.distillation.students.lora import Adapted
from smidgen.distillation.teachers.remembering import RememberingTeacher
from smidgen.distillation.text.batch import NO_TARGET, Batch
from smidgen.errors import SmidgenError
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from smidgen.numerics.block_types import Q4_0
from tests.distillation.students.test_lattice import quantized
from tests.tiny_models import VOCABULARY, write_gemma3


def batch(rows: int = 2, length: int = 24) -> Batch:
    ids = torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))
    return Batch(ids, torch.full_like(ids, NO_TARGET), torch.ones(ids.shape), torch.zeros_like(ids))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gemma3(tmp_path_factory.mktemp("heal") / "model.gguf")


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("50000", HealBudget(tokens=50000)), ("90s", HealBudget(seconds=90.0)), ("15min", HealBudget(seconds=900.0)),
        ("1.5h", HealBudget(seconds=5400.0)), (" 2 H ", HealBudget(seconds=7200.0)),
    ],
)  # fmt: skip
def test_budgets_are_tokens_or_times(text: str, budget: HealBudget) -> None:
    assert HealBudget.parse(text) == budget


@pytest.mark.parametrize("text", ["", "soon", "1.5", "-3", "0", "0s", "10 days", "1e5"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(SmidgenError, match="--heal is"):
        HealBudget.parse(text)


def test_a_remembering_teacher_reads_a_row_once_and_says_the_same(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_checkpoint(tiny) as checkpoint:
        teacher, ids = RememberingTeacher(checkpoint), batch(3).ids
        first = teacher.hidden_states(ids)
        read = []
        monkeypatch.setattr(teacher, "_read", lambda rows, documents: read.append(rows))
        assert torch.allclose(teacher.hidden_states(ids.flip(0)), first.flip(0), rtol=1e-2, atol=1e-2)
        assert not read


def test_all_tokens_frequent_is_the_whole_divergence(tiny: Path) -> None:
    with open_checkpoint(tiny) as checkpoint:
        teacher, decoder = RememberingTeacher(checkpoint), load_decoder(checkpoint)
        with torch.no_grad():
            decoder.final_norm.weight *= 1.2
        whole, _ = DistillObjective(teacher, bf16=True)(decoder, batch())
        sampled, sums = SampledHeadObjective(teacher, torch.arange(VOCABULARY), 0)(decoder, batch())
        assert float(sampled) == pytest.approx(float(whole), rel=1e-3)
        assert sums == {"kl": pytest.approx(float(sampled))}
        whole.backward()
        dense = decoder.embedding.weight.grad.clone()
        decoder.embedding.weight.grad = None
        sampled.backward()
        assert torch.allclose(decoder.embedding.weight.grad.to_dense(), dense, rtol=0.02, atol=0.02)


def test_a_sample_of_the_rare_tokens_stands_for_all_of_them(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimated sums that softmax divides by are right on average, so the loss is near the whole one."""
    monkeypatch.setattr("smidgen.distillation.objectives.sampled_head._FREQUENT", 200)
    monkeypatch.setattr("smidgen.distillation.objectives.sampled_head._SAMPLED", 50)
    with open_checkpoint(tiny) as checkpoint:
        teacher, decoder = RememberingTeacher(checkpoint), load_decoder(checkpoint)
        with torch.no_grad():
            decoder.final_norm.weight *= 1.2
        whole, _ = DistillObjective(teacher, bf16=True)(decoder, batch())
        frequent = frequent_tokens(teacher, [batch()], batch().ids)
        assert len(frequent) == 200 and torch.equal(frequent, frequent.sort().values)
        estimates = [float(SampledHeadObjective(teacher, frequent, seed)(decoder, batch())[0]) for seed in range(20)]
        assert len(set(estimates)) > 1
        assert torch.tensor(estimates).mean() == pytest.approx(float(whole), rel=0.1)
        again = SampledHeadObjective(teacher, frequent, 3)(decoder, batch())[0]
        assert float(again) == estimates[3]  # a resumed training draws the same


def test_what_does_not_fit_in_memory_is_refused_or_healed_by_a_low_rank_change(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_checkpoint(tiny) as floats, open_checkpoint(quantized(tiny, Q4_0)) as packed:
        monkeypatch.setattr("smidgen.distillation.heal.total_memory", lambda: 8 * floats.parameters)
        with pytest.raises(SmidgenError, match="GB of memory, more than this machine has to spare"):
            _trainee(packed, {}, 0.05)
        assert isinstance(_trainee(floats, {}, 0.05), Adapted)
        monkeypatch.setattr("smidgen.distillation.heal.total_memory", lambda: 100 * floats.parameters)
        assert isinstance(_trainee(packed, {}, 0.05), LatticeStudent)
