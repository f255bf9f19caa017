"""Training where the accelerator is: everything is moved that must be, and back. A pretended one, for want of another.

What a real one rounds differently, and how quick it is, cannot be seen so.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from smidgen.distillation.loop import metrics
from smidgen.distillation.objectives.losses import Divergence
from smidgen.distillation.objectives.matching import MatchingOptions
from smidgen.distillation.students.trainee import Plain
from smidgen.distillation.team import team
from smidgen.distillation.team.team import Alone
from smidgen.training.distill import distill
from smidgen.training.tune import TuneOptions, tune
from tests.pretended_accelerator import HERE, THERE, pretended_accelerator
from tests.tiny_models import LLAMA_CONFIG, random_decoder, write_gemma3, write_llama
from tests.training.test_distill import OPTIONS


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda device, **settings: real("cpu", **settings))
    monkeypatch.setattr(team, "accelerator", lambda: THERE)
    monkeypatch.setattr(metrics, "_PROBE_ON_DEVICE", 64)
    with pretended_accelerator():
        yield


def test_what_is_pretended(there: None) -> None:
    here, moved = torch.ones(3), torch.ones(3).to(THERE)
    assert (here.device, moved.device, (moved * 2).device, moved.cpu().device) == (HERE, THERE, THERE, HERE)
    with pytest.raises(RuntimeError, match="same device"):
        here + moved
    with pytest.raises(TypeError, match="numpy"):
        moved.numpy()


@pytest.mark.parametrize(
    "changed",
    [
        {}, {"divergence": Divergence("jensen-shannon", hard=0.3)}, {"divergence": Divergence(hard=1.0)},
        {"cache_teacher": True}, {"on_policy": 0.5}, {"matching": MatchingOptions(0.5, 0.5)}, {"optimizer": "muon"},
    ],
    ids=str,
)  # fmt: skip
def test_a_student_learns_there(changed: dict[str, Any], there: None, tmp_path: Path) -> None:
    model = write_gemma3(tmp_path / "tiny.gguf")
    result = distill(str(model), None, tmp_path / "out", replace(OPTIONS, steps=4, **changed))
    assert result.kept is not None and result.kept[1] <= result.evaluations[0][1] and result.steps == 4


@pytest.mark.parametrize("full", [True, False])
def test_examples_are_learned_there(full: bool, there: None, tmp_path: Path) -> None:
    model, data = write_llama(tmp_path / "tiny.gguf"), tmp_path / "examples.jsonl"
    data.write_text("".join(json.dumps({"text": f"the rain in {word} " * 3}) + "\n" for word in "abcdefgh"))
    result = tune(str(model), [data], tmp_path / "out", TuneOptions(steps=4, context=64, full=full, merge=not full))
    assert result.after is not None and result.merged is not None and result.steps == 4


def test_a_model_comes_back(there: None) -> None:
    trainee, alone = Plain(random_decoder(LLAMA_CONFIG)), Alone(THERE)
    alone.begin(trainee)
    assert {value.device for value in trainee.tensors().values()} == {THERE}
    alone.end(trainee)
    assert {value.device for value in trainee.tensors().values()} == {HERE}
