"""Facts about the machine."""

from pathlib import Path

import numpy as np

from smidgen.engines import machine
from smidgen.engines.bandwidth import BandwidthMeter
from smidgen.memory import total_memory, usable_memory


def test_energy_counts_packages_once(tmp_path: Path) -> None:
    for folder, value in (("intel-rapl:0", 5), ("intel-rapl:1", 7), ("intel-rapl:0:0", 1000)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "energy_uj").write_text(f"{value}\n")
    assert machine.energy_microjoules(tmp_path) == 12


def test_no_energy_counter_has_a_reason(tmp_path: Path) -> None:
    assert machine.energy_microjoules(tmp_path) is None
    assert "no RAPL" in machine.energy_reason(tmp_path)


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


def test_bandwidth_and_threads_are_positive() -> None:
    meter = BandwidthMeter(machine.default_threads())
    meter.take_turn()
    assert meter.best > 1e8
    assert "cores" in machine.machine_name()
