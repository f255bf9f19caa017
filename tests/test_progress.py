"""Progress is for people: readable at 80 columns, on stderr only, and silent when asked."""

import os
import pty
import re
import subprocess
import sys

SCRIPT = """
from smidgen.progress import track
with track({label!r}, {total}, in_bytes={in_bytes}) as task:
    task.advance(5000 * {total} // 9999)
"""


def script_of(label: str, total: int = 9999, in_bytes: bool = False) -> str:
    return SCRIPT.format(label=label, total=total, in_bytes=in_bytes)


def shown_on_terminal(script: str) -> str:
    """What `track` writes to a terminal of 80 columns."""
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", script], stderr=slave, env=environment, check=True)
    os.close(slave)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(master, 1 << 16).decode())


def test_the_time_left_fits_80_columns() -> None:
    for label in ("Quantizing", "Comparing on a-file-with-a-really-rather-long-name.txt"):
        shown = shown_on_terminal(script_of(label))
        assert "5000/9999" in shown and re.search(r"0:00:0\d (\d\d:\d\d|--:--) left", shown), shown
        shown = shown_on_terminal(script_of(label, 999_900_000_000, in_bytes=True))
        assert "500.0/999.9 GB" in shown and re.search(r"0:00:0\d (\d\d:\d\d|--:--) left", shown), shown


def test_how_it_goes_is_shown() -> None:
    told = "    task.describe('loss 1.234, 9999 tokens/s, 80% peak')\n    task.advance"
    script = script_of("Training").replace("    task.advance", told)
    assert re.search(r"loss 1.234, 9999 tokens/s, 80% peak .*5000/9999.* left", shown_on_terminal(script))
    whole = script.replace("5000", "9999")
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True)
    told = r"Training: 9999/9999, \d+ s, 0 s left, loss 1\.234, 9999 tokens/s, 80% peak\n"
    assert re.fullmatch(told, done.stderr), done.stderr


def test_lines_elsewhere_and_nothing_on_stdout() -> None:
    for script, amount in (
        (script_of("Work"), "9999/9999"),
        (script_of("Work", 1_234_567_890, in_bytes=True), "1234.6 MB/1234.6 MB"),
    ):
        whole = script.replace("5000", "9999")
        done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True)
        assert done.stdout == "" and re.fullmatch(rf"Work: {amount}, \d+ s, 0 s left\n", done.stderr), done.stderr
