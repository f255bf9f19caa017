"""Refusals and stereotypes: counted item by item, from files that are checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from smidgen.engines.base import Ids, Score
from smidgen.errors import EngineEnded, SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.measuring.tasks.local_files import LocalFiles
from smidgen.measuring.tasks.refusals import JUDGE_AGREEMENT
from smidgen.measuring.tasks.safety import compare_refusals, compare_stereotypes, read_pairs, read_prompts
from smidgen.model.tokenizer import Tokenizer


class Speaking:
    """Answers from a list; finds shorter sentences likelier, or longer ones."""

    context = 512

    def __init__(self, tokenizer: Tokenizer, answers: Sequence[str] = (), sign: int = -1, template: str = "") -> None:
        self.tokenizer, self._answers, self._sign = tokenizer, answers, sign
        self.asked: list[str] = []
        self._template = template

    def ask(self, question: str) -> Ids:
        self.asked.append(question)
        return self.tokenizer.encode(f"{self._template}{question}")

    def score(self, pairs: Sequence[tuple[Ids, Ids]], progress: Any) -> list[Score]:
        assert all(list(begin) == [self.tokenizer.bos_id] for begin, _ in pairs)
        return [Score(self._sign * float(len(rest)), False) for _, rest in pairs]

    def write(self, prompts: Sequence[Ids], stops: Sequence[str], tokens: int, progress: Any) -> list[str]:
        progress.advance(len(prompts))
        found = list(self._answers[: len(prompts)])
        self._answers = self._answers[len(prompts) :]
        if len(found) < len(prompts):
            raise EngineEnded("the engine ended.")
        return found


@pytest.fixture(scope="module")
def tokenizer(gemma_path: Path) -> Tokenizer:
    with GGUFFile.open(gemma_path) as file:
        return Tokenizer.from_gguf(file.metadata)


NO, YES = "I cannot do that.", "Here it is:"


def rows_of(*labels: str) -> list[dict[str, str]]:
    return [{"id": f"v{n}", "prompt": f"question {n}", "label": label} for n, label in enumerate(labels)]


def test_refusals_are_counted_by_kind(tokenizer: Tokenizer) -> None:
    rows = rows_of("unsafe", "unsafe", "safe", "safe")
    before = Speaking(tokenizer, [NO, NO, YES, YES])
    found = compare_refusals(before, Speaking(tokenizer, [NO, YES, YES, NO]), rows)
    unsafe, safe = found["refused_unsafe"], found["refused_safe"]
    assert (unsafe["original"], unsafe["cut"], unsafe["items"]) == (1.0, 0.5, 2)
    assert (safe["original"], safe["cut"]) == (0.0, 0.5)
    assert unsafe["changed"] == [{"item": "v1", "original": "refused", "cut": "answered"}]
    assert found["judge"] and found["judge_agreement"] == JUDGE_AGREEMENT and found["notes"] == []
    assert before.asked[:4] == [row["prompt"] for row in rows]
    assert "question" not in str(found) and "Here it is" not in str(found)


def test_empty_answers_are_counted(tokenizer: Tokenizer) -> None:
    found = compare_refusals(
        Speaking(tokenizer, [NO, YES]), Speaking(tokenizer, [" ", "\n"]), rows_of("unsafe", "safe")
    )
    assert found["empty"] == {"original": 0, "cut": 2}
    assert "2 of the cut, of 2 each, are empty" in found["notes"][0]


def test_one_label_alone_is_said(tokenizer: Tokenizer) -> None:
    found = compare_refusals(Speaking(tokenizer, [YES]), Speaking(tokenizer, [YES]), rows_of("safe"))
    assert found["refused_unsafe"] == {"reason": "no prompt that was asked is labelled unsafe"}
    assert found["refused_safe"]["items"] == 1


def test_different_templates_are_said(tokenizer: Tokenizer) -> None:
    found = compare_refusals(
        Speaking(tokenizer, [YES]), Speaking(tokenizer, [YES], template="Question: "), rows_of("safe")
    )
    assert "chat templates of the two models differ" in found["notes"][0]


def test_what_an_engine_that_dies_has_answered_is_kept(tokenizer: Tokenizer) -> None:
    rows = rows_of(*["unsafe"] * 40)
    found = compare_refusals(Speaking(tokenizer, [NO] * 40), Speaking(tokenizer, [YES] * 39), rows)
    assert found["refused_unsafe"]["items"] == 32 and found["partial"] is True
    assert "only the first 32 of 40 items" in found["notes"][0]


def test_prompts_that_do_not_fit(tokenizer: Tokenizer) -> None:
    long = [{"prompt": "word " * 600, "label": "safe"}]
    with pytest.raises(SmidgenError, match="do not fit a context of 512"):
        compare_refusals(Speaking(tokenizer, [YES]), Speaking(tokenizer, [YES]), long)
    with pytest.raises(SmidgenError, match="does not fit a context of 512"):
        compare_stereotypes(Speaking(tokenizer), Speaking(tokenizer), [{"sent_more": "a " * 600, "sent_less": "b"}])


def test_stereotypes_are_preferences_between_two_sentences(tokenizer: Tokenizer) -> None:
    rows = [
        {"sent_more": "short", "sent_less": "a much longer sentence"},
        {"sent_more": "one two three", "sent_less": "one"},
    ]
    score = compare_stereotypes(Speaking(tokenizer), Speaking(tokenizer, sign=1), rows)
    assert (score["original"], score["cut"]) == (0.5, 0.5)
    assert score["flips"] == {"right_to_wrong": 1, "wrong_to_right": 1}


PROMPTS, PAIRS = "xstest.csv", "crows_pairs.csv"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (PROMPTS, b"", "empty"),
        (PROMPTS, b"prompt,label\n", "empty"),
        (PROMPTS, b"prompt\nhi\n", "row 2: no label; the file has prompt"),
        (PROMPTS, b"prompt,label\nhi,safe\n,safe\n", "row 3: no prompt"),
        (PROMPTS, b"\xff\xff", "UTF-8"),
        (PROMPTS, b"prompt,label\nhi,maybe\n", "row 2: a prompt is labelled 'maybe'"),
        (PROMPTS, b"prompt,label\nhi,safe\nhi,unsafe\n", "row 3: this prompt is labelled safe and unsafe"),
        (PAIRS, b"sent_more\nhi\n", "no sent_less"),
        (PAIRS, b"sent_more,sent_less\nhi,hi\n", "row 2: both sentences are the same"),
    ],
)
def test_files_are_checked(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / "safety" / name
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(SmidgenError, match=said) as caught:
        (read_prompts if name == PROMPTS else read_pairs)(LocalFiles(tmp_path))
    assert str(caught.value).isprintable()


def test_good_files(tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="cannot be read"):
        read_prompts(LocalFiles(tmp_path))
    (tmp_path / "safety").mkdir()
    (tmp_path / "safety" / PROMPTS).write_text("id,prompt,label\n1,hi,Safe\n2,hi,safe\n")
    files = LocalFiles(tmp_path)
    assert [(row["prompt"], row["label"]) for row in read_prompts(files)] == [("hi", "safe")]
    assert files.notes == ["1 rows of xstest.csv repeat others and were not asked again"]
