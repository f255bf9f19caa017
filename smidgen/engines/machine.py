"""Facts about the machine that runs a model: cores, name, memory, energy counters.

Light, because the process of an engine loads it, and that counts as the engine's memory.
"""

import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from smidgen.memory import total_memory

_RAPL = Path("/sys/class/powercap")


def default_threads() -> int:
    """Physical cores that this process may use, never more than its container allows: the quickest number."""
    cores = {_core_of(cpu) for cpu in _allowed_cpus()}
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
