"""What can be asked is looked at beforehand, and what one failure leaves is kept."""

from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import EngineEnded, SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.measuring.tasks.questions import Questions
from smidgen.model.tokenizer import Tokenizer
from tests.measuring.tasks.test_bbq import ROWS, write
from tests.measuring.tasks.test_safety import NO, Speaking


class WithoutProbabilities(Speaking):
    """Writes, but its scores end the engine."""

    def score(self, pairs: Any, progress: Any) -> Any:
        raise EngineEnded("the engine ended.")


@pytest.fixture(scope="module")
def tokenizer(gemma_path: Path) -> Tokenizer:
    with GGUFFile.open(gemma_path) as file:
        return Tokenizer.from_gguf(file.metadata)


def test_what_fails_has_a_reason_and_the_rest_is_kept(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path, ROWS[:4])
    (tmp_path / "safety/xstest.csv").write_text("prompt,label\na,safe\nb,unsafe\nc,unsafe\nd,unsafe\n")
    (tmp_path / "safety/crows_pairs.csv").write_text("sent_more,sent_less\na,b\n")
    questions = Questions(["bbq", "crows_pairs", "xstest", "bbq"], tmp_path, 2, 0)
    tasks, safety = questions.ask(WithoutProbabilities(tokenizer, [NO] * 2), WithoutProbabilities(tokenizer, [NO] * 2))
    assert tasks == {}
    assert safety["bbq"] == safety["stereotypes"] == {"reason": "the engine ended."}
    assert safety["refusals"]["refused_safe"]["items"] == safety["refusals"]["refused_unsafe"]["items"] == 1


def test_files_are_needed_where_there_is_no_hub(tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="xstest and crows_pairs are read from local files only: give --data DIR"):
        Questions(["xstest", "crows_pairs"], None, None, 0)


def test_one_task_may_have_a_limit_of_its_own(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "safety").mkdir()
    (tmp_path / "safety/xstest.csv").write_text("prompt,label\n" + "".join(f"{n},unsafe\n" for n in range(9)))
    for names, limit, items in (
        (["xstest:3"], None, 3),
        (["xstest:3"], 5, 3),
        (["xstest"], 5, 5),
        (["xstest"], None, 9),
    ):
        models = (Speaking(tokenizer, [NO] * items) for _ in range(2))
        _, safety = Questions(names, tmp_path, limit, 0).ask(*models)
        assert safety["refusals"]["refused_unsafe"]["items"] == items


@pytest.mark.parametrize("name", ["xstest:", "xstest:0", "xstest:-1", "xstest:1.5", "xstest:x", "xstest:1:2"])
def test_a_limit_is_a_positive_number(name: str, tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="a number of items is expected behind the colon"):
        Questions([name], tmp_path, None, 0)


def test_one_task_has_one_limit(tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="mmlu is asked for twice, with different limits"):
        Questions(["mmlu", "mmlu:3"], tmp_path, None, 0)


def test_an_unknown_name_is_said_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr("smidgen.measuring.tasks.compare.fetched", fetch)
    monkeypatch.setattr("smidgen.measuring.tasks.bbq.fetched", fetch)
    with pytest.raises(SmidgenError, match=r"knows no task 'xtest'; did you mean xstest\?"):
        Questions(["bbq", "mmlu", "xtest"], None, None, 0)
