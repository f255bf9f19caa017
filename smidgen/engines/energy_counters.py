"""Counters of energy that this machine may have, by the name of what they count.

package-0, dram   processors and memory (RAPL, Intel and AMD, through Linux's powercap).
gpu0              a graphics card of NVIDIA's, through their own `nvidia-ml-py` where that is installed.
battery           the whole device while it runs on its battery.

RAPL's counters start again at zero; `max_energy_range_uj` is the most that one shows.
https://www.kernel.org/doc/html/latest/power/powercap/powercap.html
"""

from pathlib import Path
from threading import Event, Thread
from typing import Any, Protocol

from smidgen.closing import Closing
from smidgen.engines import time_limit

_POWERCAP, _POWER_SUPPLY = Path("/sys/class/powercap"), Path("/sys/class/power_supply")
_COUNTED = ("package", "dram")  # `core` and `uncore` are in a package, `psys` contains it
_BATTERY_EVERY_S = 0.25


class Counter(Protocol):
    """Something that counts energy.  name: what it counts, such as `package-0`."""

    name: str

    def joules(self) -> float:
        """Counted since some moment. Raises OSError where it can no longer be read."""
        ...


class RaplCounter:
    """One zone of powercap, whose counter may start again at zero at most once between two readings."""

    def __init__(self, name: str, zone: Path) -> None:
        self.name, self._zone = name, zone
        self._last, self._wrapped = self._read("energy_uj"), 0

    def joules(self) -> float:
        value = self._read("energy_uj")
        if value < self._last:
            self._wrapped += self._read("max_energy_range_uj")
        self._last = value
        return (value + self._wrapped) / 1e6

    def _read(self, file: str) -> int:
        try:
            return int((self._zone / file).read_text())
        except ValueError as error:
            raise OSError(f"no number in {file}") from error


class NvmlCounter:
    """A graphics card.  nvml: the module `pynvml` or what stands in for it."""

    def __init__(self, name: str, nvml: Any, handle: Any) -> None:
        self.name, self._nvml, self._handle = name, nvml, handle

    def joules(self) -> float:
        try:
            return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1000
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from error


class BatteryCounter(Closing):
    """A battery that is being used: it tells watts, which are added up here every so often until it is closed."""

    name = "battery"

    def __init__(self, supply: Path, every_s: float = _BATTERY_EVERY_S) -> None:
        self._supply, self._every_s, self._closed = supply, every_s, Event()
        self._joules, self._failed = 0.0, False
        self._watts()
        self._thread = Thread(target=self._add_up, daemon=True)
        self._thread.start()

    def joules(self) -> float:
        if self._failed:
            raise OSError("the battery is no longer in use")
        return self._joules

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _add_up(self) -> None:
        before = time_limit.now()
        while not self._closed.wait(self._every_s):
            try:
                watts = self._watts()
            except OSError:
                self._failed = True
                return
            now = time_limit.now()
            self._joules, before = self._joules + watts * (now - before), now

    def _watts(self) -> float:
        """Raises OSError unless it is being used and says how much."""
        if (self._supply / "status").read_text().strip() != "Discharging":
            raise OSError("the battery is not in use")
        try:
            if (self._supply / "power_now").exists():
                return abs(int((self._supply / "power_now").read_text())) / 1e6
            current, voltage = (int((self._supply / name).read_text()) for name in ("current_now", "voltage_now"))
        except ValueError as error:
            raise OSError("no number") from error
        return abs(current * voltage) / 1e12


def rapl_counters(powercap: Path = _POWERCAP) -> tuple[list[Counter], bool]:
    """Those of the processors, and whether they may not be read: some of them alone would be no total.

    A package is `intel-rapl:0`, what it contains `intel-rapl:0:1`; memory is listed there too, but counted apart.
    """
    found, refused = list[Counter](), False
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if not name.startswith(_COUNTED):
                continue
            package = zone.name.split(":")[1]
            taken = {counter.name for counter in found}
            found.append(RaplCounter(f"{name}-{package}" if name in taken else name, zone))
        except PermissionError:
            refused = True
        except OSError:
            continue
    return ([], True) if refused else (found, False)


def gpu_counters() -> list[Counter]:
    """NVIDIA's cards that count energy (Volta and later), where `nvidia-ml-py` is installed."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError:
        return []
    found = list[Counter]()
    try:
        pynvml.nvmlInit()
        for place in range(pynvml.nvmlDeviceGetCount()):
            counter = NvmlCounter(f"gpu{place}", pynvml, pynvml.nvmlDeviceGetHandleByIndex(place))
            counter.joules()
            found.append(counter)
    except (pynvml.NVMLError, OSError):
        pass  # no driver, or a card too old to count
    return found


def batteries(power_supply: Path = _POWER_SUPPLY) -> list[BatteryCounter]:
    """The first battery of this device that is in use and says how much."""
    for supply in sorted(power_supply.glob("*")):
        try:
            if (supply / "type").read_text().strip() == "Battery" and not _is_of_another_device(supply):
                return [BatteryCounter(supply)]
        except OSError:
            continue
    return []


def _is_of_another_device(supply: Path) -> bool:
    """A mouse or a headset tells of its battery, too."""
    try:
        return (supply / "scope").read_text().strip() == "Device"
    except OSError:
        return False
