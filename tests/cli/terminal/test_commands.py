"""Only known commands are commands."""

import pytest

from smidgen.cli.terminal.commands import COMMANDS, Command, command_in, help_text


@pytest.mark.parametrize(
    "message",
    [
        "/etc/hosts has a wrong line", "/nonsense", "/help me with this", "/clear\nand more", " /help", "/", "", "help",
        "/savefile x", "/bye now", "/regen, please",
    ],
)  # fmt: skip
def test_messages(message: str) -> None:
    assert command_in(message) is None


@pytest.mark.parametrize(
    ("message", "command"),
    [
        ("/help", Command("/help", "")),
        ("/clear  ", Command("/clear", "")),
        ("/reset", Command("/clear", "")),
        ("/exit", Command("/bye", "")),
        ("/save my talk.json", Command("/save", "my talk.json")),
        ("/system", Command("/system", "")),
        ("/system Be brief.\nAnd kind.", Command("/system", "Be brief.\nAnd kind.")),
        ("/system\nBe brief.", Command("/system", "Be brief.")),
    ],
)
def test_commands(message: str, command: Command) -> None:
    assert command_in(message) == command


def test_help_names_them_all_within_a_terminal() -> None:
    said = help_text().splitlines()
    assert all(any(line.startswith(name) for line in said) for name in COMMANDS)
    assert max(map(len, said)) <= 96
