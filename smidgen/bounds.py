"""What options may be, checked where the command line and Python meet: in the verbs and their options.

The command line has bounds of its own, for its help. What comes from Python has seen none: numbers out of range, NaN,
a text where a list of texts is wanted.
"""

import operator
import os
from collections.abc import Collection, Iterable
from typing import Any

from smidgen.errors import SmidgenError, printable

MOST = 2**31 - 1  # of what is only counted: C libraries count in 32 bits
MOST_SEED = 2**63 - 1
MOST_THREADS = 512
MOST_MEMORY = 2**50  # bytes
MOST_WORKERS = 4096


def within(name: str, value: Any, least: float, most: float = MOST, *, whole: bool = True) -> None:
    """Raises SmidgenError unless `value` is a number from `least` to `most`; None is what nobody said, and passes.

    whole: an integer is wanted. NaN, true and false are no numbers.
    """
    if value is None or (_is_number(value, whole) and least <= value <= most):
        return
    kind = "a whole number" if whole else "a number"
    bounds = f"{kind} from {_shown(least)} to {_shown(most)}"
    if most == MOST_SEED:
        bounds = f"{_shown(least)} or more, and below 2^63 ({kind})"
    raise SmidgenError(f"{name} is {_shown(value)}; it must be {bounds}.")


def one_of(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises SmidgenError unless `value` is one of the choices."""
    if not (isinstance(value, str) and value in choices):
        raise SmidgenError(f"{name} is {_shown(value)}; choose from {', '.join(choices)}.")


def several(name: str, value: Any, *kinds: type) -> tuple[Any, ...]:
    """One or several as a tuple: a text or a path is one thing, not a list of its letters; None is none.

    kinds: what else than texts and paths may be given. Raises SmidgenError for anything else.
    """
    if value is None:
        return ()
    one = (str, os.PathLike, *kinds)
    found = (value,) if isinstance(value, one) or not isinstance(value, Iterable) else tuple(value)
    for part in found:
        if not isinstance(part, one):
            raise SmidgenError(f"{name} has {_shown(part)} in it; give a text or a path, or a list of them.")
    return found


def _is_number(value: Any, whole: bool) -> bool:
    if isinstance(value, bool) or isinstance(value, str | bytes):
        return False
    try:
        return operator.index(value) == value if whole else float(value) == value
    except (TypeError, ValueError, OverflowError):
        return False


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else printable(repr(value), 60)
