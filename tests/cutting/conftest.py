"""What all tests of cuts share: a cut in this process leaves it as it was, and measures speed in one short round."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from smidgen.cutting import budget  # noqa: F401 - before its function is replaced, which it keeps under its own name
from smidgen.engines import bandwidth
from smidgen.engines.llama_cpp import bench


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a home of its own."""
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def quick_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round, one length, and a small stretch of memory: speed has tests of its own, and cuts in a process measure
    it in full."""
    monkeypatch.setattr(bench, "measure_speed", partial(bench.measure_speed, repeats=1, contexts=(64,)))
    monkeypatch.setattr(bandwidth, "_BANDWIDTH_BYTES", 16 << 20)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """`--threads` is for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
