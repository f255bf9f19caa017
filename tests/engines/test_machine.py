"""Facts about the machine."""

from pathlib import Path

import numpy as np

from smidgen.engines import machine


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


def test_bandwidth_and_threads_are_positive() -> None:
    meter = machine.BandwidthMeter(machine.default_threads())
    meter.take_turn()
    assert meter.best > 1e8
    assert "cores" in machine.machine_name()
