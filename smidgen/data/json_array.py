"""The elements of one long JSON list, each cut out as its bytes pass by: the list is never in memory as a whole.

Only what separates elements is looked at: brackets, commas, and the strings in which these mean nothing. Whether an
element is JSON is for who parses it to find out. Torch-free.
"""

import re
from collections.abc import Iterable, Iterator

_STRUCTURE, _IN_STRING = re.compile(rb'["\[\]{},]'), re.compile(rb'["\\]')


class Elements:
    """The elements of a list that is read in pieces, the first of which begins with the list's bracket.

    longest: bytes of an element that is kept in memory.
    closed: whether the list has come to its end, and rest: what stands behind it; known when all was read.
    """

    def __init__(self, pieces: Iterable[bytes], longest: int) -> None:
        self._pieces, self._longest = pieces, longest
        self._depth, self._in_string, self._skipped = 0, False, 0
        self._element, self._too_long = bytearray(), False
        self.closed, self.rest = False, b""

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        """For each element: bytes of the list up to its end, and its own; None for one that is too long."""
        before = number = 0
        for piece in self._pieces:
            start = 0 if before else 1  # behind the bracket
            for place in self._separators(piece):
                self._keep(piece[start:place])
                start = place + 1
                found = self._taken()
                if number or not self.closed or found is None or found.strip():  # else the list is empty
                    number += 1
                    yield before + start, found
            if self.closed:
                self.rest += piece[start:].strip()[:1]
            else:
                self._keep(piece[start:])
            before += len(piece)

    def _separators(self, piece: bytes) -> Iterator[int]:
        """Where in a piece elements end: at commas of the list itself, and at its last bracket."""
        at = self._skipped
        while not self.closed and (match := (_IN_STRING if self._in_string else _STRUCTURE).search(piece, at)):
            mark, at = match[0], match.end() + (match[0] == b"\\")
            if mark == b'"':
                self._in_string = not self._in_string
            elif mark in b"[{":
                self._depth += 1
            elif mark in b"]}":
                self._depth -= 1
                self.closed = self._depth == 0
            if self.closed or (mark == b"," and self._depth == 1):
                yield match.start()
        self._skipped = max(0, at - len(piece))

    def _keep(self, part: bytes) -> None:
        self._too_long |= len(self._element) + len(part) > self._longest
        if self._too_long:
            self._element.clear()
        else:
            self._element += part

    def _taken(self) -> bytes | None:
        """The element that has ended."""
        found = None if self._too_long else bytes(self._element)
        self._element.clear()
        self._too_long = False
        return found
