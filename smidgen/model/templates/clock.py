"""The time that templates are told. Some write today's date into every chat: what belongs together gets one date."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, datetime, time

_moment: ContextVar[datetime | None] = ContextVar("moment", default=None)


def now() -> datetime:
    """The time that it is, unless it is held."""
    return _moment.get() or datetime.now()


@contextmanager
def held_on(day: date) -> Iterator[None]:
    """While this is open it is noon of that day."""
    before = _moment.set(datetime.combine(day, time(12)))
    try:
        yield
    finally:
        _moment.reset(before)
