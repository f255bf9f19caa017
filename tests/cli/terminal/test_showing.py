"""What reaches a terminal cannot change it; what reaches a pipe is what the model wrote."""

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.cli.terminal.showing import PlainText
from smidgen.errors import harmless


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b]0;title\x07", "␛[31mred␛]0;title␇"),
        ("a\tb\nc", "a\tb\nc"),
        ("a\r\nb", "a\nb"),
        ("over\rwritten", "over␍written"),
        ("\x7f\x9b2J", "␡\ufffd2J"),
        ("evil\u202etxt.exe", "evil\ufffdtxt.exe"),
        ("größer 👋", "größer 👋"),
    ],
)
def test_pictures(text: str, shown: str) -> None:
    assert harmless(text) == shown
    terminal, pipe = Terminal(), io.StringIO()
    for place in (terminal, pipe):
        answer = PlainText(place)
        answer.piece(text)
        answer.end()
    assert (terminal.getvalue(), pipe.getvalue()) == (f"{shown}\n", f"{text}\n")


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    assert all(unicodedata.category(one) != "Cc" or one in "\n\t" for one in harmless(text))
