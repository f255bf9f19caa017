"""The loop of `smidgen chat`, with an engine that only records and messages that are given."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smidgen.cli.terminal.talking import Talk
from smidgen.engines.llama_cpp.engine import Sampling
from smidgen.errors import EngineEnded, SmidgenError
from smidgen.running.conversation import Conversation

CTRL_C = object()


class Given:
    """Messages as if they were typed; CTRL_C on an empty line among them."""

    def __init__(self, *messages: object) -> None:
        self._messages = iter(messages)

    def ask(self) -> str:
        message = next(self._messages, None)
        if message is None:
            raise EOFError
        if message is CTRL_C:
            raise KeyboardInterrupt
        assert isinstance(message, str)
        return message


class Written(Iterator[str]):
    """Stands for `Reply`: pieces of text, or what happens in place of one."""

    prompt_tokens, generated_tokens, tokens_per_s = 12, 4, 8.25

    def __init__(self, parts: list[Any], stop: str) -> None:
        self.stop: str | None = None
        self._parts, self._stop = iter(parts), stop

    def __next__(self) -> str:
        part = next(self._parts, None)
        if part is None:
            self.stop = self._stop
            raise StopIteration
        if isinstance(part, BaseException):
            raise part
        return part

    def close(self) -> None:
        self.stop = "closed"


class Engine:
    """Stands for `LlamaCppEngine`; the answers are given."""

    ctx_size = 16

    def __init__(self, *answers: list[Any] | SmidgenError, stop: str = "end", system_role: bool = True) -> None:
        self.shown: list[list[str]] = []
        self._answers, self._stop, self._system_role = iter(answers), stop, system_role

    def chat(self, messages: list[dict[str, str]], *_: Any) -> Written:
        answer = next(self._answers, ["Yes."])
        if isinstance(answer, SmidgenError):
            raise answer
        self.shown.append([message["content"] for message in messages])
        return Written(answer, self._stop)

    def chat_prompt(self, messages: list[dict[str, str]], _: Any) -> list[int]:
        return [0] * len(messages)

    def takes_system_role(self, _: Any) -> bool:
        return self._system_role


def talk(engine: Any, *messages: object, interactive: bool = True) -> None:
    Talk(Conversation(engine, Sampling()), Given(*messages), "tiny", interactive).run()


def test_messages_and_commands(capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine()
    talk(engine, "One.", "  Two.", "/etc/hosts", "", " \n", "/clear", "Three.", "/bye", "never")
    assert engine.shown == [
        ["One."], ["One.", "Yes.", "  Two."], ["One.", "Yes.", "  Two.", "Yes.", "/etc/hosts"], ["Three."],
    ]  # fmt: skip
    said = capsys.readouterr()
    assert said.out == "Yes.\n" * 4 and "starts over" in said.err


def test_a_mistyped_command_is_sent_and_a_line_asks_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine()
    talk(engine, "/sav x", "/etc/hosts", "/quit", "never")
    assert engine.shown == [["/sav x"], ["/sav x", "Yes.", "/etc/hosts"]]
    assert capsys.readouterr().err == "/sav is not a command, so this is sent as a message. Did you mean /save?\n"


def test_an_answer_stopped_before_its_first_word_leaves_no_turn(capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine([KeyboardInterrupt()], ["Hm", KeyboardInterrupt()])
    talk(engine, "One.", "Two.", "Three.")
    assert engine.shown == [["One."], ["Two."], ["Two.", "Hm", "Three."]]
    assert "stopped before its first word; your message is not part" in capsys.readouterr().err


def test_ctrl_c_at_the_prompt_leaves_at_the_second_time(capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine()
    talk(engine, CTRL_C, "One.", CTRL_C, CTRL_C, "never")
    assert engine.shown == [["One."]]
    assert capsys.readouterr().err.count("once more") == 2


def test_ctrl_c_ends_a_pipe() -> None:
    with pytest.raises(KeyboardInterrupt):
        talk(Engine(["Hm", KeyboardInterrupt()]), "One.", "Two.", interactive=False)


def test_what_does_not_fit_is_said_and_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine(["Yes."], SmidgenError("the prompt has 20 tokens: no room in a context of 16."), ["Yes."])
    talk(engine, "One.", "too long", "Two.")
    assert engine.shown == [["One."], ["One.", "Yes.", "Two."]]
    assert "20 tokens: no room in a context of 16. Or /clear" in capsys.readouterr().err
    with pytest.raises(SmidgenError, match="no room"):
        talk(Engine(SmidgenError("no room.")), "One.", "Two.", interactive=False)


def test_an_answer_that_fills_the_context_says_so_with_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    talk(Engine(stop="context"), "One.")
    said = capsys.readouterr().err
    assert "context of 16 tokens is full (12 before it, 4 of it). /clear" in said


def test_an_engine_that_ended_costs_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine(["Hm", EngineEnded("llama.cpp ended.")], ["Yes."])
    talk(engine, "One.", "Two.")
    assert engine.shown == [["One."], ["Two."]]
    assert "llama.cpp ended. Your message is not part" in capsys.readouterr().err


def test_again_replaces_the_last_answer() -> None:
    engine = Engine(["Yes."], ["No."], ["Good."])
    talk(engine, "/regen", "One.", "/regen", "Two.")
    assert engine.shown == [["One."], ["One."], ["One.", "No.", "Two."]]


def test_the_system_message(capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine(system_role=False)
    talk(engine, "/system", "/system Be brief.", "/system", "One.", '/system ""', "Two.")
    assert engine.shown == [["Be brief.", "One."], ["One.", "Yes.", "Two."]]
    said = capsys.readouterr().err
    for part in ("no system message.\n", "no system role: the system message goes in front", "Be brief.\n", "any more"):
        assert part in said


def test_stats(capsys: pytest.CaptureFixture[str]) -> None:
    talk(Engine(), "/stats", "One.", "/stats")
    assert capsys.readouterr().err == (
        "Context: 0 of 16 tokens used (0%).\nLast answer: 4 tokens, 8.2 tokens/s.\n"
        "Context: 2 of 16 tokens used (12%).\n"
    )


def test_save_and_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine, file = Engine(), tmp_path / "talk.json"
    talk(engine, "One.", f"/save {file}", f"/save {file}", "/save", "/clear", f"/load {file}", "Two.")
    assert engine.shown == [["One."], ["One.", "Yes.", "Two."]]
    said = capsys.readouterr().err
    for part in ("is there already", "/save needs the name of a file", "2 messages now"):
        assert part in said


def test_nothing_is_written_for_a_closed_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stdout__", None)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(SmidgenError, match="stdout is closed"):
        talk(Engine(), "One.", interactive=False)


def test_what_was_loaded_cannot_change_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = [{"role": "system", "content": "\x1b]0;title\x07"}]
    (tmp_path / "talk.json").write_text(json.dumps({"schema": 1, "messages": messages}))
    talk(Engine(), f"/load {tmp_path / 'talk.json'}", "/system", f"/save {tmp_path}/\x1b[31m.md")
    said = capsys.readouterr().err
    assert "␛]0;title␇" in said and "␛[31m.md" in said and "\x1b" not in said
