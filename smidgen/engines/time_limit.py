"""A limit for work that is repeated: how often it can be done in the time that is left.

The clock is asked through this module (`time_limit.now()`), so that tests can set it.
"""

import time


def now() -> float:
    """Seconds on a clock that only goes forward."""
    return time.perf_counter()


class TimeLimit:
    """So many seconds from now on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = now() + seconds

    @property
    def left(self) -> float:
        """Seconds; negative when it is over."""
        return self._end - now()

    def times(self, wanted: int, seconds_each: float, share: float = 1.0) -> int:
        """How often something fits into this share of what is left: at most `wanted`, 0 where not even once."""
        if seconds_each <= 0:
            return wanted
        return max(0, min(wanted, int(share * self.left / seconds_each)))
