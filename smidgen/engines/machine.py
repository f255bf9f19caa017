"""Facts about the machine that runs a model: cores, name, memory, who has the processors.

Light, because the process of an engine loads it, and that counts as the engine's memory.
"""

import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TypedDict

from smidgen.memory import total_memory


def default_threads() -> int:
    """Physical cores that this process may use, never more than its container allows: the quickest number."""
    cores = {_core_of(cpu) for cpu in allowed_cpus()}
    return max(1, _container_limit(len(cores)))


def machine_name() -> str:
    """Processor, cores, memory and system, such as `AMD EPYC, 2 cores, 25 GB, Linux x86_64`."""
    system = f"{platform.system()} {platform.machine()}"
    return f"{_processor()}, {default_threads()} cores, {total_memory() / 1e9:.0f} GB, {system}"


def peak_memory() -> int:
    """The most resident memory this process has had, in bytes.

    Not `ru_maxrss` on Linux: a process inherits that figure from the one that started it.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class ResidentParts(TypedDict):
    """Bytes of a process's resident memory.

    anonymous: its own, which the system cannot drop.  mapped: pages of files, which it can drop and read again.
    """

    anonymous: int
    mapped: int


def resident_memory(status: Path = Path("/proc/self/status")) -> tuple[int, ResidentParts | None]:
    """Bytes of resident memory that this process has now, and its parts where the system tells them (Linux)."""
    try:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        anonymous, *mapped = (1024 * int(lines[name].split()[0]) for name in ("RssAnon", "RssFile", "RssShmem"))
    except (OSError, KeyError):
        answer = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, check=True)
        return 1024 * int(answer.stdout), None
    return anonymous + sum(mapped), ResidentParts(anonymous=anonymous, mapped=sum(mapped))


class ProcessorTime(TypedDict):
    """Seconds of processor time that a process has had so far, all its threads added up.

    waited_seconds: how long threads that could have computed had no processor; None where the system does not tell.
    """

    cpu_seconds: float
    waited_seconds: float | None


def processor_time(tasks: Path = Path("/proc/self/task")) -> ProcessorTime:
    """That of this process. Linux tells how long each thread has waited (`schedstat`: had, waited, turns)."""
    try:
        counted = [[int(word) for word in (task / "schedstat").read_text().split()] for task in tasks.iterdir()]
        had, waited, _turns = map(sum, zip(*counted, strict=True))
    except (OSError, ValueError):
        had = waited = 0
    return ProcessorTime(cpu_seconds=time.process_time(), waited_seconds=waited / 1e9 if had else None)


def busy_seconds(stat: Path = Path("/proc/stat")) -> float | None:
    """Seconds that the processors this process may use have computed since the system began, whoever for.

    What a virtual machine was not given (`steal`) counts: another has had it. None where the system does not tell.
    """
    allowed, ticks = {f"cpu{cpu}" for cpu in allowed_cpus()}, 0
    try:
        for line in stat.read_text().splitlines():
            name, *fields = line.split()
            if name in allowed:
                user, nice, system, _idle, _waiting_for_disks, irq, softirq, steal = map(int, fields[:8])
                ticks += user + nice + system + irq + softirq + steal
    except (OSError, ValueError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else None


def largest_cache(caches: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes that the largest cache of a processor holds; 0 where the system does not tell."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    try:
        sizes = [(index / "size").read_text().strip() for index in caches.glob("index*")]
        return max((int(size[:-1]) * units[size[-1]] for size in sizes), default=0)
    except (OSError, ValueError, KeyError, IndexError):
        return 0


def load_average() -> float | None:
    """How many threads on this machine computed or wanted to, on average over the last minute."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def allowed_cpus() -> list[int]:
    """The logical processors that this process may use."""
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
