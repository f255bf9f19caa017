"""Memory and processor time of a process together with all that it has started, moment by moment (Linux).

What counts as memory is the proportional share of Linux's `smaps_rollup`, added up over all processes: a page that two
of them map, such as one of a model file that both read, counts half for each, so once in the sum. A page that a process
outside of the tree maps as well counts only in part; on a quiet machine these are a few libraries. It has two parts:

- anonymous: what the processes have written, which the system cannot drop (swapped pages are in it);
- mapped: pages of files that they have mapped and read, which it can drop and read again.

Pages of files that no process maps, which the system keeps for itself after reading or writing, are in none of them.
"""

import os
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from smidgen.closing import Closing

_PROC = Path("/proc")
_EVERY = 0.25  # seconds
_REST = 20  # times as long as a look takes: looking at much memory takes a while, and a processor
_KIB = 1024


@dataclass(frozen=True)
class Held:
    """Bytes that one process holds, or several: see above.  resident: shared pages counted for each process."""

    anonymous: int = 0
    mapped: int = 0
    resident: int = 0

    @property
    def whole(self) -> int:
        """All of it, each page once."""
        return self.anonymous + self.mapped

    def __add__(self, other: "Held") -> "Held":
        """Both."""
        return Held(
            self.anonymous + other.anonymous, self.mapped + other.mapped, self.resident + other.resident
        )  # fmt: skip


@dataclass(frozen=True)
class Moment:
    """What was held at one moment.  seconds: since the watch began.  by_process: what each runs, and holds."""

    seconds: float
    held: Held
    by_process: list[tuple[str, Held]]


def members(root: int) -> list[int]:
    """The process and all its descendants that are there now."""
    children = defaultdict[int, list[int]](list)
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children[int(fields[1])].append(int(entry.name))
    found = [root]
    for one in found:
        found += children[one]
    return found


def cpu_seconds(root: int) -> float:
    """Processor time that the tree has had so far, those included that have ended and were waited for."""
    stats = [fields for one in members(root) if (fields := _stat(one))]
    return sum(int(ticks) for fields in stats for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def held_by(process: int) -> Held:
    """By one process; nothing if it has ended."""
    try:
        lines = (_PROC / str(process) / "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return Held()
    sizes = {name: _KIB * int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines)}
    anonymous, mapped, resident = (
        sum(sizes.get(name, 0) for name in names)
        for names in (("Pss_Anon", "SwapPss"), ("Pss_File", "Pss_Shmem"), ("Rss", "Swap"))
    )
    return Held(anonymous, mapped, resident)


def what_runs(process: int) -> str:
    """The Python module that a process runs, else its program."""
    try:
        words = (_PROC / str(process) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    if "-m" in words[:-1]:
        after = words[words.index("-m") + 1 :]
        return " ".join([after[0], *[word for word in after[1:2] if after[0] == "smidgen"]])
    return Path(words[0]).name


class Watch(Closing):
    """Looks at a process and its descendants every quarter of a second, from now until it is closed.

    Where a look takes long, it looks more rarely, so that looking takes at most a twentieth of one processor.
    moments: the size of everything at each look: seconds since the beginning, bytes, of which anonymous.
    peak: when the most was held.
    """

    def __init__(self, process: int) -> None:
        self._process, self._began = process, time.monotonic()
        self.moments: list[tuple[float, int, int]] = []
        self.peak = Moment(0.0, Held(), [])
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name="watch", daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def close(self) -> None:
        """Look no more. Safe to call twice."""
        self._closed.set()
        self._thread.join()

    def _keep_looking(self) -> None:
        took = 0.0
        while not self._closed.wait(max(_EVERY, _REST * took)):
            before = time.thread_time()
            self._look()
            took = time.thread_time() - before

    def _look(self) -> None:
        seconds = self.seconds
        by_process = [(one, held_by(one)) for one in members(self._process)]
        held = sum((one for _, one in by_process), Held())
        self.moments.append((seconds, held.whole, held.anonymous))
        if held.whole > self.peak.held.whole:
            named = [(what_runs(process), one) for process, one in by_process if one.resident]
            self.peak = Moment(seconds, held, named)


def _stat(process: int) -> list[str]:
    """Fields of /proc/PID/stat after the name, from the state on; none if it has ended."""
    try:
        return (_PROC / str(process) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
