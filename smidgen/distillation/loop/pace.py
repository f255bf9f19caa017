"""How fast a training goes, and whether there is time for another step."""

import time

_SPARE = 1.2  # what comes may take this much longer than what was


class Pace:
    """Clock of a training.

    seconds: that it may take in all; None for no limit.  spent: seconds that were used before it was resumed.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._started = time.monotonic()
        self._step = self._evaluation = 0.0

    def go_on_after(self, spent: float) -> None:
        """Count the seconds of an earlier run too."""
        self._started = time.monotonic() - spent

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started

    def left(self) -> float | None:
        """Seconds until the limit; None without one."""
        return None if self._seconds is None else self._seconds - self.elapsed()

    def share(self) -> float:
        """How much of the time is used up; 0 without a limit."""
        return 0.0 if self._seconds is None else min(1.0, self.elapsed() / self._seconds)

    def stepped(self, seconds: float) -> None:
        """A step took so long. Single slow ones are forgotten in time."""
        self._step = max(seconds, 0.8 * self._step)

    def evaluated(self, seconds: float) -> None:
        """An evaluation took so long."""
        self._evaluation = max(seconds, self._evaluation)

    def is_over(self) -> bool:
        """Whether another step, and the evaluation that comes after the last, would end too late."""
        ahead = _SPARE * (self._step + self._evaluation)
        return self._seconds is not None and self.elapsed() + ahead > self._seconds
