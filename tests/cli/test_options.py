"""Options that commands share have the same bounds everywhere."""

from typing import Any

import pytest
import typer

from smidgen.cli.main import COMMANDS, application, main
from smidgen.cli.options import LARGEST_SEED

NEEDED = {
    "cut": ["model", "-o", "folder"],
    "distill": ["teacher", "student", "-o", "folder"],
    "tune": ["model", "-o", "folder"],
    "measure": ["original", "cut"],
    "arena": ["--votes", "votes.csv"],
    "run": ["model", "prompt"],
    "chat": ["model"],
}


def has_seed(name: str) -> bool:
    app: Any = typer.main.get_command(application(name))
    return any("--seed" in option.opts for option in app.commands[name].params)


def test_the_commands_with_a_seed() -> None:
    assert [name for name in COMMANDS if has_seed(name)] == list(NEEDED)


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("seed", [LARGEST_SEED + 1, 2**32, 2**64])
def test_a_seed_that_not_every_engine_has(name: str, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused in one line: not drawn at random, as llama.cpp does with 2^32 - 1, and not cut to 32 bits."""
    with pytest.raises(SystemExit) as left:
        main([name, *NEEDED[name], "--seed", str(seed)])
    said = capsys.readouterr()
    assert left.value.code == 2 and said.out == "" and said.err.count("\n") == 1
    assert "--seed" in said.err and str(2**32 - 2) in said.err
