"""Where a framework's Python comes from: named, here, or made once, with `venv` and pip pretended."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from smidgen.engines.frameworks import environment
from smidgen.engines.frameworks.environment import python_with
from smidgen.engines.frameworks.known import FRAMEWORKS, Framework
from smidgen.errors import SmidgenError

PYTHON = """#!/bin/sh
echo "$@" >> "{log}"
case "$*" in
*venv*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && sleep {slow};;
*pip*) {pip};;
esac
"""
NOT_HERE = Framework("mlx", "mlx-lm", ("no_such_package.core",), 1)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the pretended Python is a script")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SMIDGEN_MLX_PYTHON", raising=False)
    monkeypatch.setattr(environment, "is_offline", lambda: False)
    return tmp_path / "home"


def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pip: str = "true", slow: float = 0) -> Path:
    """Another program as the Python that we run in; the file where it notes what it was asked to do."""
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(PYTHON.format(log=log, pip=pip, slow=slow))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    return log


def test_one_is_made_at_the_first_use_and_said_before(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = pretend(tmp_path, monkeypatch)
    python = python_with(NOT_HERE)
    assert python.is_file() and python.is_relative_to(home / "frameworks")
    venv, pip = log.read_text().splitlines()
    assert venv.startswith("-m venv ") and pip.startswith("-m pip install ") and pip.endswith("requirements/mlx.txt")
    said = capsys.readouterr().err.splitlines()
    assert "mlx-lm is not installed here. It gets an environment of its own" in said[0] and "about 1 MB" in said[0]
    assert python_with(NOT_HERE) == python and len(log.read_text().splitlines()) == 2, "made once"
    assert [path.name for path in (home / "frameworks").iterdir() if "partial" in path.name] == []


def test_what_a_killed_attempt_left_is_made_anew(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch)
    made = python_with(NOT_HERE).parent.parent
    made.rename(made.with_name(f".{made.name}.partial"))
    (made.with_name(f".{made.name}.partial") / "half").write_text("")
    assert python_with(NOT_HERE).parent.parent == made
    assert not (made / "half").exists() and not made.with_name(f".{made.name}.partial").exists()


def test_pip_that_fails_leaves_nothing_but_its_last_words(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, monkeypatch, pip="echo 'ERROR: No matching distribution'; echo 'note: more'; exit 1")
    with pytest.raises(SmidgenError, match="could not be made: ERROR: No matching distribution. Try again, or set SMI"):
        python_with(NOT_HERE)
    assert list((home / "frameworks").iterdir()) == []


def test_two_at_once_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, found = pretend(tmp_path, monkeypatch, slow=0.5), list[Path]()
    threads = [threading.Thread(target=lambda: found.append(python_with(NOT_HERE))) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 2 and len(log.read_text().splitlines()) == 2
    assert capsys.readouterr().err.count("makes the environment mlx-") == 1


def test_offline_says_the_command_instead(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    pretend(tmp_path, monkeypatch)
    monkeypatch.setattr(environment, "is_offline", lambda: True)
    with pytest.raises(SmidgenError, match=r"python -m venv .* -m pip install -r .*mlx\.txt, then set SMIDGEN_MLX_PY"):
        python_with(NOT_HERE)
    assert not home.exists()


def test_a_full_disk_and_a_home_that_is_a_file_are_told_of(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, monkeypatch)
    with pytest.raises(SmidgenError, match="takes 1000000000000 MB, but the disk"):
        python_with(Framework("mlx", "mlx-lm", ("no_such_package",), 10**12))
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "python"))
    with pytest.raises(SmidgenError, match="cannot be written: .*SMIDGEN_HOME"):
        python_with(NOT_HERE)


def test_this_python_serves_where_it_has_the_framework() -> None:
    assert python_with(Framework("mlx", "mlx-lm", ("numpy.linalg", "json"), 1)) == Path(sys.executable)


def test_a_python_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMIDGEN_MLX_PYTHON", sys.executable)
    assert python_with(NOT_HERE) == Path(sys.executable)
    monkeypatch.setenv("SMIDGEN_MLX_PYTHON", str(tmp_path / "nothing"))
    with pytest.raises(SmidgenError, match="SMIDGEN_MLX_PYTHON names .*nothing, which is no program"):
        python_with(NOT_HERE)


@pytest.mark.parametrize("framework", FRAMEWORKS.values(), ids=lambda one: one.runtime)
def test_versions_are_pinned(framework: Framework) -> None:
    assert framework.script.is_file()
    lines = framework.requirements.read_text().splitlines()
    assert all("==" in line for line in lines if not line.startswith("numpy")) and len(lines) >= 2
    assert os.access(framework.requirements, os.R_OK)
