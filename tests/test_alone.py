"""One command at a time in a folder: refused in a line, taken over from the dead, and nothing left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from smidgen.alone import LOCK, alone_in
from smidgen.errors import SmidgenError

_HOLDS = "import sys, time; from pathlib import Path; from smidgen.alone import alone_in\n"
_HOLDS += "with alone_in(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


def test_a_second_command_is_refused_in_a_line_and_a_dead_one_is_taken_over(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", _HOLDS, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(SmidgenError, match=rf"Another smidgen \(process {other.pid}\) is writing to") as refused:
            with alone_in(folder):
                pass
        assert "\n" not in str(refused.value) and "-o" in str(refused.value)
        other.kill()
    assert (folder / LOCK).exists()  # what the dead one has left
    with alone_in(folder):
        with pytest.raises(SmidgenError, match="Another smidgen"), alone_in(folder):
            pass
    assert not (folder / LOCK).exists()


def test_what_was_made_for_it_and_stays_empty_goes_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), alone_in(tmp_path / "new" / "out"):
        _ = 1 / 0
    assert not (tmp_path / "new").exists()
    with alone_in(tmp_path / "new" / "out"):
        (tmp_path / "new" / "out" / "result").touch()
    assert [path.name for path in (tmp_path / "new" / "out").iterdir()] == ["result"]


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SmidgenError, match="cannot be written: .* Choose another folder with -o."):
        with alone_in(tmp_path / "file" / "out"):
            pass


def test_a_file_system_without_locks_lets_everybody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with alone_in(tmp_path), alone_in(tmp_path):
        pass
