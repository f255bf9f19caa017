"""Both models are asked some items at a time, so that what an engine that dies leaves unfinished is not all.

After each portion both have answered the same items. Where a model fails later, those are compared, and the figures are
marked as a part: the first items in the order of the task, not a sample of all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from smidgen.errors import SmidgenError
from smidgen.progress import say

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


@dataclass
class Both(Generic[_Answer]):
    """Answers of both models to the same items, in order. reason: why there are not more; None where all are there."""

    original: list[_Answer] = field(default_factory=list)
    cut: list[_Answer] = field(default_factory=list)
    reason: str | None = None


def ask_both(
    portions: Sequence[_Asked],
    original: Callable[[_Asked], Sequence[_Answer]],
    cut: Callable[[_Asked], Sequence[_Answer]],
) -> Both[_Answer]:
    """What both answer to each portion. Raises SmidgenError where not even the first was finished."""
    both: Both[_Answer] = Both()
    for number, portion in enumerate(portions):
        try:
            found = original(portion), cut(portion)
        except SmidgenError as error:
            if number == 0:
                raise
            both.reason = str(error)
            say(f"The {len(both.original)} items that both models answered are kept, the rest is missing: {error}")
            return both
        both.original += found[0]
        both.cut += found[1]
    return both


def in_portions(items: Sequence[_Asked], size: int) -> list[Sequence[_Asked]]:
    """Items in runs of at most so many."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def partial_marks(both: Both[_Answer], asked: int) -> dict[str, object]:
    """What a card says of figures that are a part; empty where they are whole. asked: how many items there were."""
    if both.reason is None:
        return {}
    return {"partial": True, "items_asked": asked, "partial_reason": both.reason}


def partial_note(both: Both[_Answer], asked: int) -> list[str]:
    """The same in words."""
    if both.reason is None:
        return []
    return [f"only the first {len(both.original)} of {asked} items, because a model failed: {both.reason.rstrip('.')}"]
