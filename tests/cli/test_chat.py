"""The conversation that the model is shown, with an engine that only records it."""

import io
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from smidgen.cli.chat import _Conversation
from smidgen.engines.llama_cpp.engine import Sampling
from smidgen.errors import SmidgenError


class RecordedReply(Iterator[str]):
    stop = "end"

    def __init__(self) -> None:
        self._pieces = iter(["I ", "hear."])

    def __next__(self) -> str:
        return next(self._pieces)


class Recorder:
    """Stands for LlamaCppEngine."""

    ctx_size = 16

    def __init__(self, longest: int = 100) -> None:
        self.shown: list[list[str]] = []
        self._longest = longest

    def chat(self, messages: list[dict[str, str]], *_: Any) -> RecordedReply:
        if len(messages) > self._longest:
            raise SmidgenError("too long.")
        self.shown.append([f"{message['role']}: {message['content']}" for message in messages])
        return RecordedReply()


def converse(monkeypatch: pytest.MonkeyPatch, engine: Any, lines: str, system: str | None = None) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    _Conversation(engine, Sampling(), None, system, None).run()


def test_the_model_sees_the_whole_conversation(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    engine = Recorder()
    converse(monkeypatch, engine, "One.\n\n  Two.\n/reset\nThree.\n/exit\nFour.\n", system="Be brief.")
    assert engine.shown == [
        ["system: Be brief.", "user: One."],
        ["system: Be brief.", "user: One.", "assistant: I hear.", "user: Two."],
        ["system: Be brief.", "user: Three."],
    ]
    assert capsys.readouterr().out == "I hear.\n" * 3


def test_a_message_that_does_not_fit_ends_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SmidgenError, match="too long"):
        converse(monkeypatch, Recorder(longest=1), "One.\nTwo.\n")


def test_a_message_that_does_not_fit_is_taken_back_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    engine, lines = Recorder(longest=1), iter(["One.", "Two.", "/nonsense", "/reset", "Three."])
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]

    def ask() -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr("smidgen.cli.chat._ask", ask)
    conversation: Any = _Conversation(engine, Sampling(), None, None, None)  # type: ignore[arg-type]
    conversation.run()
    assert engine.shown == [["user: One."], ["user: Three."]]
    errors = capsys.readouterr().err
    assert "too long. Or /reset" in errors and "There is no /nonsense" in errors
