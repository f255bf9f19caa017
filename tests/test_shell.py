"""What is printed for pasting does in a shell what it says, whatever a folder is called."""

import subprocess

import pytest

from smidgen.shell import as_word


@pytest.mark.parametrize("name", ["plain", "with space", 'it\'s "quoted" $HOME `id`', "a;b", "ünï", "*", "~"])
def test_a_shell_takes_it_as_one_word(name: str) -> None:
    done = subprocess.run(["sh", "-c", f"printf '%s' {as_word(name)}"], capture_output=True, text=True)
    assert done.stdout == name


def test_never_an_option_and_never_more_than_a_line() -> None:
    assert as_word("-rf") == "./-rf"
    assert as_word("a\n# heading") == "DIR"
    assert as_word("small") == "small"
