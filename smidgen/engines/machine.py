"""Facts about the machine that runs a model: cores, name, memory bandwidth, energy counters. Torch-free.

The bandwidth matters because decoding one token reads every weight once: bytes per token divided into the read
bandwidth is the fastest that any engine can decode.
"""

import math
import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_RAPL = Path("/sys/class/powercap")
_BANDWIDTH_BYTES = 512 << 20  # larger than the caches of common processors
_BANDWIDTH_PASSES = 5


def default_threads() -> int:
    """Physical cores that this process may use, never more than its container allows: the quickest number."""
    cores = {_core_of(cpu) for cpu in _allowed_cpus()}
    return max(1, _container_limit(len(cores)))


def machine_name() -> str:
    """Processor, cores, memory and system, such as `AMD EPYC, 2 cores, 25 GB, Linux x86_64`."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{_processor()}, {default_threads()} cores, {memory / 1e9:.0f} GB, {platform.system()} {platform.machine()}"


def read_bandwidth(threads: int) -> float:
    """Bytes a second that `threads` threads read from memory together: the best of a few passes over a large array."""
    memory = np.ones(_BANDWIDTH_BYTES // 8, dtype=np.int64)
    pieces = np.array_split(memory, threads)
    best = math.inf
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_BANDWIDTH_PASSES):
            start = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, pieces))
            best = min(best, time.perf_counter() - start)
    return memory.nbytes / best


def energy_microjoules(root: Path = _RAPL) -> int | None:
    """The processors' energy counters (RAPL, Intel and AMD) added up, or None if there are none or none is readable."""
    try:
        return sum(int(counter.read_text()) for counter in _package_counters(root)) or None
    except OSError:
        return None


def energy_reason(root: Path = _RAPL) -> str:
    """Why `energy_microjoules` gives None."""
    if not any(_package_counters(root)):
        return "this machine shows no RAPL energy counter"
    return "the RAPL energy counter is readable by root only"


def _package_counters(root: Path) -> Iterator[Path]:
    """One counter per package, `intel-rapl:0`; its parts, `intel-rapl:0:1`, are contained in it."""
    return (folder / "energy_uj" for folder in root.glob("intel-rapl:*") if folder.name.count(":") == 1)


def _allowed_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _core_of(cpu: int) -> tuple[str, str] | int:
    """What identifies the physical core of a logical processor; the processor itself where the system does not say."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (topology / "physical_package_id").read_text(), (topology / "core_id").read_text()
    except OSError:
        return cpu


def _container_limit(cores: int) -> int:
    """At most the processors that the control group may keep busy (`docker run --cpus`), rounded up."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        return cores


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
