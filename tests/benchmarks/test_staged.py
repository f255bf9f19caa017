"""A command's bars become its stages, and nothing of its time is lost between them."""

import sys
from pathlib import Path

import pytest

from benchmarks import staged
from benchmarks.kept_parts import Parts
from benchmarks.staged import Said, stages_of
from smidgen.errors import SmidgenError

_BARS = """
from smidgen.progress import track, say
with track("Making a copy", 10**7, in_bytes=True) as task:
    task.advance(10**7)
say("llama.cpp writes: 36 documents at a time.")
with track("Writing text", 3) as task:
    for _ in range(3):
        sum(range(10**6))
        task.advance()
"""


def test_stages_are_told_by_their_bars(tmp_path: Path) -> None:
    found = staged.run([sys.executable, "-c", _BARS], tmp_path / "log")
    assert [stage.name for stage in found.stages] == ["Making a copy", "Writing text", "rest"]
    assert sum(stage.seconds for stage in found.stages) == pytest.approx(found.seconds)
    assert sum(stage.cpu_seconds for stage in found.stages) == pytest.approx(found.cpu_seconds)
    assert "36 documents" in (tmp_path / "log").read_text()


def test_a_bar_that_stops_early_ends_with_its_last_line() -> None:
    said = [
        Said("Quantizing", 10.0, 5.0, done=False),
        Said("Quantizing", 20.0, 15.0, done=True),
        Said("Answers", 30.0, 20.0, done=False),
        Said("rest", 33.0, 22.0, done=True),
    ]
    stages = stages_of(said, [(1.0, 7, 3), (19.0, 9, 2), (31.0, 4, 1)])
    assert [(one.name, one.seconds, one.cpu_seconds) for one in stages] == [
        ("Quantizing", 20.0, 15.0),
        ("Answers", 10.0, 5.0),
        ("rest", 3.0, 2.0),
    ]
    assert [(one.peak_bytes, one.peak_anonymous_bytes) for one in stages] == [(9, 3), (None, None), (4, 1)]


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match=r"code 2: Error: no room"):
        staged.run([sys.executable, "-c", "import sys; print('Error: no room'); sys.exit(2)"], tmp_path / "log")


def test_what_was_measured_is_kept_when_a_later_part_fails(tmp_path: Path) -> None:
    told: list[list[str]] = []

    def fails() -> dict[str, int]:
        raise SmidgenError("no disk")

    parts, made = Parts(tmp_path / "parts.json", lambda found: told.append(list(found))), tmp_path / "model.gguf"
    made.touch()
    assert parts.measure("cut", lambda: {"bytes": 3}, made, fit=1)["bytes"] == 3
    with pytest.raises(SmidgenError):
        parts.measure("bench", fails, fit=1)
    again = Parts(tmp_path / "parts.json")
    assert again.measure("cut", fails, made, fit=1)["bytes"] == 3
    assert again.measure("cut", lambda: {"bytes": 4}, made, fit=2)["bytes"] == 4
    made.unlink()
    assert again.measure("cut", lambda: {"bytes": 5}, made, fit=1)["bytes"] == 5
    assert told == [["cut"]]
