"""What day it is to a chat template: now, or the day on which an unfinished work was begun."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime

_STOPPED: ContextVar[datetime | None] = ContextVar("stopped", default=None)


def now() -> datetime:
    """The time, as templates see it."""
    return _STOPPED.get() or datetime.now()


@contextmanager
def stopped(at: datetime | None) -> Iterator[None]:
    """While the block runs, templates see this time; None for the clock's."""
    before = _STOPPED.set(at)
    try:
        yield
    finally:
        _STOPPED.reset(before)
