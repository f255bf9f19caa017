"""What it costs to open a file, in a process of its own: how a bounded reader is held to its bounds."""

import subprocess
import sys
from pathlib import Path

_MEASURE = """
import importlib, sys, time
from smidgen.errors import SmidgenError
reader = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
start = time.process_time()
try:
    reader.open(sys.argv[3])
    print("read")
except SmidgenError:
    print("refused")
seconds = time.process_time() - start
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
print(seconds, peak)
"""


def cost_of_opening(reader: type, path: Path) -> tuple[str, float, float]:
    """ "read" or "refused", seconds of processor time, and the peak of the resident set in bytes. Linux only."""
    command = [sys.executable, "-c", _MEASURE, reader.__module__, reader.__name__, str(path)]
    outcome, figures = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    seconds, peak = map(float, figures.split())
    return outcome, seconds, peak
