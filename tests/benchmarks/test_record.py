"""Commands are measured as they are, and results name no folder of this machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import record
from smidgen.errors import SmidgenError

PEAKS = """
import sys
from pathlib import Path
from benchmarks import record
small = record.run([sys.executable, "-c", "pass"], Path(sys.argv[1]))
large = record.run([sys.executable, "-c", "bytearray(400_000_000)"], Path(sys.argv[1]))
assert large.peak_ram_bytes >= 400_000_000
assert large.peak_ram_bytes > small.peak_ram_bytes
assert (small + large).peak_ram_bytes == large.peak_ram_bytes
assert (small + large).seconds == small.seconds + large.seconds
assert (small + large).cpu_seconds == small.cpu_seconds + large.cpu_seconds > 0
"""


def test_peak_memory_is_that_of_the_command(tmp_path: Path) -> None:
    """From a small process, as benchmarks are: a command's peak is never less than what started it has in memory."""
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, str(tmp_path / "log")],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(record.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr


def test_failure_shows_what_the_command_said_last(tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match=r"code 3: no such type"):
        record.run([sys.executable, "-c", "import sys; print('no such type'); sys.exit(3)"], tmp_path / "log")


def test_commands_are_shown_without_folders() -> None:
    command = [Path("/somewhere/llama-quantize"), "--imatrix", "/else/where/imatrix.gguf", "Q4_0"]
    assert record.shown(command) == "llama-quantize --imatrix imatrix.gguf Q4_0"


def test_table_is_markdown() -> None:
    assert record.table(("file", "KL"), [("a", "0.1")]) == "| file | KL |\n| :-- | --: |\n| a | 0.1 |"
