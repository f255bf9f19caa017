"""A pipe's lines are messages, as they are."""

import io
import sys

import pytest

from smidgen.cli.terminal.piped import PipedMessages, inside_block
from smidgen.errors import SmidgenError


def read(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> list[str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), "ascii"))
    messages, asking = [], PipedMessages()
    while True:
        try:
            messages.append(asking.ask())
        except EOFError:
            return messages


@pytest.mark.parametrize(
    ("raw", "messages"),
    [
        (b"One.\n\n  Two.\nThree", ["One.", "", "  Two.", "Three"]),
        (b"\xef\xbb\xbfOne.\r\nTwo.\r\n", ["One.", "Two."]),
        ("größer\n".encode(), ["größer"]),
        (b'"""\ndef f():\n    pass\n"""\nnext\n', ["def f():\n    pass", "next"]),
        (b'"""one line"""\n', ["one line"]),
        (b'say """this"""\n', ['say """this"""']),
        (b"C:\\\nnext\n", ["C:\\", "next"]),
        (b"", []),
    ],
)
def test_messages(monkeypatch: pytest.MonkeyPatch, raw: bytes, messages: list[str]) -> None:
    assert read(monkeypatch, raw) == messages


@pytest.mark.parametrize(("raw", "said"), [(b"\xff\n", "not UTF-8"), (b'"""\nnever ends\n', "at its end")])
def test_what_is_no_message(monkeypatch: pytest.MonkeyPatch, raw: bytes, said: str) -> None:
    with pytest.raises(SmidgenError, match=said):
        read(monkeypatch, raw)


def test_closed_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SmidgenError, match="stdin is closed"):
        PipedMessages()


@pytest.mark.parametrize("text", ["", '"', '"""', '""""', '"""""', 'a"""b"""', '"""a"""b'])
def test_quotes_that_are_text(text: str) -> None:
    assert inside_block(text) == text
