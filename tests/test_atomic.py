"""Folders that are made whole or not at all, by one process at a time."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from smidgen.atomic import making_folder
from smidgen.errors import SmidgenError

_MAKES = "import sys, time; from pathlib import Path; from smidgen.atomic import making_folder\n"
_MAKES += "with making_folder(Path(sys.argv[1])): Path(sys.argv[1], 'part').touch(); print('begun', flush=True); "
_MAKES += "sys.stdin.readline()"


def begun(folder: Path) -> "subprocess.Popen[str]":
    """Another process that makes it, until it is told to finish."""
    command = [sys.executable, "-c", _MAKES, str(folder)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "begun\n"
    return other


def test_a_second_one_stops_and_the_first_finishes(tmp_path: Path) -> None:
    with begun(tmp_path / "out") as other:
        with (
            pytest.raises(SmidgenError, match="out is not empty: a smidgen writes there"),
            making_folder(tmp_path / "out"),
        ):
            pass
        other.communicate("\n")
    assert other.returncode == 0 and [path.name for path in (tmp_path / "out").iterdir()] == ["part"]


def test_what_a_killed_one_left_is_not_overwritten(tmp_path: Path) -> None:
    with begun(tmp_path / "out") as other:
        other.send_signal(signal.SIGKILL)
    with pytest.raises(SmidgenError, match="or one was ended in the midst of it"), making_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out/part").exists()


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "new/out", tmp_path / "there"):
        with pytest.raises(ZeroDivisionError), making_folder(folder):
            (folder / "deep").mkdir()
            (folder / "deep/file").touch()
            _ = 1 / 0
    assert [path.name for path in tmp_path.iterdir()] == ["there"] and not list((tmp_path / "there").iterdir())
