"""A conversation: asking, going back, and what stays of an answer."""

import pytest

from smidgen.errors import SmidgenError
from smidgen.showing.talk import Talk
from smidgen.showing.writing import Line, Writing
from tests.showing.pretended import reply_of


def talked(*texts: str) -> Talk:
    talk = Talk()
    for text in texts:
        talk.ask(text)
        talk.answered(text.upper())
    return talk


def texts(talk: Talk) -> list[str]:
    return [str(message["content"]) for message in talk.messages]


def test_what_was_written_stays_to_the_letter() -> None:
    talk = talked("  indented\n    more\n")
    assert texts(talk) == ["  indented\n    more\n", "  INDENTED\n    MORE\n"]


def test_an_empty_answer_leaves_no_turn_and_gives_the_message_back() -> None:
    talk = talked("one")
    talk.ask("two")
    assert talk.answered("") == "two"
    assert texts(talk) == ["one", "ONE"]


def test_asking_again_drops_the_answer_and_counts_the_tries() -> None:
    talk = talked("one", "two")
    talk.ask_again(3)
    assert (texts(talk), talk.tries) == (["one", "ONE", "two"], 1)
    talk.answered("TWO!")
    talk.ask_again(3)
    assert talk.tries == 2
    talk.answered("TWO!!")
    talk.ask_again(1)  # an earlier answer: all after it goes, and it is its first other try
    assert (texts(talk), talk.tries) == (["one"], 0)


def test_editing_a_message_forgets_what_followed() -> None:
    talk = talked("one", "two")
    talk.edit(0, "uno")
    assert texts(talk) == ["uno"]


def test_going_back_returns_the_message() -> None:
    talk = talked("one", "two")
    assert talk.back_to(3) == "two"
    assert texts(talk) == ["one", "ONE"]


@pytest.mark.parametrize("index", [None, -1, 99, "2", [1]])
def test_a_strange_place_is_the_last(index: object) -> None:
    assert talked("one", "two").back_to(index) == "two"


@pytest.mark.parametrize("text", ["", "  \n", None, "\udc00"])
def test_what_is_no_message_is_refused_and_changes_nothing(text: object) -> None:
    talk = talked("one")
    for refused in (talk.ask, lambda text: talk.edit(0, text)):
        with pytest.raises(SmidgenError):
            refused(text)
    assert texts(talk) == ["one", "ONE"]


def test_nothing_changes_while_an_answer_is_written() -> None:
    talk = talked("one")
    writing = talk.writing = Writing(lambda: reply_of(["never"]), Line(0))  # no place in line, ever
    for refused in (lambda: talk.ask("two"), lambda: talk.back_to(0), lambda: talk.ask_again(0)):
        with pytest.raises(SmidgenError, match="being written"):
            refused()
    talk.clear()
    assert (talk.messages, writing.state) == ([], "stopped")


def test_an_empty_conversation_has_nothing_to_go_back_to() -> None:
    with pytest.raises(SmidgenError, match="no message"):
        Talk().ask_again(0)
