"""Both models answer the very same items, and the card says what changed."""

from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.measuring.tasks import compare
from smidgen.measuring.tasks.compare import Tasks
from smidgen.model.tokenizer import Tokenizer
from tests.measuring.tasks.little_data import write_data
from tests.measuring.tasks.test_harness import Remembering


class Knowing(Remembering):
    """Says one letter always, or writes one program."""

    context = 4096

    def __init__(self, tokenizer: Tokenizer, letter: str = "A", program: str = "def f(x):\n    return 2 * x") -> None:
        super().__init__(tokenizer)
        self._letter, self._program = letter, program

    def score(self, pairs: Any, progress: Any) -> Any:
        from smidgen.engines.base import Score

        self.pairs += pairs
        return [Score(0.0 if self.tokenizer.decode(rest).strip() == self._letter else -1.0, False) for _, rest in pairs]

    def write(self, prompts: Any, stops: Any, tokens: int, progress: Any) -> list[str]:
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

    monkeypatch.setattr(compare, "version", missing)
    with pytest.raises(SmidgenError, match=r"pip install 'smidgen\[eval\]'"):
        Tasks(["mmlu"], tmp_path, None, 0)
