"""Only known commands are commands."""

import pytest

from smidgen.cli.terminal.commands import COMMANDS, Command, command_in, help_text, nearly_command


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
        ("/quit", Command("/bye", "")),
        ("/save my talk.json", Command("/save", "my talk.json")),
        ("/system", Command("/system", "")),
        ("/system Be brief.\nAnd kind.", Command("/system", "Be brief.\nAnd kind.")),
        ("/system\nBe brief.", Command("/system", "Be brief.")),
    ],
)
def test_commands(message: str, command: Command) -> None:
    assert command_in(message) == command


@pytest.mark.parametrize(
    ("message", "meant"),
    [
        ("/sav x", "/save"), ("/hlep", "/help"), ("/helpp\n", "/help"), ("/Help", "/help"), ("/qit", "/quit"),
        ("/save x", None), ("/help me", None), ("/hel me", None), (" /hlep", None), ("hlep", None), ("/hpel", None),
        ("/ehpl", None), ("/etc/hosts", None), ("/sav x\nand more", None), ("/", None), ("", None),
    ],
)  # fmt: skip
def test_a_command_that_may_be_meant(message: str, meant: str | None) -> None:
    assert command_in(message) is None or meant is None
    assert nearly_command(message) == meant


def test_help_names_them_all_within_a_terminal() -> None:
    said = help_text().splitlines()
    assert all(any(line.startswith(name) for line in said) for name in COMMANDS)
    assert all(name in help_text() for name in ("/exit", "/quit", "/reset"))
    assert max(map(len, said)) <= 96
