"""The task of `benchmarks.adapters`: kinds, examples and questions apart; and the rows that PEFT's side reads."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.bootstrap import difference_of_values, mean_of_values
from benchmarks.labelling import against, read_task
from benchmarks.peft_tuning import places, seen
from smidgen.distillation.text.batch import NO_TARGET, Batch
from smidgen.errors import SmidgenError

WORDS = "red green blue grey pink black white brown".split()


class Letters:
    """A tokenizer whose tokens are characters."""

    def encode(self, text: str) -> list[int]:
        return list(map(ord, text))


LETTERS: Any = Letters()


@pytest.fixture
def kinds(tmp_path: Path) -> list[str]:
    """Two kinds of 40 texts each, one as lines and one as a table with other columns."""
    pairs = [f"{one} {other}" for one in WORDS for other in WORDS[:5]]
    (tmp_path / "sea.txt").write_text("".join(f"a fish that is {pair}\n" for pair in pairs))
    (tmp_path / "land.csv").write_text("".join(f'"a horse, which is {pair}",no,A\n' for pair in pairs))
    return [f"Sea={tmp_path / 'sea.txt'}", f"Land={tmp_path / 'land.csv'}"]


def test_nothing_is_learned_and_asked(kinds: list[str]) -> None:
    task = read_task(kinds, 20, 30, 60, LETTERS, seed=0)
    assert sorted(item.kind for item in task.learned) == ["Land"] * 10 + ["Sea"] * 10
    assert 0 < len(task.held_out) <= 30
    assert not {item.text for item in task.learned} & {item.text for item in task.held_out}
    assert all(item.text.startswith("a horse, which") for item in task.learned if item.kind == "Land")


def test_names_must_differ_at_once(kinds: list[str]) -> None:
    with pytest.raises(SmidgenError, match="same token"):
        read_task([*kinds, kinds[0].replace("Sea", "Sky")], 20, 30, 60, LETTERS, seed=0)


def test_too_few_texts(kinds: list[str]) -> None:
    with pytest.raises(SmidgenError, match="has 40 texts"):
        read_task(kinds, 80, 30, 60, LETTERS, seed=0)


def test_a_difference_is_paired() -> None:
    assert mean_of_values([1, 0, 1, 1])["mean"] == 0.75
    assert difference_of_values([2.0, 3.0, 9.0], [1.0, 2.0, 8.0]) == {"mean": 1.0, "interval": [1.0, 1.0]}
    assert against("1100", "1000")["mean"] == 0.25


def test_documents_of_a_row_do_not_see_each_other() -> None:
    documents = torch.tensor([[0, 0, 1, 1, 1, -1]])
    ids = torch.zeros_like(documents)
    batch = Batch(ids, torch.full_like(ids, NO_TARGET), torch.zeros(1, 6), documents)
    assert places(batch).tolist() == [[0, 1, 0, 1, 2, 0]]
    allowed = seen(batch)[0, 0]
    assert allowed[4].tolist() == [False, False, True, True, True, False]
    assert allowed[2].tolist() == [False, False, True, False, False, False]
    assert allowed.any(-1).all()  # or softmax would have nothing to divide by
