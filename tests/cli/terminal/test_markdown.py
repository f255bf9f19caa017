"""Rendered Markdown that comes in pieces: nothing lost, whatever the text and however it is cut."""

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from smidgen.cli.terminal.markdown import RenderedMarkdown, can_render
from tests.cli.terminal.screen import Screen

TEXT = """# A title

Some *emphasis*, `code`, <div> tags, &amp; and [a](http://b.com).
A second line.

- one
- two

3. third
4. fourth

```python
def f(x):
    return x  # done
```

| a | b |
|---|--:|
| 1 | 22 |

> quoted

[ref]: http://example.com
Let \\( x \\) be \\[ y \\].
"""
LINES = """A title
Some emphasis, code, <div> tags, &amp; and [a](http://b.com).
A second line.
• one
• two
3 third
4 fourth
def f(x):
return x  # done
a   b
1  22
▌ quoted
[ref]: http://example.com
Let \\( x \\) be \\[ y \\].
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(text: str, size: int) -> str:
    terminal = Terminal()
    answer = RenderedMarkdown(terminal)
    for start in range(0, len(text), size):
        answer.piece(text[start : start + size])
        answer._next_drawing = 0  # pyright: ignore[reportPrivateUsage]
    answer.end()
    return terminal.getvalue()


@pytest.fixture(autouse=True)
def small_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "72", "LINES": "12"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_every_word_is_there_once_and_in_order(size: int) -> None:
    screen = Screen(rows=12, columns=72)
    screen.write(show(TEXT, size))
    assert [line.strip() for line in screen.text() if line.strip(" ─")] == LINES.splitlines()


def test_a_block_longer_than_the_screen_scrolls_away_whole() -> None:
    lines = [f"{number}. point number {number}" for number in range(1, 60)]
    screen = Screen(rows=12, columns=72)
    screen.write(show("\n".join(lines) + "\n\nThe end.", 9))
    found = [int(match[1]) for line in screen.text() if (match := re.search(r"point number (\d+)", line))]
    assert found == list(range(1, 60))


@given(st.text(st.sampled_from("ab*_`#>-1.|[]()<!\\~ \n\t\x1b\r"), max_size=60), st.integers(1, 9))
@settings(max_examples=60)
def test_no_text_of_a_model_ends_the_program(text: str, size: int) -> None:
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", show(text, size))
    assert "\x1b" not in written
    letters = [letter for letter in text if letter in "ab"]
    screen = Screen(rows=12, columns=72)
    screen.write(show(text, size))
    assert [letter for line in screen.text() for letter in line if letter in "ab"] == letters


def test_a_terminal_that_cannot_move_its_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_render(Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert not can_render(Terminal())
    assert not can_render(io.StringIO())
    assert Console(file=Terminal()).is_dumb_terminal
