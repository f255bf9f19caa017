"""Every `smidgen …` line on the pages is a command that exists, with options that it has."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

from smidgen.cli.main import COMMANDS, application
from tests.docs.pages import PAGES, code_blocks, code_spans

_OPTION = re.compile(r"--?[a-z][\w-]*")


@cache
def command_of(name: str):
    """The real command behind a name."""
    return typer.main.get_command(application(name)).commands[name]  # pyright: ignore[reportAttributeAccessIssue]


@cache
def options_of(name: str) -> frozenset[str]:
    """Every spelling of every option of a command."""
    parameters = command_of(name).params
    known = {spelling for one in parameters for spelling in (*one.opts, *one.secondary_opts)}
    return frozenset(known | {"--help"})


def lines(page: Path) -> Iterator[str]:
    """Command lines in the blocks of a page, without comments."""
    for block in code_blocks(page):
        for line in block.splitlines():
            for part in line.removeprefix("$ ").split(" | "):
                found = re.match(r"(?:[A-Z_]+=\S* )*(?:torchrun .* -m )?(smidgen .*)", part.strip())
                if found:
                    yield found[1]


def check(words: list[str]) -> None:
    """Raises AssertionError for a command or an option that does not exist."""
    if words[0].startswith("-") or words[0] == "…":
        return
    assert words[0] in COMMANDS, f"there is no command {words[0]}"
    for word in words[1:]:
        if _OPTION.fullmatch(word.partition("=")[0]):
            assert word.partition("=")[0] in options_of(words[0]), f"smidgen {words[0]} has no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_in_blocks_parse(page: Path) -> None:
    for line in lines(page):
        words = shlex.split(line, comments=True)[1:]
        check(words)
        if "…" in line:
            continue
        command = command_of(words[0])
        command.make_context(words[0], words[1:], resilient_parsing=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_prose_exist(page: Path) -> None:
    for span in code_spans(page):
        if span.startswith("smidgen ") and not span.startswith("smidgen error"):
            check(shlex.split(span)[1:])


def test_a_wrong_line_is_found() -> None:
    for wrong in (["ct"], ["cut", "m", "--fitt", "1GB"]):
        with pytest.raises(AssertionError):
            check(wrong)
