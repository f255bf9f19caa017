"""The line in front of an engine: first come, first served, and not longer than a client wants to stand in."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from smidgen.serving.refusals import Refusal

_FIRST_GUESS_S = 5.0  # of an answer's duration, before there was one
_NEWS = 0.2  # how much the latest answer says about the next


class Line:
    """slots: requests at a time.  longest: how many more may wait; the next is refused with status 503."""

    def __init__(self, slots: int, longest: int) -> None:
        self._slots, self._longest = slots, longest
        self._free = asyncio.Semaphore(slots)  # wakes those who wait in the order in which they came
        self._answer_s = _FIRST_GUESS_S
        self.waiting = self.working = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a slot and keep it. Leaving the context, also while waiting, makes the place free at once.

        Raises Refusal, with the seconds after which to try again, where the line is full.
        """
        if self._free.locked() and self.waiting >= self._longest:
            rounds = 1 + self.waiting // self._slots
            raise Refusal(
                f"the server is busy: {self.working} requests are being answered and {self.waiting} wait; try again "
                "later.", 503, code="overloaded", retry_after=rounds * self._answer_s,
            )  # fmt: skip
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.working += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self.working -= 1
            self._answer_s += _NEWS * (time.monotonic() - began - self._answer_s)
            self._free.release()
