"""Facts about the machine."""

from pathlib import Path

import numpy as np
import pytest

from smidgen.engines import machine
from smidgen.engines.bandwidth import BandwidthMeter
from smidgen.memory import available_memory, total_memory, usable_memory


def test_threads_that_wait_for_a_processor_are_counted(tmp_path: Path) -> None:
    for thread, counted in (("11", "5000000000 2000000000 7"), ("12", "1000000000 500000000 3")):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(f"{counted}\n")
    assert machine.processor_time(tmp_path)["waited_seconds"] == 2.5
    assert machine.processor_time()["cpu_seconds"] > 0


def test_where_waiting_is_not_counted_it_is_not_known(tmp_path: Path) -> None:
    assert machine.processor_time(tmp_path / "no such folder")["waited_seconds"] is None
    (tmp_path / "11").mkdir()
    (tmp_path / "11" / "schedstat").write_text("0 0 0\n")  # a kernel that was built without the counters
    assert machine.processor_time(tmp_path)["waited_seconds"] is None


def test_only_processors_that_we_may_use_count_and_not_while_they_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "allowed_cpus", lambda: [0, 10])
    ticks = machine.os.sysconf("SC_CLK_TCK")
    lines = [f"{name} {ticks} {ticks} 0 {99 * ticks} 5 0 0 {ticks} 0 0" for name in ("cpu", "cpu0", "cpu1", "cpu10")]
    (tmp_path / "stat").write_text("\n".join([*lines, "intr 5 0 0", "ctxt 7"]))
    assert machine.busy_seconds(tmp_path / "stat") == 6.0
    assert machine.busy_seconds(tmp_path / "none") is None


def test_peak_memory_counts_what_was_touched() -> None:
    before = machine.peak_memory()
    block = np.ones(64 << 20, dtype=np.uint8)
    assert machine.peak_memory() >= min(before, 64 << 20) and block.nbytes == 64 << 20


def test_resident_memory_is_in_parts_or_in_one(tmp_path: Path) -> None:
    block = np.ones(64 << 20, dtype=np.uint8)
    resident, parts = machine.resident_memory()
    in_one, unknown = machine.resident_memory(tmp_path / "no such file")
    assert unknown is None and abs(resident - in_one) < 32 << 20 < block.nbytes < in_one
    if parts is not None:
        assert parts["anonymous"] + parts["mapped"] == resident and parts["anonymous"] > block.nbytes


def test_a_container_may_allow_less_memory(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    assert usable_memory(limit) == total_memory()
    limit.write_text("max\n")
    assert usable_memory(limit) == total_memory()
    limit.write_text("100000000\n")
    assert usable_memory(limit) == 100_000_000


def test_what_is_free_is_what_linux_says(tmp_path: Path) -> None:
    told = tmp_path / "meminfo"
    assert available_memory(told) == usable_memory()  # nobody says
    told.write_text("MemTotal:       24000000 kB\nMemAvailable:     1000 kB\n")
    assert available_memory(told) == 1_024_000
    told.write_text("MemAvailable: much\n")
    assert available_memory(told) == usable_memory()
    assert 0 < available_memory() <= usable_memory()


def test_bandwidth_and_threads_are_positive() -> None:
    meter = BandwidthMeter(machine.default_threads())
    meter.take_turn()
    assert meter.best > 1e8
    assert "cores" in machine.machine_name()
