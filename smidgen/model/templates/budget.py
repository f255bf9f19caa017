"""What one rendering of a template may cost.

One unit is one byte that is handled; each step (a node of the template that runs, an element that is looked at) costs
`STEP` more. Whatever a template does is paid for before it is done, so time and memory end together with the budget.
"""

import sys
import threading
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined

STEP = 64
MOST_WORK = 1 << 28  # a hostile template stops after a second or two; a chat of 1,000 messages takes a hundredth
LONGEST_TEXT = 1 << 24  # characters, or elements of a list
LONGEST_RANGE = 10_000
MOST_PIECES = 1 << 17  # that a text is split into
LARGEST_WIDTH = 999  # that a text or number is padded to by formatting
_MOST_BITS = 64  # of an integer
_DEEPEST = 64  # lists in lists

SCALARS = (str, int, float, type(None))
VIEWS = (KeysView, ValuesView, ItemsView)
_WRITABLE = (*SCALARS, list, tuple, Mapping, range, *VIEWS, Undefined)

_live = threading.local()


class TooMuchWork(SecurityError):
    """The budget is used up."""


@contextmanager
def budget(work: int = MOST_WORK) -> Iterator[None]:
    """Let this thread spend so much inside."""
    before = getattr(_live, "left", None)
    _live.left = work
    try:
        yield
    finally:
        _live.left = before


def spend(work: int) -> None:
    """Pay for work that is about to be done. Raises TooMuchWork where it cannot be paid."""
    left = _live.left = _live.left - work
    if left < 0:
        raise TooMuchWork("it does more work than any real template needs")


def weigh(value: Any) -> int:
    """Pay for going through a value and all that is in it, each time that it is in it; how much that was."""
    before = _live.left
    _weigh(value, 0)
    return before - _live.left


def _weigh(value: Any, depth: int) -> None:
    spend(STEP + sys.getsizeof(value))
    if isinstance(value, SCALARS):
        return
    if depth == _DEEPEST:
        raise SecurityError(f"it puts lists in lists, more than {_DEEPEST} deep")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _weigh(key, depth + 1)
            _weigh(item, depth + 1)
    elif isinstance(value, (list, tuple, *VIEWS)):
        for item in value:
            _weigh(item, depth + 1)


def counted(values: Iterable[Any], steps: int = 1) -> Iterator[Any]:
    """The same elements, each paid for."""
    for value in values:
        spend(steps * STEP)
        yield value


def text_of(value: Any) -> str:
    """`str(value)`, for what a template may write."""
    if isinstance(value, str):
        spend(sys.getsizeof(value))
    elif isinstance(value, _WRITABLE):
        spend(3 * weigh(value))  # characters that Python escapes take up to four times the room
    else:
        raise SecurityError(f"it writes a {type(value).__name__}, which is no text")
    return fitting(str(value))


def fitting(value: Any) -> Any:
    """The same value, if it is not larger than any may be."""
    if isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            raise SecurityError(f"it computes a number of more than {_MOST_BITS} bits")
    elif isinstance(value, str | list | tuple) and len(value) > LONGEST_TEXT:
        raise SecurityError(f"it makes a value of more than {LONGEST_TEXT} characters or elements")
    return value


def key(value: Any) -> Any:
    """The same value, if it may be looked up: texts and numbers, since others can be made that are slow to find."""
    if not isinstance(value, (*SCALARS, Undefined)):
        raise SecurityError(f"it looks up a {type(value).__name__} where a text or a number belongs")
    return fitting(value)
