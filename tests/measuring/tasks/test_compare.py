"""Both models answer the very same items, and the card says what changed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import EngineEnded, SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.measuring.tasks import asking, compare
from smidgen.measuring.tasks.compare import Tasks
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import Task
from tests.measuring.tasks.little_data import CHOICES, write_data
from tests.measuring.tasks.test_harness import Remembering


class Knowing(Remembering):
    """Says one letter always, or writes one program."""

    context = 4096

    def __init__(
        self,
        tokenizer: Tokenizer,
        letter: str = "A",
        program: str = "def f(x):\n    return 2 * x",
        ends_after: int = 99,
    ) -> None:
        super().__init__(tokenizer)
        self._letter, self._program, self._left = letter, program, ends_after

    def score(self, pairs: Any, progress: Any) -> Any:
        from smidgen.engines.base import Score

        self._left -= 1
        if self._left < 0:
            raise EngineEnded("the engine ended.")
        self.pairs += pairs
        progress.advance(len(pairs))
        return [Score(0.0 if self.tokenizer.decode(rest).strip() == self._letter else -1.0, False) for _, rest in pairs]

    def write(self, prompts: Any, stops: Any, tokens: int, progress: Any) -> list[str]:
        progress.advance(len(prompts))
        return [self._program for _ in prompts]


@pytest.fixture(scope="module")
def tokenizer(gemma_path: Path) -> Tokenizer:
    with GGUFFile.open(gemma_path) as file:
        return Tokenizer.from_gguf(file.metadata)


def test_scores_flips_and_examples(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tasks = Tasks(["mmlu", "mbpp"], write_data(tmp_path), None, seed=0)
    scores = tasks.compare(Knowing(tokenizer), Knowing(tokenizer, "B", "def f(x):\n    return 3 * x"))
    mmlu = scores["mmlu"]  # answers A B C D A, twice
    assert (mmlu["original"], mmlu["cut"], mmlu["items"]) == (0.4, 0.2, 10)
    assert mmlu["flips"] == {"right_to_wrong": 4, "wrong_to_right": 2}
    assert mmlu["at_chance"] is True and mmlu["seed"] is None
    assert mmlu["changed"][0] == {"item": "mmlu_colours 0", "original": "A", "cut": "B"}
    mbpp = scores["mbpp"]
    assert (mbpp["original"], mbpp["cut"], mbpp["at_chance"]) == (0.5, 0.5, None)
    assert mbpp["flips"] == {"right_to_wrong": 1, "wrong_to_right": 1}
    assert mbpp["unparsed"] == {"original": 0, "cut": 0} and "by_language" not in mbpp and "partial" not in mbpp


def test_a_sample_is_seeded_and_counts_in_all(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_data(tmp_path)
    models = [Knowing(tokenizer) for _ in range(4)]
    for one, other in ((models[0], models[1]), (models[2], models[3])):
        scores = Tasks(["mmlu"], tmp_path, 4, seed=3).compare(one, other)
        assert scores["mmlu"]["items"] == 4 and scores["mmlu"]["seed"] == 3
    assert models[0].pairs == models[1].pairs == models[2].pairs
    other = Knowing(tokenizer)
    Tasks(["mmlu"], tmp_path, 4, seed=4).compare(other, other)
    assert other.pairs[: len(models[0].pairs)] != models[0].pairs


def test_names_that_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SmidgenError, match="no task 'hellaswg'; did you mean hellaswag"):
        Tasks(["hellaswg"], tmp_path, None, 0)
    with pytest.raises(SmidgenError, match="--data DIR"):
        Tasks(["mbpp"], None, None, 0)
    with pytest.raises(SmidgenError, match="outside of any sandbox"):
        compare._without_code("humaneval", {"humaneval": type("T", (), {"UNSAFE_CODE": True})})

    def missing(name: str) -> str:
        raise ImportError(name)

    monkeypatch.setattr(asking, "version", missing)
    with pytest.raises(SmidgenError, match=r"pip install 'smidgen\[eval\]'"):
        Tasks(["mmlu"], tmp_path, None, 0)


def test_answers_that_hold_none_are_counted_and_wrong(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_data(tmp_path)
    tasks = Tasks(["mbpp"], tmp_path, None, seed=0)
    for words in ("", "I would multiply it by two."):
        score = tasks.compare(Knowing(tokenizer), Knowing(tokenizer, program=words))["mbpp"]
        assert score["unparsed"] == {"original": 0, "cut": 2} and score["cut"] == 0
        assert "2 of the cut, of 2 each, could not be read" in str(score["note"])
    wrong = tasks.compare(Knowing(tokenizer), Knowing(tokenizer, program="def g(x): return 1"))["mbpp"]
    assert wrong["unparsed"]["cut"] == 0  # a program, but the wrong one


def test_probabilities_that_are_no_numbers_are_no_answer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    class Broken(Knowing):
        def score(self, pairs: Any, progress: Any) -> Any:
            return [score._replace(log_probability=float("nan")) for score in super().score(pairs, progress)]

    score = Tasks(["mmlu"], write_data(tmp_path), None, 0).compare(Knowing(tokenizer), Broken(tokenizer))["mmlu"]
    assert score["unparsed"]["cut"] == 10 and score["cut"] == 0


def test_one_right_letter_is_said(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [[f"Question {number}?", *CHOICES, "A"] for number in range(40)]
    write_data(tmp_path, **{"sums_test.csv": rows, "colours_test.csv": rows})
    score = Tasks(["mmlu"], tmp_path, None, 0).compare(Knowing(tokenizer), Knowing(tokenizer, "B"))["mmlu"]
    assert "every answer is A: a model that always says A would be right" in str(score["note"])
    assert score["at_chance"] is True


def test_an_engine_that_dies_leaves_what_both_have_answered(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_CHOICES_AT_ONCE", 4)
    tasks = Tasks(["mmlu"], write_data(tmp_path), None, 0)
    score = tasks.compare(Knowing(tokenizer), Knowing(tokenizer, "B", ends_after=2))["mmlu"]
    assert score["items"] == 8 and score["original"] == 3 / 8
    assert score.get("partial") is True and score.get("items_asked") == 10
    assert score.get("partial_reason") == "the engine ended."
    assert "only the first 8 of 10 items, because a model failed" in str(score["note"])
    with pytest.raises(EngineEnded):
        tasks.compare(Knowing(tokenizer), Knowing(tokenizer, ends_after=0))


def test_one_bar_counts_the_items_of_both(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Task] = []

    @contextmanager
    def watched(label: str, total: int) -> Iterator[Task]:
        bars.append(Task(label, total))
        yield bars[-1]

    monkeypatch.setattr(asking, "track", watched)
    Tasks(["mmlu"], write_data(tmp_path), None, 0).compare(Knowing(tokenizer), Knowing(tokenizer))
    assert [(bar.label, bar.total, bar.done) for bar in bars] == [("mmlu, both models", 20, 20)]
