"""What the model is shown, with an engine that only records it."""

from collections.abc import Iterator
from typing import Any

import pytest

from smidgen.engines.llama_cpp.engine import LARGEST_SEED, Sampling
from smidgen.errors import SmidgenError
from smidgen.running.conversation import Conversation


class RecordedReply(Iterator[str]):
    """Stands for `Reply`."""

    stop, prompt_tokens, generated_tokens, tokens_per_s = "end", 3, 2, None

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = iter(pieces)

    def __next__(self) -> str:
        return next(self._pieces)


class Recorder:
    """Stands for `LlamaCppEngine`; it has room for so many messages."""

    ctx_size = 16

    def __init__(self, longest: int = 100) -> None:
        self.shown: list[list[str]] = []
        self.seeds: list[int | None] = []
        self._longest = longest

    def chat(self, messages: list[dict[str, str]], _: Any, sampling: Sampling, *__: Any) -> RecordedReply:
        if len(messages) > self._longest:
            raise SmidgenError("too long.")
        self.shown.append([f"{message['role']}: {message['content']}" for message in messages])
        self.seeds.append(sampling.seed)
        return RecordedReply(["I ", "hear."])

    def chat_prompt(self, messages: list[dict[str, str]], _: Any) -> list[int]:
        return [0] * len(messages)


def conversation(engine: Any, system: str | None = None, seed: int | None = None) -> Conversation:
    return Conversation(engine, Sampling(seed=seed), None, system)


def test_all_that_was_said_is_shown_with_the_system_message_of_now() -> None:
    engine = Recorder()
    talk = conversation(engine, "Be brief.")
    for question in ("One.", "Two."):
        talk.ask(question)
        talk.answered("I hear.")
    talk.system = "Be loud."
    talk.ask("Three.")
    assert engine.shown == [
        ["system: Be brief.", "user: One."],
        ["system: Be brief.", "user: One.", "assistant: I hear.", "user: Two."],
        ["system: Be loud.", "user: One.", "assistant: I hear.", "user: Two.", "assistant: I hear.", "user: Three."],
    ]
    assert talk.used() == 5  # a question without an answer is no part of it
    talk.clear()
    assert talk.used() == 0 and talk.messages == [{"role": "system", "content": "Be loud."}]


def test_a_question_that_got_no_word_leaves_nothing() -> None:
    talk = conversation(Recorder())
    talk.ask("One.")
    talk.answered("")
    assert talk.messages == []
    talk.ask("Two.")
    talk.answered("I hear.")
    talk.ask_again()
    talk.answered("")  # stopped before its first word: the old answer stays
    assert [message["content"] for message in talk.messages] == ["Two.", "I hear."]


def test_again_is_the_same_question_and_another_draw() -> None:
    engine = Recorder()
    talk = conversation(engine, seed=LARGEST_SEED)
    with pytest.raises(SmidgenError, match="no answer yet"):
        talk.ask_again()
    talk.ask("One.")
    talk.answered("First.")
    talk.ask_again()
    talk.answered("Second.")
    assert engine.shown == [["user: One."]] * 2
    assert engine.seeds == [LARGEST_SEED, 0]
    assert [message["content"] for message in talk.messages] == ["One.", "Second."]


def test_what_does_not_fit_changes_nothing() -> None:
    talk = conversation(Recorder(longest=1))
    talk.ask("One.")
    talk.answered("I hear.")
    with pytest.raises(SmidgenError, match="too long"):
        talk.ask("Two.")
    assert len(talk.messages) == 2
