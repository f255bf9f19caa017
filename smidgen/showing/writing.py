"""An answer while it is written, by a thread of its own: to be looked at now and then, and stopped.

Each model works on so many answers at a time; the others wait in line. Whoever closes the window looks no more, and
the answer ends soon after.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from smidgen import progress
from smidgen.engines.llama_cpp.reply import Reply
from smidgen.errors import SmidgenError

_LOOK_EVERY_S = 0.05
_ABANDONED_S = 15.0  # without a look

State = Literal["waiting", "writing", "done", "stopped", "failed"]


class Line:
    """Who may work next: first come, first served. places: how many at a time."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def place(self, gives_up: Callable[[], bool]) -> Iterator[bool]:
        """A place, once it is free; False for whoever gave up before."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            while not (self._free and self._waiting[0] is ticket) and not gives_up():
                self._changed.wait(_LOOK_EVERY_S)
            self._waiting.remove(ticket)
            has_place = not gives_up() and self._free > 0
            self._free -= has_place
            self._changed.notify_all()
        try:
            yield has_place
        finally:
            with self._changed:
                self._free += has_place
                self._changed.notify_all()


class Writing:
    """One answer. begin: asks the engine for it.  line: of the model.

    state, and with it: text so far; reply, with its counts; error, in words for a person, where it failed.
    """

    def __init__(self, begin: Callable[[], Reply], line: Line) -> None:
        self.state: State = "waiting"
        self.reply: Reply | None = None
        self.error: str | None = None
        self._begin, self._line = begin, line
        self._pieces: list[str] = []
        self._told_to_stop = False
        self._looked_at = time.monotonic()
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def text(self) -> str:
        """What there is of it."""
        return "".join(self._pieces)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state not in ("waiting", "writing")

    def stop(self) -> None:
        """End it as it is. What was written stays."""
        self._told_to_stop = True
        if not self.ended:
            self.state = "stopped"

    async def looks(self) -> AsyncGenerator[None, None]:
        """Comes back each time that there is something new to see, the last time when it has ended.

        Whoever leaves before stops the writing.
        """
        seen: tuple[State, int] | None = None
        try:
            while True:
                self._looked_at = time.monotonic()
                now = self.state, len(self._pieces)
                if now != seen:
                    seen = now
                    yield
                if now[0] not in ("waiting", "writing"):
                    return
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            self.stop()

    def _gives_up(self) -> bool:
        return self._told_to_stop or time.monotonic() - self._looked_at > _ABANDONED_S

    def _run(self) -> None:
        try:
            with self._line.place(self._gives_up) as has_place:
                if has_place:
                    self._write()
                else:
                    self.stop()
        except SmidgenError as error:
            self._fail(str(error))
        except Exception as error:  # a thread has nobody above it; the text of the error may be a person's
            progress.say(f"smidgen: an answer failed: unexpected {type(error).__name__}.")
            self._fail(f"unexpected {type(error).__name__}; this is a fault of smidgen's.")

    def _write(self) -> None:
        self.reply = self._begin()
        if not self._told_to_stop:
            self.state = "writing"
        for piece in self.reply:
            if self._gives_up():
                self.reply.close()
                self.stop()
                return
            self._pieces.append(piece)
        if not self._told_to_stop:
            self.state = "done"

    def _fail(self, message: str) -> None:
        self.error = message
        if not self._told_to_stop:
            self.state = "failed"
