"""How much memory the machine has, and giving back what is no longer used. Torch-free."""

import ctypes
import gc
import os
from contextlib import suppress
from pathlib import Path

_TOLD = Path("/proc/meminfo")
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def total_memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def usable_memory(limit: Path = _CONTAINER_LIMIT) -> int:
    """Bytes of main memory, or fewer where the container is given less (`docker run --memory`)."""
    try:
        return min(total_memory(), int(limit.read_text()))
    except (OSError, ValueError):  # no control group, or "max"
        return total_memory()


def available_memory(told: Path = _TOLD) -> int:
    """Bytes that a new program can have without others being pushed out (Linux says so); else all."""
    usable = usable_memory()
    with suppress(OSError, ValueError, IndexError):
        fields = dict(line.split(":", 1) for line in told.read_text().splitlines() if ":" in line)
        return min(usable, 1024 * int(fields.get("MemAvailable", "").split()[0]))
    return usable


def give_back_unused() -> None:
    """Let go of objects that only each other hold, and hand the allocator's free memory back to the system (glibc)."""
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):  # systems whose allocator has no such function
        ctypes.CDLL(None).malloc_trim(0)
