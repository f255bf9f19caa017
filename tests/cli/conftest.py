"""Runs the command line as a person does, in a process of its own (forked.py) and in an empty folder."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import smidgen
from tests.cli.forked import run_forked

SmidgenCommand = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def cli_environment() -> dict[str, str]:
    """This process's environment, with the package under test importable from any folder."""
    paths = [str(Path(smidgen.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "80"}


@pytest.fixture
def run_smidgen(tmp_path: Path, cli_environment: dict[str, str]) -> SmidgenCommand:
    """`run_smidgen("models", "--json", stdin="…")` → the finished process, its output as text."""

    def run(*words: str, stdin: str | bytes = "", **variables: str) -> "subprocess.CompletedProcess[str]":
        given = stdin if isinstance(stdin, bytes) else stdin.encode()
        environment = cli_environment | variables
        if variables:  # some are read when Python begins
            command = [sys.executable, "-m", "smidgen", *words]
            done = subprocess.run(command, input=given, capture_output=True, cwd=tmp_path, env=environment, timeout=120)
        else:
            done = run_forked(words, tmp_path, environment, given, timeout=120)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
