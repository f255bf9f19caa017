"""Memory of a process counts all that it has started, and a page of a file once."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.process_tree import Held, Watch, cpu_seconds, held_by, members, what_runs

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells it there")

_SIZE = 64 * 2**20
_MAPPING = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    total = sum(pages[place] for place in range(0, len(pages), 4096))
"""
_HOLDING = """
import subprocess, sys
own = bytearray(b"x" * int(sys.argv[2]))
children = [
    subprocess.Popen([sys.executable, "-c", sys.argv[3] + "; print(1, flush=True); input()", sys.argv[1]],
                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    for _ in range(2)
]
for child in children:
    child.stdout.readline()
print(1, flush=True)
input()
for child in children:
    child.kill()
    child.wait()
"""


def test_children_count_and_shared_pages_count_once(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.write_bytes(b"x" * _SIZE)
    command = [sys.executable, "-c", _HOLDING, str(shared), str(_SIZE), _MAPPING.strip()]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin is not None and parent.stdout is not None
    try:
        with Watch(parent.pid) as watch:
            parent.stdout.readline()
            tree = members(parent.pid)
            now = sum((held_by(one) for one in tree), Held())
            while len(watch.moments) < 2 or watch.moments[-1][1] < 2 * _SIZE:
                time.sleep(0.05)
        assert len(tree) == 3
        assert _SIZE <= now.anonymous < 2 * _SIZE
        assert 0.9 * _SIZE <= now.mapped < 2 * _SIZE
        assert now.resident > now.whole + 0.9 * _SIZE
        assert watch.peak.held.whole == max(whole for _, whole, _ in watch.moments) >= 2 * _SIZE
        assert len(watch.peak.by_process) == 3
        assert cpu_seconds(parent.pid) > 0
    finally:
        parent.communicate("\n")


def test_what_has_ended_holds_nothing_and_is_no_error() -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    assert held_by(gone.pid) == Held()
    assert what_runs(gone.pid) == ""
    assert cpu_seconds(gone.pid) == 0
