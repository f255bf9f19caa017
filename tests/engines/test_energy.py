"""Energy counters as Linux shows them in folders, and joules of a token from them."""

import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any

import pytest

from smidgen.engines import energy, energy_counters
from smidgen.engines.energy import EnergyMeter, Spent, difference, energy_of, grams_of_co2
from smidgen.engines.energy_counters import BatteryCounter, NvmlCounter, batteries, gpu_counters, rapl_counters


@pytest.fixture
def zone(tmp_path: Path) -> Callable[..., Path]:
    """Makes a zone of powercap."""

    def make(folder: str, name: str, microjoules: int, most: int = 10_000_000) -> Path:
        place = tmp_path / "powercap" / folder
        place.mkdir(parents=True)
        for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
            (place / file).write_text(f"{value}\n")
        return place

    return make


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's folders are those of the test."""
    monkeypatch.setattr(energy, "rapl_counters", lambda: rapl_counters(tmp_path / "powercap"))
    monkeypatch.setattr(energy, "batteries", lambda: batteries(tmp_path / "power_supply"))
    return tmp_path / "powercap"


def test_packages_and_memory_count_once(zone: Callable[..., Path], powercap: Path) -> None:
    """What is in a package, and what contains it, is not added to it."""
    zone("intel-rapl:0", "package-0", 5_000_000)
    zone("intel-rapl:0:0", "core", 4_000_000)
    zone("intel-rapl:0:1", "dram", 2_000_000)
    zone("intel-rapl:1", "package-1", 7_000_000)
    zone("intel-rapl:1:0", "dram", 3_000_000)
    zone("intel-rapl:2", "psys", 90_000_000)
    zone("intel-rapl-mmio:0", "package-0", 5_000_000)
    with EnergyMeter() as meter:
        assert meter.read() == {"package-0": 5.0, "dram": 2.0, "package-1": 7.0, "dram-1": 3.0}


def test_a_counter_that_starts_again_goes_on(zone: Callable[..., Path], powercap: Path) -> None:
    place = zone("intel-rapl:0", "package-0", 9_000_000)
    with EnergyMeter() as meter:
        before = meter.read()
        (place / "energy_uj").write_text("500000\n")
        assert difference(before, meter.read()) == {"package-0": pytest.approx(1.5)}
        before = meter.read()
        (place / "energy_uj").write_text("700000\n")
        assert difference(before, meter.read()) == {"package-0": pytest.approx(0.2)}


def test_no_counter_and_one_that_may_not_be_read_have_different_reasons(
    zone: Callable[..., Path], powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EnergyMeter() as meter:
        assert meter.read() is None and "no RAPL" in meter.reason
    zone("intel-rapl:0", "package-0", 1)

    def refused(_counter: Any, _file: str) -> int:
        raise PermissionError

    monkeypatch.setattr(energy_counters.RaplCounter, "_read", refused)
    with EnergyMeter() as meter:
        assert meter.read() is None and "root only" in meter.reason and meter.names == []


def test_a_counter_that_is_gone_ends_counting_with_a_reason(zone: Callable[..., Path], powercap: Path) -> None:
    place = zone("intel-rapl:0", "package-0", 1_000_000)
    with EnergyMeter() as meter:
        before = meter.read()
        (place / "energy_uj").write_text("not a number\n")
        assert difference(before, meter.read()) is None
        found = energy_of([Spent(10, 1.0, 2.0, None)], [Spent(5, 1.0, 2.0, None)], meter)
    assert found["joules_per_token"] is None and found["reason"] == "an energy counter could no longer be read"
    assert found["decode"]["cpu_seconds_per_token"] == 0.4 and found["prefill"]["cpu_seconds_per_token"] == 0.2


def test_joules_of_a_token_gross_and_net_for_reading_and_writing(zone: Callable[..., Path], powercap: Path) -> None:
    place = zone("intel-rapl:0", "package-0", 0)
    zone("intel-rapl:0:0", "dram", 0)
    with EnergyMeter() as meter:
        before = meter.read()
        (place / "energy_uj").write_text("6000000\n")
        meter.watch_idle(before, 2.0)
        read = [Spent(100, 1.0, 2.0, {"package-0": 20.0, "dram": 5.0})]
        written = [Spent(10, 1.0, 2.0, {"package-0": joules, "dram": 2.0}) for joules in (16.0, 18.0, 30.0)]
        found = energy_of(read, written, meter)
    assert found["reason"] is None and found["domains"] == ["package-0", "dram"] and found["idle_watts"] == 3.0
    assert found["prefill"]["joules_per_token"] == 0.25
    assert found["prefill"]["joules_per_token_net"] == pytest.approx(0.22)
    assert found["joules_per_token"] == found["decode"]["joules_per_token"] == 2.0
    assert found["decode"]["joules_per_token_net"] == pytest.approx(1.7)
    assert found["decode"]["joules_per_token_by_domain"] == {"package-0": 1.8, "dram": 0.2}
    assert grams_of_co2(found, 400.0) == {
        "grid_grams_per_kwh": 400.0,
        "grams_per_1000_tokens": {"prefill": pytest.approx(1 / 36), "decode": pytest.approx(2 / 9)},
        "reason": None,
    }


def test_counters_that_do_not_move_are_no_energy(zone: Callable[..., Path], powercap: Path) -> None:
    zone("intel-rapl:0", "package-0", 77)
    with EnergyMeter() as meter:
        still = Spent(10, 1.0, 2.0, difference(meter.read(), meter.read()))
        found = energy_of([still], [still], meter)
    assert found["joules_per_token"] is None and found["reason"] == "the energy counters did not move"
    assert grams_of_co2(found, 400.0)["grams_per_1000_tokens"] == {"prefill": None, "decode": None}


def battery(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def test_a_battery_counts_where_nothing_else_does_and_only_while_it_is_used(
    zone: Callable[..., Path], powercap: Path
) -> None:
    supplies = powercap.parent / "power_supply"
    battery(supplies / "A", type="Battery", scope="Device", status="Discharging", power_now=1)  # of a mouse
    battery(supplies / "AC", type="Mains")
    own = battery(supplies / "BAT0", type="Battery", status="Charging", power_now=9_000_000)
    with EnergyMeter() as meter:
        assert meter.read() is None and "no battery in use" in meter.reason
    (own / "status").write_text("Discharging\n")
    with EnergyMeter() as meter:
        assert meter.names == ["battery"]
    zone("intel-rapl:0", "package-0", 77)
    with EnergyMeter() as meter:
        assert meter.names == ["package-0"]


def test_watts_of_a_battery_add_up_until_it_is_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = count()
    monkeypatch.setattr("smidgen.engines.time_limit.now", lambda: float(next(seconds)))
    supply = battery(tmp_path / "BAT0", status="Discharging", current_now=2_000_000, voltage_now=5_000_000)
    with BatteryCounter(supply, every_s=0.001) as counter:
        while not (joules := counter.joules()):
            sleep(0.001)
        assert joules % 10 == 0  # 10 W in whole seconds
        (supply / "status").write_text("Full\n")
        with pytest.raises(OSError, match="no longer in use"):
            while True:
                counter.joules()
                sleep(0.001)


def test_nvidias_cards_count_where_the_engine_computes_on_them(
    zone: Callable[..., Path], powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone("intel-rapl:0", "package-0", 2_000_000)
    nvml = SimpleNamespace(
        NVMLError=RuntimeError, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda place: place, nvmlDeviceGetTotalEnergyConsumption=lambda place: 4500 + place,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert [counter.name for counter in gpu_counters()] == ["gpu0"]
    with EnergyMeter(with_gpus=True) as meter:
        assert meter.read() == {"package-0": 2.0, "gpu0": 4.5}
    with EnergyMeter() as meter:
        assert meter.names == ["package-0"]

    def failing(_handle: int) -> int:
        raise RuntimeError("lost")

    nvml.nvmlDeviceGetTotalEnergyConsumption = failing
    with pytest.raises(OSError, match="lost"):
        NvmlCounter("gpu0", nvml, 0).joules()
    with EnergyMeter(with_gpus=True) as meter:  # the processors alone would be a wrong answer
        assert meter.read() is None and "graphics card" in meter.reason
