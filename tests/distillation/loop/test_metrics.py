"""Who is told how a training goes."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from smidgen.distillation.loop.metrics import JsonLines, TensorBoard, Trackio, peak_operations
from smidgen.errors import SmidgenError


def test_lines_of_an_earlier_attempt_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = JsonLines(path)
    for step in (1, 2, 3):
        first.write({"step": step, "loss": 1.0})
    first.close()
    path.write_text(path.read_text() + '{"step": 4, "lo')  # killed while writing
    resumed = JsonLines(path, done=2)
    resumed.write({"step": 3, "loss": 0.5})
    resumed.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 1.0), (3, 0.5)]
    JsonLines(path).close()
    assert path.read_text() == ""


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="metrics.jsonl cannot be written"):
        JsonLines(tmp_path / "missing" / "metrics.jsonl")


@pytest.mark.parametrize(
    ("module", "make"),
    [("torch.utils.tensorboard.writer", lambda: TensorBoard(Path("none"))), ("trackio", lambda: Trackio("p", {}))],
)
def test_a_missing_package_is_named(module: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SmidgenError, match=r'is not installed. Get it with: pip install "smidgen\[train\]"'):
        make()


def test_trackio_gets_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    stand_in = SimpleNamespace(
        init=lambda **settings: told.append(settings),
        log=lambda values, step: told.append((step, values)),
        finish=lambda: told.append("end"),
    )
    monkeypatch.setitem(sys.modules, "trackio", stand_in)  # type: ignore[arg-type]
    writer = Trackio("smidgen", {"seed": 0})
    writer.write({"step": 3, "loss": 0.5, "name": "text"})
    writer.close()
    assert told == [{"project": "smidgen", "config": {"seed": 0}}, (3, {"loss": 0.5}), "end"]


def test_the_peak_is_measured() -> None:
    assert peak_operations(torch.device("cpu")) > 1e8
