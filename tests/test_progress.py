"""Progress is for people: readable at 80 columns, on stderr only, and silent when asked."""

import os
import pty
import re
import subprocess
import sys

SCRIPT = """
from smidgen.progress import track
with track({label!r}, 9999) as task:
    task.advance(5000)
"""


def shown_on_terminal(label: str) -> str:
    """What `track` writes to a terminal of 80 columns."""
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", SCRIPT.format(label=label)], stderr=slave, env=environment, check=True)
    os.close(slave)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(master, 1 << 16).decode())


def test_the_time_left_fits_80_columns() -> None:
    for label in ("Quantizing", "Comparing on a-file-with-a-really-rather-long-name.txt"):
        shown = shown_on_terminal(label)
        assert "5000/9999" in shown and re.search(r"0:00:0\d (\d\d:\d\d|--:--) left", shown), shown


def test_lines_elsewhere_and_nothing_on_stdout() -> None:
    script = SCRIPT.format(label="Work").replace("5000", "9999")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "Work: 9999/9999, 0 s, 0 s left\n")
