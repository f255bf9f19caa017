"""Progress of long work: a bar with the time left on a terminal, plain lines elsewhere, nothing when quiet.

Everything goes to stderr, so that stdout carries results only.
"""

import sys
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache

from smidgen.errors import harmless

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
    """One piece of work with a known number of steps. `advance()` after each; `describe()` says how it goes."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more as finished."""
        self.done += steps

    def describe(self, state: str) -> None:
        """What to show beside the label from now on, or in its place."""


class _LineTask(Task):
    """Prints a line now and then: for logs and pipes."""

    def __init__(self, label: str, total: int, in_bytes: bool) -> None:
        super().__init__(label, total)
        self._shown: Callable[[int], str] = _megabytes if in_bytes else str
        self._started = self._printed = time.monotonic()
        self._state = ""

    def describe(self, state: str) -> None:
        self._state = f", {state}"

    def advance(self, steps: int = 1) -> None:
        super().advance(steps)
        now = time.monotonic()
        if now - self._printed >= _SECONDS_BETWEEN_LINES or self.done >= self.total:
            self._printed = now
            spent = now - self._started
            left = spent / self.done * (self.total - self.done) if self.done > 0 else 0
            amount = f"{self._shown(self.done)}/{self._shown(self.total)}"
            print(f"{self.label}: {amount}, {spent:.0f} s, {left:.0f} s left{self._state}", file=sys.stderr)


class _BarTask(Task):
    """A rich progress bar."""

    def __init__(self, label: str, total: int, in_bytes: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        super().__init__(label, total)
        self.bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(_BAR_WIDTH),
            DownloadColumn() if in_bytes else MofNCompleteColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(compact=True), TextColumn("left"), console=Console(stderr=True),
        )  # fmt: skip
        self._width = _LABEL_WIDTH - 6 if in_bytes else _LABEL_WIDTH  # "999.9/999.9 GB" is that much wider
        self._id = self.bar.add_task(self._fitting(label), total=total)

    def advance(self, steps: int = 1) -> None:
        super().advance(steps)
        self.bar.advance(self._id, steps)

    def describe(self, state: str) -> None:
        self.bar.update(self._id, description=self._fitting(state))  # there is no room for both

    def _fitting(self, text: str) -> str:
        return text if len(text) <= self._width else f"{text[: self._width - 1]}…"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


@contextmanager
def track(label: str, total: int, in_bytes: bool = False) -> Iterator[Task]:
    """Show the progress of `total` steps, or bytes, named `label` while the block runs."""
    if _quiet:
        yield Task(label, total)
    elif sys.stderr.isatty():
        task = _BarTask(label, total, in_bytes)
        with task.bar:
            yield task
    else:
        yield _LineTask(label, total, in_bytes)


def say(line: str) -> None:
    """One line about what happens now, unless quiet."""
    if not _quiet:
        print(harmless(line), file=sys.stderr)


@cache
def say_once(line: str, about: Hashable = None) -> None:
    """The same, the first time in this process: what several steps of a command come across.  about: one of two things
    of which the same is to be said."""
    say(line)
