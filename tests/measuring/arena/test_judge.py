"""A judge model: both orders, no verdict guessed, and what went wrong is counted."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from smidgen.engines.base import Ids
from smidgen.errors import EngineEnded
from smidgen.measuring.arena.judge import Answers, answer_all, combined, judge_all, verdict_of
from smidgen.votes import Vote


class Speaking:
    """Replies to a question by a rule; a question is read as its letters."""

    context = 4000

    def __init__(self, reply: Callable[[str], str], dies_after: int = 10**9) -> None:
        self._reply, self._left, self.tokenizer, self.score = reply, dies_after, None, None

    def ask(self, question: str) -> Ids:
        return [ord(letter) for letter in question]

    def write(self, prompts: Sequence[Ids], stops: Sequence[str], tokens: int, progress: Any) -> list[str]:
        self._left -= len(prompts)
        if self._left < 0:
            raise EngineEnded("llama.cpp has ended.")
        return [self._reply("".join(map(chr, prompt))) for prompt in prompts]


def judged(reply: Callable[[str], str], *answers: Sequence[str | None], dies_after: int = 10**9):
    """The votes and what the judge did, of models called M0, M1, … with these answers."""
    models = [Answers(f"M{number}", texts) for number, texts in enumerate(answers)]
    prompts, votes = [f"Question {number}?" for number in range(len(answers[0]))], list[Vote]()
    judge: Any = Speaking(reply, dies_after)
    return votes, judge_all("the judge", judge, prompts, models, votes.append)


def longer(question: str) -> str:
    """Prefers the longer answer, in whichever order."""
    first, second = question.split("[Answer A]\n")[1].split("\n\n[Your verdict]")[0].split("\n\n[Answer B]\n")
    return "[[A]]" if len(first) > len(second) else "[[B]]" if len(second) > len(first) else "[[tie]]"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("[[A]]", "first"), ("[[b]]", "second"), ("Both are fine. [[tie]]", "tie"), ("[[ A ]] yes [[A]]", "first"),
        ("A", "first"), ("**B**\n", "second"), ("Tie.", "tie"), ("<think>[[A]]?</think>[[B]]", "second"),
        ("[[A]] or [[B]]", None), ("Answer A is better", None), ("", None), ("[[C]]", None), ("A B", None),
    ],
)  # fmt: skip
def test_verdicts(text: str, verdict: str | None) -> None:
    assert verdict_of(text) == verdict


@pytest.mark.parametrize(
    ("forward", "backward", "found"),
    [
        ("first", "second", ("model_a", False)), ("second", "first", ("model_b", False)),
        ("tie", "tie", ("tie", False)),
        ("first", "first", ("tie", True)), ("second", "second", ("tie", True)), ("first", "tie", ("tie", True)),
        ("tie", "second", ("tie", True)),
    ],
)  # fmt: skip
def test_both_orders(forward: Any, backward: Any, found: tuple[str, bool]) -> None:
    assert combined(forward, backward) == found


def test_a_fair_judge() -> None:
    votes, judging = judged(longer, ["long answer", "x", "same"], ["short", "longer", "same"])
    assert [vote.winner for vote in votes] == ["tie", "model_a", "model_b"]  # what is the same was not shown
    assert {(vote.model_a, vote.model_b, vote.judge) for vote in votes} == {("M0", "M1", "the judge")}
    assert votes[1].prompt == "Question 0?"
    assert (judging.comparisons, judging.judged, judging.identical, judging.changed_with_order) == (2, 2, 1, 0)
    assert judging.as_object()["position_bias"] == 0


def test_every_pair_of_three_models() -> None:
    votes, _ = judged(longer, ["aaa"], ["aa"], ["a"])
    assert [(vote.model_a, vote.model_b, vote.winner) for vote in votes] == [
        ("M0", "M1", "model_a"), ("M0", "M2", "model_a"), ("M1", "M2", "model_a"),
    ]  # fmt: skip


def test_a_judge_for_whom_the_order_decides() -> None:
    votes, judging = judged(lambda question: "[[A]]", ["a", "b"], ["c", "d"])
    assert [vote.winner for vote in votes] == ["tie", "tie"]
    assert judging.changed_with_order == judging.first_both_times == 2
    assert judging.as_object()["position_bias"] == 1


def test_a_judge_that_says_something_else() -> None:
    votes, judging = judged(lambda question: "Well, it depends.", ["a", "b"], ["c", "d"])
    assert votes == [] and judging.unparsed == 2 and judging.judged == 0
    assert judging.unparsed_example == "Well, it depends." and judging.as_object()["position_bias"] is None


def test_what_does_not_fit_is_counted() -> None:
    votes, judging = judged(longer, ["a" * 4000, None, "bb"], ["c", "d", "e"])
    assert len(votes) == 1 and judging.too_long == 2


def test_a_judge_that_dies_midway_leaves_its_votes() -> None:
    answers = [["aa"] * 10, ["a"] * 10]
    votes, judging = judged(longer, *answers, dies_after=16)
    assert len(votes) == 8 and judging.reason is not None and "2 of 10 pairs were not judged" in judging.reason
    with pytest.raises(EngineEnded):
        judged(longer, *answers, dies_after=3)


def test_prompts_that_are_too_long_are_not_answered() -> None:
    model: Any = Speaking(lambda question: f" {len(question)} ")
    assert answer_all("M", model, ["four", "x" * 3990], 20).texts == ["4", None]
