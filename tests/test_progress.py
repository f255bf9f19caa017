"""Progress is for people: readable at 80 columns, on stderr only, and silent when asked."""

import os
import pty
import re
import subprocess
import sys

import pytest

from smidgen import progress
from smidgen.progress import Task, track

SCRIPT = """
from smidgen.progress import track
with track({label!r}, {total}, in_bytes={in_bytes}) as task:
    task.advance(5000 * {total} // 9999)
"""


def script_of(label: str, total: int = 9999, in_bytes: bool = False) -> str:
    return SCRIPT.format(label=label, total=total, in_bytes=in_bytes)


def shown_on_terminal(script: str) -> str:
    """What `track` writes to a terminal of 80 columns."""
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", script], stderr=slave, env=environment, check=True)
    os.close(slave)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(master, 1 << 16).decode())


def test_the_time_left_fits_80_columns() -> None:
    for label in ("Quantizing", "Comparing on a-file-with-a-really-rather-long-name.txt"):
        shown = shown_on_terminal(script_of(label))
        assert "5000/9999" in shown and re.search(r"0:00:0\d (\d\d:\d\d|--:--) left", shown), shown
        shown = shown_on_terminal(script_of(label, 999_900_000_000, in_bytes=True))
        assert "500.0/999.9 GB" in shown and re.search(r"0:00:0\d (\d\d:\d\d|--:--) left", shown), shown


def test_how_it_goes_is_shown() -> None:
    told = "    task.describe('loss 1.234, 9999 tokens/s, 80% peak')\n    task.advance"
    script = script_of("Training").replace("    task.advance", told)
    assert re.search(r"loss 1.234, 9999 tokens/s, 80% peak .*5000/9999.* left", shown_on_terminal(script))
    whole = script.replace("5000", "9999")
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True)
    told = r"Training: 9999/9999, \d+ s, 0 s left, loss 1\.234, 9999 tokens/s, 80% peak\n"
    assert re.fullmatch(told, done.stderr), done.stderr


def test_lines_elsewhere_and_nothing_on_stdout() -> None:
    for script, amount in (
        (script_of("Work"), "9999/9999"),
        (script_of("Work", 1_234_567_890, in_bytes=True), "1234.6 MB/1234.6 MB"),
    ):
        whole = script.replace("5000", "9999")
        done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True)
        assert done.stdout == "" and re.fullmatch(rf"Work: {amount}, \d+ s, 0 s left\n", done.stderr), done.stderr


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)

    def step(self, task: Task, seconds: float) -> float | None:
        """A step that takes so long; what is left then."""
        self.now += seconds
        task.advance()
        return task.seconds_left()


def test_the_time_left_goes_by_what_steps_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two long steps and nineteen short ones: at the same pace the first tells how long all will take."""
    clock, costs = Clock(monkeypatch), [420.0] * 2 + [6.0] * 19
    task = Task("Comparing", costs)
    assert task.total == 21 and task.seconds_left() is None and task.share == 0
    for place, cost in enumerate(costs):
        assert clock.step(task, 2 * cost) == pytest.approx(2 * sum(costs[place + 1 :]))
        assert task.share == pytest.approx(sum(costs[: place + 1]) / sum(costs))
    assert task.seconds_left() == 0 and task.share == 1


def test_what_is_left_runs_down_while_a_step_lasts_but_not_below_what_follows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, task = Clock(monkeypatch), Task("Work", 4)
    assert clock.step(task, 10) == 30
    clock.now += 4
    assert task.seconds_left() == 26
    clock.now += 100
    assert task.seconds_left() == 20, "the two steps behind this one"


def test_what_an_earlier_run_did_says_nothing_about_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, task = Clock(monkeypatch), Task("Quantizing", 30)
    task.skip(20)
    assert task.seconds_left() is None and task.share == pytest.approx(2 / 3)
    assert clock.step(task, 6) == pytest.approx(9 * 6)
    task.skip(9)
    assert task.seconds_left() == 0


def test_the_time_that_loading_took_says_nothing_about_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, task = Clock(monkeypatch), Task("Answers", 24)
    clock.now += 30
    task.leave_out(30)
    assert clock.step(task, 2) == pytest.approx(23 * 2)


def test_work_with_a_limit_of_time_is_done_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, task = Clock(monkeypatch), Task("Healing", 1000, most_seconds=60)
    assert task.seconds_left() == 60
    assert clock.step(task, 15) == 45 and task.share == pytest.approx(1 / 4)


def test_a_line_without_a_pace_says_no_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with track("Quantizing", [5.0, 1.0, 1.0]) as task:
        clock.now += 20
        task.skip(1)
        clock.step(task, 20)
        clock.step(task, 40)
    assert capsys.readouterr().err.splitlines() == [
        "Quantizing: 1/3, 20 s", "Quantizing: 2/3, 40 s, 40 s left", "Quantizing: 3/3, 80 s, 0 s left"
    ]  # fmt: skip


def test_a_bar_shows_steps_and_is_as_long_as_what_they_cost() -> None:
    script = script_of("Comparing").replace("9999, in_bytes=False", "[6.0, 1.0, 1.0]")
    script = script.replace("5000 * 9999 // 9999", "1")
    assert "Comparing ━━━━━━━━━╺━━ 1/3 0:00:00 00:00 left" in shown_on_terminal(script)
