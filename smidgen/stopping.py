"""Ctrl-C and SIGTERM, for work that can be saved: after the step in hand, and with a word on how to go on. Torch-free.

Handlers are set in the main thread alone, as Python wants it, and what a program ignores (one in the background, or
one of a team that its starter ends) stays ignored.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from smidgen.progress import say

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FAILED = 128  # a shell's exit code of what a signal has ended is the signal's number and this


class Stopped(KeyboardInterrupt):
    """A person, or the system, has ended the work.

    number: of the signal.  said: how far it was.  kept: whether it can be gone on with (`resume`).
    """

    def __init__(self, number: int = signal.SIGINT, said: str = "Stopped.", kept: bool = False) -> None:
        super().__init__(number, said, kept)
        self.number, self.said, self.kept = int(number), said, kept

    def __str__(self) -> str:
        return f"{self.said} Go on with --resume." if self.kept else self.said

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for SIGTERM."""
        return _FAILED + self.number


class Wish:
    """number: of the signal that asked for an end; None as long as there was none."""

    number: int | None = None


@contextmanager
def between_steps() -> Iterator[Wish]:
    """While this is open, a first signal is a wish for whoever looks between two steps; a second one ends at once."""
    wish = Wish()

    def ask(number: int, frame: FrameType | None) -> None:
        if wish.number is not None:
            raise Stopped(number)
        wish.number = number
        with suppress(RuntimeError):  # it may have come in the middle of printing
            say("Stopping after this step, which is saved. Once more to stop at once, without it.")

    with _handled(_SIGNALS, ask):
        yield wish


@contextmanager
def as_interrupts() -> Iterator[None]:
    """While this is open, SIGTERM ends the work as Ctrl-C does: with an exception, so that things are put in order."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled((signal.SIGTERM,), stop):
        yield


@contextmanager
def resumable(is_kept: Callable[[], bool]) -> Iterator[None]:
    """As `as_interrupts`, and whoever is interrupted learns whether the work can be gone on with."""
    with as_interrupts():
        try:
            yield
        except Stopped as stop:
            raise Stopped(stop.number, stop.said, stop.kept or is_kept()) from stop
        except KeyboardInterrupt as interrupt:
            raise Stopped(kept=is_kept()) from interrupt


@contextmanager
def _handled(numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    heard = [number for number in numbers if before[number] is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number] or signal.SIG_DFL)
