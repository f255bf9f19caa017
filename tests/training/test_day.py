"""A chat template that writes today's date: a training that goes on another day sees the text that it began with."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from smidgen import DistillOptions, TuneOptions, distill, tune
from smidgen.distillation.students.lora import LoraOptions
from smidgen.distillation.team.team import Alone
from smidgen.distillation.text.packing import PackedBatches
from smidgen.training import day
from tests.family_models import save_folder
from tests.model.test_chat import CHATML


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_folder("llama3", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    dated = "{{ strftime_now('%d %B %Y %H:%M:%S') }}" + CHATML
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": dated}))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    words = "rain heat tree note arena stone".split()
    path.write_text("".join(json.dumps({"prompt": word, "completion": f"has {word}s"}) + "\n" for word in words))
    return path


def today_is(monkeypatch: pytest.MonkeyPatch, now: datetime) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return now

    monkeypatch.setattr(day, "datetime", Clock)


def interrupted(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    real = PackedBatches.batch

    def fails(self: PackedBatches, at: int) -> Any:
        if at == step:
            raise KeyboardInterrupt
        return real(self, at)

    monkeypatch.setattr(PackedBatches, "batch", fails)


@pytest.mark.parametrize("verb", ["tune", "distill"])
def test_a_resumed_training_sees_the_date_it_began_with(
    verb: str, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(resume: bool) -> Any:
        if verb == "tune":
            options = TuneOptions(steps=4, batch=1, context=96, lora=LoraOptions(rank=2), held_out=0)
            return tune(str(model), [data], tmp_path, options, resume=resume)
        return distill(model, model, tmp_path, DistillOptions(4, data=(data,), batch=1, context=96), resume=resume)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        today_is(patch, datetime(2001, 2, 3, 4, 5, 6))
        interrupted(patch, 2)
        train(False)
    kept = json.loads((tmp_path / "work" / "fingerprint.json").read_text())
    assert kept["date"] == "2001-02-03T04:05:06"
    with monkeypatch.context() as patch:
        today_is(patch, datetime(2002, 3, 4))
        assert day.day_of(tmp_path / "work", False, Alone()) == datetime(2002, 3, 4)
        assert day.day_of(tmp_path / "work", True, Alone()) == datetime(2001, 2, 3, 4, 5, 6)
        assert train(True).steps == 4


def test_the_date_binds_nothing_where_the_template_does_not_write_it() -> None:
    metadata = {"tokenizer.chat_template": CHATML}
    assert day.bound_to(datetime(2001, 2, 3), metadata) == day.bound_to(datetime(2001, 2, 3), {}) == {}
