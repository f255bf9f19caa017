"""What the page says: harmless, and true of how an answer ended."""

from typing import cast

import pytest

from smidgen.engines.llama_cpp.reply import StopReason
from smidgen.showing.settings import Settings
from smidgen.showing.words import about_kind, status, when_ended
from smidgen.showing.writing import State, Writing
from tests.showing.pretended import pretended, reply_of

SETTINGS = Settings(0.8, 0.95, 9, None, "")


class Ended:
    """A writing that has ended so."""

    def __init__(self, state: State, stop: StopReason | None, tokens: int = 2) -> None:
        self.state, self.reply = state, reply_of([])
        self.reply.stop, self.reply.generated_tokens, self.reply.tokens_per_s = stop, tokens, 8.04


def said_of(state: State, stop: StopReason | None, tokens: int = 2) -> str:
    return when_ended(cast(Writing, Ended(state, stop, tokens)), pretended("m"), SETTINGS)


def test_what_a_stranger_says_is_no_markup() -> None:
    shown = status("<img src=x>\n\n# `a` & **b**", is_error=True)
    assert "<img" not in shown and "\n" not in shown and "&lt;img" in shown
    assert status("") == ""


def test_an_error_begins_with_a_capital_but_not_a_name() -> None:
    assert ">The prompt has 9 tokens.<" in status("the prompt has 9 tokens.", is_error=True)
    assert ">llama.cpp ended.<" in status("llama.cpp ended.", is_error=True)
    assert ">tiny is a base model.<" in status("tiny is a base model.")


@pytest.mark.parametrize(
    ("state", "stop", "words"),
    [
        ("done", "end", "2 tokens, 8.0 tokens/s. Context: 5 of 64 tokens."),
        ("stopped", "closed", "Stopped. 2 tokens"),
        ("done", "context", "the context is full"),
        ("done", "max_tokens", "the longest answer of 9 tokens"),
    ],
)
def test_why_an_answer_ended(state: State, stop: StopReason, words: str) -> None:
    assert words in said_of(state, stop)


def test_one_token_is_one() -> None:
    assert said_of("done", "end", 1).startswith("1 token,")


def test_a_base_model_is_called_so() -> None:
    assert "base model" in about_kind(pretended("m", chats=False)) and about_kind(pretended("m")) == ""
