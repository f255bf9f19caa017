"""Plans: decided once, rates that do nothing, passes over a text, and room on the disk."""

from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from smidgen.distillation.loop.plan import (
    Room,
    checkpoint_room,
    decided,
    refuse_idle_rate,
    tell,
    warning_of_passes,
)
from smidgen.distillation.loop.trainer import TrainingOptions
from smidgen.distillation.students.lattice import careful_rate
from smidgen.errors import SmidgenError
from smidgen.formats.workspace import Workspace
from tests.distillation.training import plain, trainer

PLAN = TrainingOptions(400, careful_rate(400), checkpoint_every=40, average_over=40, seed=3)


def test_a_plan_is_decided_once(tmp_path: Path) -> None:
    workspace = Workspace.start(tmp_path / "work", {})
    assert decided(workspace, lambda: PLAN) == PLAN
    again = Workspace.resume(tmp_path / "work", {})
    assert decided(again, lambda: replace(PLAN, steps=7, learning_rate=1.0)) == PLAN
    known = workspace.load_json("plan") or {}
    workspace.save_json("plan", {**known, "of_a_later_version": 1})
    assert decided(again, lambda: replace(PLAN, steps=7)) == PLAN


def test_a_plan_is_shown(capsys: pytest.CaptureFixture) -> None:
    tell(PLAN, "codes")
    (line,) = capsys.readouterr().err.splitlines()
    assert "400 steps, a checkpoint every 40; learning rate 0.013 in codes" in line
    assert "cosine, states of 40 steps averaged" in line


@pytest.mark.parametrize("steps", [1, 12, 400, 20_000])
def test_a_rate_that_does_nothing_is_refused_and_the_usual_one_never(steps: int) -> None:
    usual = replace(PLAN, steps=steps, learning_rate=careful_rate(steps))
    assert refuse_idle_rate(usual, "codes") == []
    with pytest.raises(SmidgenError, match="nothing would be learned. Its rates are counted in codes") as refused:
        refuse_idle_rate(replace(usual, learning_rate=2e-5 / max(1, steps / 1000)), "codes")
    assert f"leave out --lr (that is {careful_rate(steps):.2g})" in str(refused.value)
    for counted in ("weights", "adapter"):
        assert refuse_idle_rate(replace(usual, learning_rate=2e-5), counted) == []


def test_a_rate_that_reaches_no_code_is_warned_of() -> None:
    (line,) = refuse_idle_rate(replace(PLAN, learning_rate=1e-3), "codes")
    assert "only scales and norms learn" in line and "a code changes at half a one" in line


def test_more_than_four_passes_are_warned_of() -> None:
    assert warning_of_passes(4.0) == []
    (line,) = warning_of_passes(125)
    assert "read 125.0 times" in line


def test_a_full_disk_is_seen_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("smidgen.distillation.loop.plan.shutil.disk_usage", lambda _: usage(10**9, 0, 10**6))
    Room(10**6).refuse_full(tmp_path)
    with pytest.raises(SmidgenError, match="1 MB free. This work needs about 1.5 MB: 1 MB for checkpoints") as refused:
        Room(10**6, 5 * 10**5).refuse_full(tmp_path)
    assert "\n" not in str(refused.value)
    (tmp_path / "checkpoint").write_bytes(bytes(500_000))  # of the same work, which replaces it
    Room(10**6, 5 * 10**5).refuse_full(tmp_path)


def test_checkpoints_take_the_room_that_is_told(tmp_path: Path) -> None:
    trainee = plain()
    trainer(trainee, tmp_path / "work").run()
    trained = sum(tensor.numel() for tensor in trainee.tensors().values())
    written = (tmp_path / "work" / "checkpoint.safetensors").stat().st_size
    told = checkpoint_room(trained)
    assert 2 * written < 1.2 * told and told < 3 * written
