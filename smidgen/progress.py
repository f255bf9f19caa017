"""Progress of long work: a bar with the time left on a terminal, plain lines elsewhere, nothing when quiet.

Everything goes to stderr, so that stdout carries results only.

The time left is what is still to do at the pace of what was done here. So a bar whose steps do not cost the same says
what each of them costs, in terms of the others; and what an earlier run has done says nothing about the pace.
"""

import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

from smidgen.errors import harmless

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

_quiet = False
_SECONDS_BETWEEN_LINES = 10.0
_LABEL_WIDTH, _BAR_WIDTH = 36, 12  # with up to 9999/9999 and both times this fits 80 columns, where rich would cut


def set_quiet(quiet: bool) -> None:
    """Silence (or restore) all progress output of this process."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether it is silenced."""
    return _quiet


class Task:
    """One piece of work in a known number of steps. `advance()` after each; `describe()` says how it goes.

    steps: how many, or what each of them costs, in any unit.  most_seconds: after which it ends in any case.
    """

    def __init__(self, label: str, steps: int | Sequence[float], most_seconds: float | None = None) -> None:
        self.label, self.done = label, 0
        self.total = len(steps) if isinstance(steps, Sequence) else steps
        self._costs = [0.0, *accumulate(steps)] if isinstance(steps, Sequence) else None
        self._skipped, self._left_out, self._most_seconds = 0.0, 0.0, most_seconds
        self._began = self._advanced = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more as finished."""
        self.done += steps
        self._advanced = time.monotonic()

    def skip(self, steps: int) -> None:
        """Count `steps` more as finished that took no time here: an earlier run has done them, or nobody will."""
        before = self._cost(self.done)
        self.done += steps
        self._skipped += self._cost(self.done) - before

    def leave_out(self, seconds: float) -> None:
        """Seconds that say nothing about the pace: a model was loaded, which is not done for each step."""
        self._left_out += seconds

    def describe(self, state: str) -> None:
        """What to show beside the label from now on, or in its place."""

    @property
    def share(self) -> float:
        """Of the whole that is finished, by what it costs, or by the time that it may take."""
        whole = self._cost(self.total)
        done = self._cost(self.done) / whole if whole else 1.0
        return done if self._most_seconds is None else min(1.0, max(done, self.seconds() / self._most_seconds))

    def seconds(self) -> float:
        """That it has taken."""
        return time.monotonic() - self._began

    def seconds_left(self) -> float | None:
        """That it will take, at the pace so far; None before anything is done.

        What is left runs down while a step lasts, but not below what comes after it.
        """
        limit = None if self._most_seconds is None else max(0.0, self._most_seconds - self.seconds())
        known = [left for left in (self._at_this_pace(), limit) if left is not None]
        return min(known, default=None)

    def _at_this_pace(self) -> float | None:
        done, total = self._cost(self.done), self._cost(self.total)
        if done <= self._skipped:
            return 0.0 if self.done >= self.total else None
        pace = max(0.0, self._advanced - self._began - self._left_out) / (done - self._skipped)
        least = pace * (total - self._cost(self.done + 1))
        return max(0.0, least, pace * (total - done) - (time.monotonic() - self._advanced))

    def _cost(self, steps: int) -> float:
        """Of so many steps from the first on."""
        return steps if self._costs is None else self._costs[min(steps, self.total)]


class _LineTask(Task):
    """Prints a line now and then: for logs and pipes."""

    def __init__(
        self, label: str, steps: int | Sequence[float], most_seconds: float | None = None, in_bytes: bool = False
    ) -> None:
        super().__init__(label, steps, most_seconds)
        self._shown: Callable[[int], str] = _megabytes if in_bytes else str
        self._printed = self._began
        self._state = ""

    def describe(self, state: str) -> None:
        self._state = f", {state}"

    def advance(self, steps: int = 1) -> None:
        super().advance(steps)
        self._print()

    def skip(self, steps: int) -> None:
        super().skip(steps)
        self._print()

    def _print(self) -> None:
        now = time.monotonic()
        if now - self._printed >= _SECONDS_BETWEEN_LINES or self.done >= self.total:
            self._printed = now
            amount = f"{self._shown(self.done)}/{self._shown(self.total)}"
            left = self.seconds_left()
            told = "" if left is None else f", {left:.0f} s left"
            print(f"{self.label}: {amount}, {self.seconds():.0f} s{told}{self._state}", file=sys.stderr)


class _BarTask(Task):
    """A rich progress bar."""

    def __init__(
        self, label: str, steps: int | Sequence[float], most_seconds: float | None = None, in_bytes: bool = False
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

        super().__init__(label, steps, most_seconds)
        self._in_bytes = in_bytes
        self.bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(_BAR_WIDTH),
            DownloadColumn() if in_bytes else TextColumn("{task.fields[steps]}", style="progress.download"),
            TimeElapsedColumn(), _time_left(self), TextColumn("left"), console=Console(stderr=True),
        )  # fmt: skip
        self._width = _LABEL_WIDTH - 6 if in_bytes else _LABEL_WIDTH  # "999.9/999.9 GB" is that much wider
        whole = self.total if in_bytes else 1.0
        self._id = self.bar.add_task(self._fitting(label), total=whole, steps=self._steps())

    def advance(self, steps: int = 1) -> None:
        super().advance(steps)
        self._show()

    def skip(self, steps: int) -> None:
        super().skip(steps)
        self._show()

    def describe(self, state: str) -> None:
        self.bar.update(self._id, description=self._fitting(state))  # there is no room for both

    def _show(self) -> None:
        self.bar.update(self._id, completed=self.done if self._in_bytes else self.share, steps=self._steps())

    def _steps(self) -> str:
        total = str(self.total)
        return f"{self.done:{len(total)}}/{total}"

    def _fitting(self, text: str) -> str:
        return text if len(text) <= self._width else f"{text[: self._width - 1]}…"


def _time_left(work: Task) -> "ProgressColumn":
    """A column of a rich bar. rich's own asks for the pace of the last half minute, in which a long step has none."""
    from rich.progress import ProgressColumn
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        max_refresh = 0.5

        def render(self, task: object) -> Text:
            left = work.seconds_left()
            return Text("--:--" if left is None else _clock(round(left)), style="progress.remaining")

    return TimeLeft()


def _clock(seconds: int) -> str:
    """1:02:03, or 02:03."""
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


@contextmanager
def track(
    label: str, steps: int | Sequence[float], in_bytes: bool = False, most_seconds: float | None = None
) -> Iterator[Task]:
    """Show the progress of a piece of work named `label` while the block runs.

    steps: how many there are, or bytes; or what each of them costs in terms of the others, where that differs.
    most_seconds: it ends after these in any case.
    """
    if _quiet:
        yield Task(label, steps, most_seconds)
    elif sys.stderr.isatty():
        task = _BarTask(label, steps, most_seconds, in_bytes)
        with task.bar:
            yield task
    else:
        yield _LineTask(label, steps, most_seconds, in_bytes)


def say(line: str) -> None:
    """One line about what happens now, unless quiet."""
    if not _quiet:
        print(harmless(line), file=sys.stderr)


@cache
def say_once(line: str, about: Hashable = None) -> None:
    """The same, the first time in this process: what several steps of a command come across.  about: one of two things
    of which the same is to be said."""
    say(line)
