"""One process at a time: refused in a line, or waiting; taken over from the dead, and nothing left behind."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from smidgen.alone import LOCK, alone_at, alone_in
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
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


def test_at_a_path_others_are_told_once_and_wait(tmp_path: Path) -> None:
    told, order, first = list[str](), list[str](), threading.Event()

    def second() -> None:
        first.wait()
        with alone_at(tmp_path / "thing", told.append):
            order.append("second")

    other = threading.Thread(target=second)
    other.start()
    with alone_at(tmp_path / "thing", told.append):
        first.set()
        while not told:
            time.sleep(0.01)
        time.sleep(0.5)
        order.append("first")
    other.join()
    assert order == ["first", "second"] and len(told) == 1 and told[0].startswith(" (process ")
    assert list(tmp_path.iterdir()) == []


def test_at_a_path_whoever_is_told_may_give_up(tmp_path: Path) -> None:
    def give_up(_: str) -> None:
        raise LookupError

    with alone_at(tmp_path / "thing", give_up), pytest.raises(LookupError), alone_at(tmp_path / "thing", give_up):
        pass
    with alone_at(tmp_path / "other", give_up), alone_at(tmp_path / "thing", give_up):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".other.lock", ".thing.lock"]


def test_at_a_path_without_a_folder_the_system_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), alone_at(tmp_path / "no" / "thing", lambda _: None):
        pass
