"""How quick this machine reads memory.

That matters because decoding one token reads every weight once: bytes per token divided into the read bandwidth is the
fastest that any engine can decode.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from smidgen.memory import total_memory

_BANDWIDTH_BYTES = 512 << 20  # larger than the caches of common processors


class BandwidthMeter:
    """Bytes a second that `threads` threads together read from memory; `best` of the turns taken so far."""

    def __init__(self, threads: int) -> None:
        self.best = 0.0
        self._memory = np.ones(min(_BANDWIDTH_BYTES, total_memory() // 8) // 8, dtype=np.int64)
        self._pieces = np.array_split(self._memory, threads)

    def take_turn(self) -> None:
        """Read the whole of a large array once."""
        with ThreadPoolExecutor(len(self._pieces)) as pool:
            start = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, self._pieces))
            self.best = max(self.best, self._memory.nbytes / (time.perf_counter() - start))
