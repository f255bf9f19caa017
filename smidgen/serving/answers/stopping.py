"""Text on its way to a client, with the tokens that it is of, up to a text that ends it."""

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from smidgen.engines.llama_cpp.reply import StopTexts

_T = TypeVar("_T")


class Passing(Generic[_T]):
    """Pieces of text and what belongs to them. Text that may begin a stop text waits, and its tokens with it.

    Tokens of the stop text itself do not go out, but for one that begins with text before it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = StopTexts(stops)
        self._came = self._went = 0  # characters
        self._waiting: deque[tuple[int, int, _T]] = deque()  # where the text of each token begins and ends

    @property
    def found(self) -> bool:
        """Whether a stop text has come."""
        return self._stops.found

    def pass_on(self, piece: str, tokens: Sequence[_T] = ()) -> tuple[str, list[_T]]:
        """What may go out now. piece: the text of all these tokens."""
        self._waiting += [(self._came, self._came + len(piece), token) for token in tokens]
        self._came += len(piece)
        text = self._stops.pass_on(piece)
        self._went += len(text)
        ready: list[_T] = []
        while self._waiting and self._may_go(*self._waiting[0][:2]):
            ready.append(self._waiting.popleft()[2])
        return text, ready

    def rest(self) -> tuple[str, list[_T]]:
        """What waited, now that the answer has ended for another reason than a stop text."""
        ready = [token for _, _, token in self._waiting]
        self._waiting.clear()
        return self._stops.rest(), ready

    def _may_go(self, start: int, end: int) -> bool:
        return end <= self._went or (self.found and start < self._went)
