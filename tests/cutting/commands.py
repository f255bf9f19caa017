"""`smidgen cut` as tests call it: in this process where that is enough, in one of its own where it is killed."""

import hashlib
import io
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from smidgen.cli.main import main

#: The command line, which is killed in the moment in which a file takes its name.
_KILLED = """
import os, signal, sys
from pathlib import Path
from smidgen.cli.main import main
sign, replace = Path(sys.argv.pop(1)), os.replace
def replace_and_die(*names):
    replace(*names)
    if sign.exists():
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace_and_die
main()
"""


@dataclass
class Done:
    """What a command answered."""

    code: int
    out: str
    err: str


def run(words: Sequence[object]) -> Done:
    """The command in this process: a process of its own takes seconds to start."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    assert isinstance(end.value.code, int)
    return Done(end.value.code, out.getvalue(), err.getvalue())


def smidgen(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "smidgen", *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def kill_once_there(folder: Path, words: Sequence[object], sign: Path) -> None:
    """Start a cut, which ends as by kill -9 as soon as the file `sign` exists."""
    command = [sys.executable, "-c", _KILLED, str(sign), *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sign.exists()


def sha256(path: Path) -> str:
    """Of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
