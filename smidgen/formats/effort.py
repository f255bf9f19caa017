"""What a work has taken, over all the processes that it took: seconds, processor seconds, and memory.

A work that is interrupted and resumed is done by several processes, and what is said of it is about all of them. Each
notes every few seconds in the work's folder how long it has been at it, so that a process that is killed is counted
too, but for its last moments.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from smidgen.closing import Closing
from smidgen.errors import SmidgenError
from smidgen.formats.workspace import Workspace

_PART = "effort"
_EVERY = 2.0  # seconds


class Effort(Closing):
    """Counts from now until it is closed, and what earlier processes noted in the same folder comes on top.

    peak_memory: the most bytes that this process has held so far.  began: `time.monotonic()` when this process began
    with the work.  notes: whether it writes them down; of processes that work together only one does.
    """

    def __init__(
        self, workspace: Workspace, peak_memory: Callable[[], int] = lambda: 0, began: float | None = None,
        notes: bool = True,
    ) -> None:  # fmt: skip
        self._workspace, self._peak = workspace, peak_memory
        earlier = workspace.load_json(_PART) or {}
        self._seconds = float(earlier.get("seconds", 0.0)) - (time.monotonic() if began is None else began)
        self._processor_seconds = float(earlier.get("processor_seconds", 0.0)) - time.process_time()
        self._earlier_peak = int(earlier.get("peak_ram_bytes", 0))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep_noting, name="smidgen effort", daemon=True)
        if notes:
            self._thread.start()
        else:
            self._closed.set()

    @property
    def seconds(self) -> float:
        """All processes added up."""
        return self._seconds + time.monotonic()

    @property
    def processor_seconds(self) -> float:
        """Of all cores, all processes added up."""
        return self._processor_seconds + time.process_time()

    @property
    def peak_ram_bytes(self) -> int:
        """The most that one of the processes held."""
        return max(self._earlier_peak, self._peak())

    def close(self) -> None:
        """Note it a last time, if the folder is still there."""
        if not self._closed.is_set():
            self._closed.set()
            self._thread.join()
            self._note()

    def _keep_noting(self) -> None:
        while not self._closed.wait(_EVERY):
            self._note()

    def _note(self) -> None:
        found = {
            "seconds": self.seconds, "processor_seconds": self.processor_seconds, "peak_ram_bytes": self.peak_ram_bytes,
        }  # fmt: skip
        with suppress(OSError, SmidgenError):  # a full disk is reported by the work itself
            self._workspace.save_json(_PART, found)
