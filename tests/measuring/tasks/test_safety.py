"""Refusals and stereotypes: counted item by item, from files that are checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from smidgen.engines.base import Ids, Score
from smidgen.errors import SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.measuring.tasks.safety import compare_refusals, compare_stereotypes, is_refusal, read_rows
from smidgen.model.tokenizer import Tokenizer


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot provide instructions for this.",
        "I\u2019m unable to assist.",
        "As an AI language model, I am not able to do that.",
        "Sorry! I won't do this.",
        "It is illegal to do so.",
        "No, you should not.",
        "I would advise against it.",
    ],
)
def test_refusals(answer: str) -> None:
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    ["Sure! First, stop the process with kill.", "Weeds can be killed with vinegar.", "", "You can terminate it so:",
     "The sorry state of the economy", "x" * 300 + "I cannot help"],
)  # fmt: skip
def test_answers(answer: str) -> None:
    assert not is_refusal(answer)


class Speaking:
    """Answers from a list; finds shorter sentences likelier, or longer ones."""

    context = 512

    def __init__(self, tokenizer: Tokenizer, answers: Sequence[str] = (), sign: int = -1) -> None:
        self.tokenizer, self._answers, self._sign = tokenizer, answers, sign
        self.asked: list[str] = []

    def ask(self, question: str) -> Ids:
        self.asked.append(question)
        return [1]

    def score(self, pairs: Sequence[tuple[Ids, Ids]], progress: Any) -> list[Score]:
        assert all(list(begin) == [self.tokenizer.bos_id] for begin, _ in pairs)
        return [Score(self._sign * float(len(rest)), False) for _, rest in pairs]

    def write(self, prompts: Sequence[Ids], stops: Sequence[str], tokens: int, progress: Any) -> list[str]:
        return list(self._answers)


@pytest.fixture(scope="module")
def tokenizer(gemma_path: Path) -> Tokenizer:
    with GGUFFile.open(gemma_path) as file:
        return Tokenizer.from_gguf(file.metadata)


def test_refusals_are_counted_by_kind(tokenizer: Tokenizer) -> None:
    rows = [{"prompt": f"question {n}", "label": label} for n, label in enumerate(["unsafe", "unsafe", "safe", "Safe"])]
    no, yes = "I cannot do that.", "Here it is:"
    before = Speaking(tokenizer, [no, no, yes, yes])
    found = compare_refusals(before, Speaking(tokenizer, [no, yes, yes, no]), rows)
    unsafe, safe = found["refused_unsafe"], found["refused_safe"]
    assert isinstance(unsafe, dict) and isinstance(safe, dict)
    assert (unsafe["original"], unsafe["cut"], unsafe["items"]) == (1.0, 0.5, 2)
    assert (safe["original"], safe["cut"]) == (0.0, 0.5)
    assert found["judge"] and found["judge_agreement"] is None and found["judge_agreement_reason"]
    assert before.asked == [row["prompt"] for row in rows]
    with pytest.raises(SmidgenError, match="'maybe'"):
        compare_refusals(before, before, [{"prompt": "a", "label": "maybe"}])


def test_stereotypes_are_preferences_between_two_sentences(tokenizer: Tokenizer) -> None:
    rows = [
        {"sent_more": "short", "sent_less": "a much longer sentence"},
        {"sent_more": "one two three", "sent_less": "one"},
    ]
    score = compare_stereotypes(Speaking(tokenizer), Speaking(tokenizer, sign=1), rows)
    assert (score["original"], score["cut"]) == (0.5, 0.5)
    assert score["flips"] == {"right_to_wrong": 1, "wrong_to_right": 1}


def test_files_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "safety" / "xstest.csv"
    with pytest.raises(SmidgenError, match="cannot be read"):
        read_rows(tmp_path, "xstest", ["prompt"])
    path.parent.mkdir()
    for content, said in (
        (b"", "empty"), (b"prompt,label\n", "empty"), (b"prompt\nhi\n", "row 2: no label"),
        (b"prompt,label\nhi,safe\n,safe\n", "row 3: no prompt"), (b"\xff\xff", "UTF-8"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(SmidgenError, match=said):
            read_rows(tmp_path, "xstest", ["prompt", "label"])
    path.write_text("id,prompt,label\n1,hi,safe\n")
    assert read_rows(tmp_path, "xstest", ["prompt", "label"])[0]["prompt"] == "hi"
