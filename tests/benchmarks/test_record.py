"""Commands are measured as they are, and results name no folder of this machine."""

import sys
from pathlib import Path

import pytest

from benchmarks import record
from smidgen.errors import SmidgenError


def test_peak_memory_is_that_of_the_command(tmp_path: Path) -> None:
    small = record.run([sys.executable, "-c", "pass"], tmp_path / "log")
    large = record.run([sys.executable, "-c", "bytearray(400_000_000)"], tmp_path / "log")
    assert large.peak_ram_bytes >= 400_000_000
    assert large.peak_ram_bytes > small.peak_ram_bytes
    assert (small + large).peak_ram_bytes == large.peak_ram_bytes
    assert (small + large).seconds == small.seconds + large.seconds


def test_failure_shows_what_the_command_said_last(tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match=r"code 3: no such type"):
        record.run([sys.executable, "-c", "import sys; print('no such type'); sys.exit(3)"], tmp_path / "log")


def test_commands_are_shown_without_folders() -> None:
    command = [Path("/somewhere/llama-quantize"), "--imatrix", "/else/where/imatrix.gguf", "Q4_0"]
    assert record.shown(command) == "llama-quantize --imatrix imatrix.gguf Q4_0"


def test_table_is_markdown() -> None:
    assert record.table(("file", "KL"), [("a", "0.1")]) == "| file | KL |\n| :-- | --: |\n| a | 0.1 |"
