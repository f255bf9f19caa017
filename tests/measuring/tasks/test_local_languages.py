"""MGSM, Belebele and Global-MMLU from files: the harness's prompts, a score by language, the worst first."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from smidgen.engines.base import Ids
from smidgen.errors import SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.measuring.tasks.by_language import language_of
from smidgen.measuring.tasks.compare import Tasks
from smidgen.model.tokenizer import Tokenizer
from tests.measuring.tasks.test_compare import Knowing


def passage(number: int, right: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "link": "here", "question_number": 1, "flores_passage": f"A text, number {number}.", "question": "What is it?",
        "mc_answer1": "a text", "mc_answer2": "a song", "mc_answer3": "a stone", "mc_answer4": "nothing",
        "correct_answer_num": str(right), "dialect": "xxx_Xxxx", "ds": "2023-05-03",
    } | changes  # fmt: skip


def write_passages(folder: Path, language: str, rows: Sequence[dict[str, Any]]) -> None:
    path = folder / "belebele" / f"{language}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_sums(folder: Path, language: str, text: str) -> None:
    path = folder / "mgsm" / f"mgsm_{language}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_choices(folder: Path, language: str, rows: Sequence[dict[str, Any]], ending: str) -> None:
    path = folder / "global_mmlu" / language / f"test.{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def choice(number: int, answer: str) -> dict[str, Any]:
    options = {f"option_{letter}": f"{letter}{number}" for letter in "abcd"}
    return {"sample_id": str(number), "subject": "s", "question": f"Nummer {number}?", **options, "answer": answer}


class Counting(Knowing):
    """Writes the same to everything."""

    def __init__(self, tokenizer: Tokenizer, words: str) -> None:
        super().__init__(tokenizer)
        self._words = words

    def write(self, prompts: Sequence[Ids], stops: Sequence[str], tokens: int, progress: Any) -> list[str]:
        self.prompts += [(self.tokenizer.decode(list(prompt)), tuple(stops)) for prompt in prompts]
        progress.advance(len(prompts))
        return [self._words for _ in prompts]


@pytest.fixture(scope="module")
def tokenizer(gemma_path: Path) -> Tokenizer:
    with GGUFFile.open(gemma_path) as file:
        return Tokenizer.from_gguf(file.metadata)


def test_the_language_that_lost_most_is_first(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_passages(tmp_path, "deu_Latn", [passage(n, 1) for n in range(3)] + [passage(3, 2)])
    write_passages(tmp_path, "jpn_Jpan", [passage(n, 1) for n in range(4)])
    write_passages(tmp_path, "fra_Latn", [passage(n, 2) for n in range(4)])
    score = Tasks(["belebele"], tmp_path, None, 0).compare(Knowing(tokenizer), Knowing(tokenizer, "B"))["belebele"]
    languages = score.get("by_language", {})
    assert score["items"] == 12 and score.get("worst_language") == "jpn_Jpan"
    assert list(languages) == ["jpn_Jpan", "deu_Latn", "fra_Latn"]
    assert [languages[one]["difference"] for one in languages] == [-1.0, -0.5, 1.0]
    assert "too few items (4)" in str(languages["jpn_Jpan"]["note"])
    alone = Tasks(["belebele_deu_Latn"], tmp_path, None, 0).compare(Knowing(tokenizer), Knowing(tokenizer))
    assert alone["belebele_deu_Latn"]["items"] == 4 and "by_language" not in alone["belebele_deu_Latn"]


def test_a_limit_is_spread_evenly(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for language, count in (("deu_Latn", 40), ("fra_Latn", 40), ("jpn_Jpan", 3)):
        write_passages(tmp_path, language, [passage(n) for n in range(count)])
    chosen = Tasks(["belebele"], tmp_path, 23, 0).asking("belebele").chosen
    assert {task: len(numbers) for task, numbers in chosen.items()} == {
        "belebele_deu_Latn": 10, "belebele_fra_Latn": 10, "belebele_jpn_Jpan": 3,
    }  # fmt: skip
    assert Tasks(["belebele"], tmp_path, 23, 0).asking("belebele").chosen == chosen
    assert Tasks(["belebele"], tmp_path, 23, 1).asking("belebele").chosen != chosen
    score = Tasks(["belebele"], tmp_path, 2, 0).compare(Knowing(tokenizer), Knowing(tokenizer))["belebele"]
    assert "2 items are too few for 3 languages: 1 of them were not asked" in str(score["note"])


def test_sums_are_read_as_the_harness_reads_them(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_sums(tmp_path, "de", 'Ein "halbes" Dutzend?\t6\nWie viele Gramm?\t1,250\n')
    write_sums(tmp_path, "en", "How many?\t6\nHow many grams?\t1250\n")
    good, empty = Counting(tokenizer, " Das sind 3 + 3 = 6."), Counting(tokenizer, " Das weiß ich nicht.")
    score = Tasks(["mgsm_direct"], tmp_path, None, 0).compare(good, empty)["mgsm_direct"]
    assert score["original"] == 0.5 and score["cut"] == 0 and score["filter"] == "flexible-extract"
    assert score["items"] == 4  # once each, though the harness answers once for each of its filters
    assert score["unparsed"] == {"original": 0, "cut": 4}
    prompt, stops = good.prompts[0]
    assert prompt.endswith('Frage: Ein "halbes" Dutzend?\nAntwort:') and "Frage:" in stops
    assert list(score.get("by_language", {})) == ["de", "en"]
    thousands = Counting(tokenizer, "1250")
    cot = Tasks(["mgsm_native_cot_de"], tmp_path, None, 0).compare(thousands, thousands)["mgsm_native_cot_de"]
    assert cot["original"] == 0.5 and "Schritt-für-Schritt-Antwort:" in thousands.prompts[0][0]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_global_mmlu(tokenizer: Tokenizer, tmp_path: Path, ending: str) -> None:
    write_choices(tmp_path, "de", [choice(1, "A"), choice(2, "B")], ending)
    write_choices(tmp_path, "sw", [choice(1, "A"), choice(2, "A")], ending)
    model = Knowing(tokenizer)
    score = Tasks(["global_mmlu_full"], tmp_path, None, 0).compare(model, Knowing(tokenizer, "B"))["global_mmlu_full"]
    assert (score["original"], score["cut"], score.get("worst_language")) == (0.75, 0.25, "sw")
    assert tokenizer.decode(list(model.pairs[0][0])).endswith("Nummer 1?\nA. a1\nB. b1\nC. c1\nD. d1\nAnswer:")
    assert Tasks(["global_mmlu_de"], tmp_path, None, 0).asking("global_mmlu_de").items == 2


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("belebele", lambda folder: write_passages(folder, "deu_Latn", []), "is empty"),
        (
            "belebele",
            lambda folder: write_passages(folder, "deu_Latn", [passage(1, 5)]),
            "line 1: 1, 2, 3 or 4 in c",
        ),
        (
            "belebele",
            lambda folder: write_passages(folder, "deu_Latn", [passage(1), passage(2, question="")]),
            "line 2: text in question is expected",
        ),
        ("belebele", lambda folder: write_passages(folder, "german", [passage(1)]), "'german' is no language"),
        ("belebele_fra_Latn", lambda folder: write_passages(folder, "deu_Latn", [passage(1)]), "no language fra_Latn"),
        ("mgsm_direct", lambda folder: write_sums(folder, "de", "Wie viele?\tsechs\n"), "row 1: a question, a tab and"),
        ("mgsm_direct", lambda folder: write_sums(folder, "de", "Wie viele? 6\n"), "found 1 columns"),
        ("mgsm_direct", lambda folder: write_sums(folder, "xx", "?\t6\n"), "no MGSM in the language xx"),
        ("global_mmlu", lambda folder: write_choices(folder, "de", [choice(1, "E")], "csv"), "row 2: A, B, C or D"),
        ("global_mmlu", lambda folder: write_choices(folder, "de", [{"question": "?"}], "csv"), "row 2: no option_a"),
        ("global_mmlu", lambda folder: write_choices(folder, "de", [choice(1, "AB")], "jsonl"), "line 1: A, B, C or D"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, write: Any, said: str) -> None:
    write(tmp_path)
    with pytest.raises(SmidgenError, match=said) as caught:
        Tasks([name], tmp_path, None, 0)
    assert str(caught.value).isprintable()


def test_without_the_network_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*arguments: Any, **settings: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(SmidgenError, match=r"cannot be fetched .* DIR/belebele/<language>.jsonl is read with --data"):
        Tasks(["belebele_deu_Latn"], tmp_path, None, 0)
    with pytest.raises(SmidgenError, match=r"\(ConnectionError\); is the network there\?"):
        Tasks(["global_mmlu"], None, None, 0)


def test_by_name_through_the_harness(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the hub would give in its place: groups of it, tags of it, and names that gather several."""
    import datasets

    def hub(path: str, name: str, **settings: Any) -> dict[str, datasets.Dataset]:
        if "mgsm" in path:
            rows: list[dict[str, Any]] = [{"question": f"{name}?", "answer": None, "answer_number": 6}]
        else:
            kinds = ("Business", "Humanities", "Medical", "Other", "STEM", "Social Sciences")
            rows = [choice(n, "A") | {"subject_category": kind} for n, kind in enumerate(kinds)]
        return dict.fromkeys(("train", "dev", "test"), datasets.Dataset.from_list(rows))

    monkeypatch.setattr(datasets, "load_dataset", hub)
    sums = Tasks(["mgsm_direct"], None, None, 0).compare(Counting(tokenizer, "6"), Counting(tokenizer, ""))[
        "mgsm_direct"
    ]
    assert {"de", "ja", "sw", "zh"} <= set(sums.get("by_language", {}))
    assert sums["original"] == 1 and sums["cut"] == 0
    asked = Tasks(["global_mmlu"], None, 30, 0).asking("global_mmlu")
    counts = Counter(language_of(task) for task, numbers in asked.chosen.items() for _ in numbers)
    assert len(asked.chosen) == 6 * 15 and set(counts.values()) == {2} and set(counts) >= {"de", "ja", "sw", "zh"}
