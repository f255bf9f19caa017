"""What a model has answered is not asked again, and an engine that dies loses only what it was at."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from smidgen.engines import remembered
from smidgen.engines.base import Ids, Score
from smidgen.engines.remembered import RememberedAnswers
from smidgen.errors import EngineEnded
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import Task


class Counting:
    """Answers from what it is asked, counts, and dies at an answer if told so."""

    context = 64

    def __init__(self, dies_at: int | None = None) -> None:
        self.tokenizer = cast("Tokenizer", None)
        self.asked, self._dies_at = 0, dies_at

    def ask(self, question: str) -> Ids:
        return [len(question)]

    def _count(self) -> None:
        self.asked += 1
        if self.asked == self._dies_at:
            raise EngineEnded("the engine died")

    def score(self, pairs: Sequence[tuple[Ids, Ids]], progress: Task) -> list[Score]:
        found = []
        for begin, rest in pairs:
            self._count()
            progress.advance()
            found.append(Score(-float(sum(begin) + 10 * sum(rest)), bool(rest[0] % 2)))
        return found

    def write(self, prompts: Sequence[Ids], stops: Sequence[str], tokens: int, progress: Task) -> list[str]:
        found = []
        for prompt in prompts:
            self._count()
            progress.advance()
            found.append(f"{list(prompt)} until {list(stops)}, {tokens} é\n")
        return found


def both(model: Any, folder: Path, sha256: str = "a" * 64) -> tuple[list[Score], list[str]]:
    answering = RememberedAnswers(model, sha256, folder)
    scores, texts = Task("scores", 3), Task("texts", 2)
    found = (
        answering.score([([1], [2]), ([1], [3]), ([1], [2])], scores),
        answering.write([[1, 2], [3]], ("\n",), 5, texts),
    )
    assert (scores.done, texts.done) == (3, 2)
    return found


def test_the_second_time_nothing_is_asked(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    assert both(first, tmp_path) == both(second, tmp_path)
    assert (first.asked, second.asked) == (4, 0)  # what is asked twice is answered once


def test_another_model_and_another_length_are_other_questions(tmp_path: Path) -> None:
    both(Counting(), tmp_path)
    other = Counting()
    both(other, tmp_path, "a" * 16 + "b" * 48)  # its file has the same name
    RememberedAnswers(other, "a" * 64, tmp_path).write([[3]], ("\n",), 6, Task("one", 1))
    assert other.asked == 5


def test_what_other_code_has_answered_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both(Counting(), tmp_path)
    monkeypatch.setattr(remembered, "_our_code", lambda: "mended")
    again = Counting()
    both(again, tmp_path)
    assert again.asked == 4


def test_what_was_answered_before_the_engine_died_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_WRITTEN_AT_ONCE", 2)
    prompts, dying, next_one = [[n] for n in range(5)], Counting(dies_at=4), Counting()
    with pytest.raises(EngineEnded):
        RememberedAnswers(dying, "a" * 64, tmp_path).write(prompts, (), 5, Task("some", 5))
    found = RememberedAnswers(next_one, "a" * 64, tmp_path).write(prompts, (), 5, Task("some", 5))
    assert next_one.asked == 3 and found == Counting().write(prompts, (), 5, Task("some", 5))


@pytest.mark.parametrize("damage", [b'["broken off', b'["k", 1, 2]\n', b'["k", [NaN, true]]\n', b"\xff\n", b"[" * 9999])
def test_damaged_lines_are_passed_over(tmp_path: Path, damage: bytes) -> None:
    expected = both(Counting(), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + damage)
    answering = RememberedAnswers(Counting(), "a" * 64, tmp_path)
    answering.score([([9], [9])], Task("one", 1))
    again = Counting()
    assert both(again, tmp_path) == expected and again.asked == 0
    assert RememberedAnswers(again, "a" * 64, tmp_path).score([([9], [9])], Task("one", 1)) == [Score(-99.0, True)]
    assert again.asked == 0


def test_a_folder_that_cannot_be_written_costs_only_the_memory(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    assert both(Counting(), place / "answers") == both(Counting(), tmp_path / "other")


def test_an_answer_of_another_kind_is_none(tmp_path: Path) -> None:
    expected = both(Counting(), tmp_path)
    (file,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    hostile = [[key, [-1.0, True] if isinstance(answer, str) else "no number"] for key, answer in lines]
    file.write_text("".join(json.dumps(line) + "\n" for line in hostile))
    again = Counting()
    assert both(again, tmp_path) == expected and again.asked == 4


def test_a_pipe_is_not_waited_for_and_a_file_does_not_grow_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / f"{'a' * 16}.jsonl")
    expected = both(Counting(), tmp_path)
    monkeypatch.setattr(remembered, "_LARGEST_FILE", 150)
    folder = tmp_path / "other"
    for _ in range(3):
        assert both(Counting(), folder) == expected
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 300
