"""Answers side by side: the worst first, equal ones counted, and no more time than is given."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from smidgen.engines.base import Ids, Score
from smidgen.errors import SmidgenError
from smidgen.measuring import side_by_side as module
from smidgen.measuring.side_by_side import Prompt, prompts, side_by_side
from smidgen.progress import Task


class Letters:
    """A tokenizer whose tokens are characters."""

    adds_bos = False

    def encode(self, text: str, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        return [ord(letter) for letter in text]


class Speaker:
    """A model that answers by heart. nats: how likely it finds each letter of an answer.  chats: has a template."""

    context = 4096

    def __init__(self, answers: Mapping[str, str], nats: Mapping[str, float], chats: bool = True) -> None:
        self.tokenizer: Any = Letters()
        self._answers, self._nats, self._chats = answers, nats, chats
        self.scorings = 0

    def ask(self, question: str) -> Ids:
        if not self._chats:
            raise SmidgenError("no template")
        return self.tokenizer.encode(question)

    def score(self, pairs: Sequence[tuple[Ids, Ids]], progress: Task) -> list[Score]:
        self.scorings += 1
        return [Score(self._nats["".join(map(chr, answer))] * len(answer), False) for _, answer in pairs]

    def write(self, prompts: Sequence[Ids], stops: Sequence[str], tokens: int, progress: Task) -> list[str]:
        progress.advance(len(prompts))
        return [self._answers["".join(map(chr, prompt))] for prompt in prompts]


ASKED = [Prompt("en", letter, f"about {letter}") for letter in "abc"]


def test_the_pair_whose_original_the_cut_finds_least_likely_comes_first() -> None:
    original = Speaker({"a": "same", "b": "one", "c": "two\n"}, {"one": -0.5, "two": -0.5})
    cut = Speaker({"a": " same", "b": "eins", "c": "zwei"}, {"one": -0.75, "two": -2.5})
    found = side_by_side(original, cut, ASKED)
    assert (found["prompts"], found["same"], found["form"], found["reason"]) == (3, 1, "chat", None)
    assert [(pair["prompt"], pair["original"], pair["cut"]) for pair in found["shown"]] == [
        ("c", "two", "zwei"), ("b", "one", "eins"),
    ]  # fmt: skip
    assert [pair["nats_per_token"] for pair in found["shown"]] == [2.0, 0.25]
    assert original.scorings == cut.scorings == 1, "each time all weights are read"


def test_where_one_has_no_template_both_go_on_with_a_text() -> None:
    answers = {f"about {letter}": "" for letter in "abc"}
    original, cut = Speaker(answers, {}), Speaker({**answers, "about b": "more"}, {}, chats=False)
    found = side_by_side(original, cut, ASKED)
    assert found["form"] == "text" and found["same"] == 2
    assert found["shown"] == [
        {"prompt": "about b", "language": "en", "original": "", "cut": "more", "nats_per_token": None}
    ]


def test_it_ends_when_the_time_is_over_and_says_so() -> None:
    one = Speaker({"a": "x", "b": "x", "c": "x"}, {})
    found = side_by_side(one, one, ASKED, seconds=-1)
    assert found["prompts"] == 1 and found["reason"] == "2 more were left out, to save time on this machine."


def test_the_prompts_that_come_along_are_a_dozen_in_several_languages() -> None:
    assert len(prompts()) == 12 and len({prompt.language for prompt in prompts()}) >= 4
    assert all(prompt.question.strip() and prompt.beginning for prompt in prompts())
    assert all(not prompt.beginning.endswith(" ") for prompt in prompts())  # a space of its own is a rare token


def test_not_more_pairs_are_shown_than_a_person_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHOWN", 1)
    original, cut = Speaker(dict.fromkeys("abc", "x"), {"x": -1.0}), Speaker(dict.fromkeys("abc", "y"), {"x": -2.0})
    found = side_by_side(original, cut, ASKED)
    assert found["same"] == 0 and len(found["shown"]) == 1


def test_what_does_not_fit_the_context_is_left_out_and_said() -> None:
    both = [Speaker({"a" * 40: one, "b": one}, {"one": -1.0}) for one in ("one", "eins")]
    for speaker, context in zip(both, (64, 45), strict=True):
        speaker.context = context
    asked = [Prompt("en", "a" * 40, ""), Prompt("en", "b", "")]
    found = side_by_side(*both, asked)
    assert (found["prompts"], found["reason"]) == (1, "1 of 2 prompts are too long for the context.")
    both[1].context = 8
    found = side_by_side(*both, asked)
    assert (found["prompts"], found["shown"]) == (0, [])


def test_an_answer_that_grows_beyond_the_context_when_encoded_anew_has_no_figure() -> None:
    original, cut = (Speaker({"b": said}, {"one": -1.0, "x" * 70: -1.0}) for said in ("x" * 70, "one"))
    original.context = cut.context = 64
    (pair,) = side_by_side(original, cut, [Prompt("en", "b", "")])["shown"]
    assert pair["nats_per_token"] is None
