"""Two processes learn what one does, and what a killed one had learned is not lost."""

from functools import partial
from pathlib import Path

import pytest
import torch

from smidgen.distillation.objectives.matching import MatchingOptions
from smidgen.distillation.team import launch as launching
from smidgen.distillation.team.launch import launch
from smidgen.distillation.team.parallel import filled_up
from smidgen.distillation.text.batch import NO_TARGET
from smidgen.errors import SmidgenError
from smidgen.formats.workspace import Workspace
from tests.distillation.together import MATCHED, Odd, all_of_it, distilled, learn_from_ranks, lines, refuse, train
from tests.tiny_models import write_llama


def test_two_processes_learn_as_one_and_survive_being_killed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_llama(tmp_path / "teacher.gguf")
    evaluations, loss = launch(partial(all_of_it, tmp_path), 2)
    assert "died of signal SIGKILL; all start again" in capfd.readouterr().err
    for name, optimizer, divided in (("whole", "adamw", True), ("muon", "muon", True), ("held", "adamw", False)):
        train(tmp_path / "one", optimizer, divided=divided)
        for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / name), strict=True):
            assert one.keys() == two.keys()
            for key in one.keys() & {"step", "loss", "grad_norm", "learning_rate", "tokens", "evaluation"}:
                assert two[key] == pytest.approx(one[key], rel=2e-2 if name == "muon" else 1e-4), (name, key)
        alone, together = (Workspace(tmp_path / each).load_tensors("trained") for each in ("one", name))
        for parameter, value in alone.items() if name != "muon" else ():  # it rounds its steps to bfloat16
            torch.testing.assert_close(together[parameter], value, rtol=0, atol=1e-4)
    one, two = distilled(tmp_path, tmp_path / "alone"), lines(tmp_path / "distilled")
    losses = [line["loss"] for line in lines(tmp_path / "alone")]
    assert [line["loss"] for line in two] == pytest.approx(losses, 5e-3)  # products are rounded to bfloat16
    assert one.path.stat().st_size == (tmp_path / "distilled" / "model.gguf").stat().st_size
    assert sorted(path.name for path in (tmp_path / "distilled").iterdir()) == [
        ".smidgen.json", "Modelfile", "README.md", "loss.svg", "metrics.jsonl", "model.gguf"
    ]  # fmt: skip
    for name, width in MATCHED.items():
        distilled(tmp_path, tmp_path / "alone", width, MatchingOptions(0.3, 0.3))
        one, two = lines(tmp_path / "alone"), lines(tmp_path / name)
        assert two[0]["grad_norm"] == pytest.approx(one[0]["grad_norm"], 1e-3), name
        for key in ("loss", "hidden", "relations"):
            assert [line[key] for line in two] == pytest.approx([line[key] for line in one], 1e-2), (name, key)
    assert loss == lines(tmp_path / "whole")[-1]["loss"] == lines(tmp_path / "killed")[-1]["loss"]
    assert len(lines(tmp_path / "killed")) == 10 and evaluations[-1][0] == 10
    whole, killed = (Workspace(tmp_path / each).load_tensors("trained") for each in ("whole", "killed"))
    assert all(torch.equal(killed[name], value) for name, value in whole.items())


def test_a_teacher_of_another_tokenizer_and_a_process_without_rows(tmp_path: Path) -> None:
    """Both add up the same sums, whether or not they have read anything that counts."""
    together, alone = launch(partial(learn_from_ranks, tmp_path / "two"), 2), learn_from_ranks(tmp_path / "one", False)
    assert together == pytest.approx(alone, rel=1e-4)
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert one.keys() == two.keys()
        assert two["cross_entropy"] == pytest.approx(one["cross_entropy"], rel=1e-4)


def test_errors_come_through() -> None:
    with pytest.raises(SmidgenError, match="^row 7 is not to be had$"):
        launch(refuse, 2)


def test_restarts_end(monkeypatch: pytest.MonkeyPatch) -> None:
    resumed: list[bool] = []

    def attempt(work: object, workers: int, resume: bool, meeting: Path) -> tuple[bool, str]:
        resumed.append(resume)
        return False, "of signal SIGKILL"

    monkeypatch.setattr(launching, "_attempt", attempt)
    with pytest.raises(SmidgenError, match="died 3 times, the last of signal SIGKILL"):
        launch(refuse, 2, restarts=2)
    assert resumed == [False, True, True]


def test_rows_that_fill_up_count_for_nothing() -> None:
    batch = Odd().batch(1)
    more = filled_up(batch, 2)
    assert len(more.ids) == len(more.targets) == 5 and more.weight() == batch.weight()
    assert torch.equal(more.ids[:3], batch.ids) and (more.targets[3:] == NO_TARGET).all()
