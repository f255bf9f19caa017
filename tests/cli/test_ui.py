"""`smidgen ui` refuses in one line, before a model is loaded; the page itself is in tests/showing."""

import os
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import SmidgenCommand

MODEL = "smollm2-135m-instruct"


def refused(run_smidgen: SmidgenCommand, *words: str, **variables: str) -> str:
    """The one line on stderr."""
    done = run_smidgen("ui", *words, **variables)
    assert done.returncode == 2 and not done.stdout
    [line] = done.stderr.splitlines()
    return line


def test_other_machines_need_a_key(run_smidgen: SmidgenCommand) -> None:
    assert "--api-key" in refused(run_smidgen, MODEL, "--host", "0.0.0.0")
    assert "cannot be sent" in refused(run_smidgen, MODEL, "--api-key", "späť")


def test_one_model_or_two_different_ones(run_smidgen: SmidgenCommand) -> None:
    assert "3 were given" in refused(run_smidgen, "a", "b", "c")
    assert "two different ones" in refused(run_smidgen, MODEL, MODEL, "--port", "0")


def test_a_file_that_holds_no_votes_is_left_alone(run_smidgen: SmidgenCommand, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\n" * 100)
    assert "notes.txt" in refused(run_smidgen, MODEL, "--port", "0", "--votes", "notes.txt")
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as connection:
        connection.execute("CREATE TABLE mine (x)")
    assert "something else" in refused(run_smidgen, MODEL, "--port", "0", "--votes", "other.sqlite")
    assert notes.read_text() == "my notes\n" * 100


def test_a_port_that_is_taken(run_smidgen: SmidgenCommand) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen" in refused(run_smidgen, MODEL, "--port", str(taken.getsockname()[1]))


@pytest.mark.parametrize("found", ["raise ImportError('no gradio')", "__version__ = '5.49.1'"])
def test_without_gradio_a_line_says_how_to_get_it(found: str, run_smidgen: SmidgenCommand, tmp_path: Path) -> None:
    (tmp_path / "pretended").mkdir()
    (tmp_path / "pretended" / "gradio.py").write_text(found)
    path = os.pathsep.join([str(tmp_path / "pretended"), str(Path(__file__).parents[2])])
    assert "pip install 'smidgen[ui]'" in refused(run_smidgen, MODEL, "--port", "0", PYTHONPATH=path)
