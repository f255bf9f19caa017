"""Names that change with everything that a file depends on."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from torch import Tensor

from benchmarks import meter as meters
from benchmarks.artefacts import Shelf, name_of, sha256
from benchmarks.calibrating import same_for_both
from benchmarks.documents import Evaluation, take
from benchmarks.meter import Meter, paired
from smidgen.data.held_out import CalibrationText
from smidgen.data.sources import read_text
from smidgen.data.text import WINDOW
from smidgen.engines.torch import TorchEngine
from smidgen.errors import SmidgenError
from smidgen.formats.opening import open_checkpoint
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import Task
from tests.tiny_models import write_gemma3


def test_another_input_is_another_name(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    first = shelf.path("imatrix", ".gguf", original="aa", text="bb", chunks=32)
    assert first == shelf.path("imatrix", ".gguf", chunks=32, text="bb", original="aa")
    others = [{"original": "ab"}, {"text": "bc"}, {"chunks": 31}, {"more": 1}]
    names = {shelf.path("imatrix", ".gguf", **{"original": "aa", "text": "bb", "chunks": 32} | one) for one in others}
    assert len(names | {first}) == 5
    assert shelf.used[first.name] == {"original": "aa", "text": "bb", "chunks": 32}
    assert json.loads(json.dumps(shelf.used)) == shelf.used


def test_a_file_that_changed_has_another_hash(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    before = sha256(path)
    path.write_text("three")
    assert sha256(path) != before and name_of(a=before) != name_of(a=sha256(path))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    with open_checkpoint(write_gemma3(tmp_path / "tiny.gguf")) as checkpoint:
        return Tokenizer.from_gguf(checkpoint.tokenizer_metadata)


def write_articles(path: Path, count: int) -> Path:
    """As in WikiText, with headings of sections in them."""
    path.write_text("".join(f" = Number {n} = \n\n = = Section = = \n {'abc ' * (30 + n)}\n" for n in range(count)))
    return path


def test_articles_are_taken_apart_at_their_headings(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write_articles(tmp_path / "articles.txt", 12)
    found = take([str(path)], 5, 5 * 512, tokenizer)
    text = path.read_text()
    assert [text[at : at + 12].strip() for at in found.places] == [f"= Number {n}" + " =" * (n > 99) for n in range(5)]
    assert found.article_of == [0, 1, 2, 3, 4] and found.description["articles"] == 5
    later = take([f"{path}@0.5"], 5, 5 * 512, tokenizer)
    assert min(later.places) > max(found.places)
    with pytest.raises(SmidgenError, match="has 12 articles of at least 64 tokens, 13 are needed"):
        take([str(path)], 13, 13 * 512, tokenizer)


def test_few_tokens_are_the_beginnings_of_many_articles(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write_articles(tmp_path / "articles.txt", 12)
    found = take([str(path)], 10, 10 * 96, tokenizer)
    assert found.windows.ids.shape == (10, 96) and found.description["window"] == 96
    assert len(found.first(200)) == 3
    shortest = take([str(path)], 10, 10, tokenizer)  # never less than what counts as an article
    assert shortest.windows.ids.shape == (10, 65) and shortest.article_of == list(range(10))


def test_the_original_reads_a_text_once_for_all_files(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, other = write_gemma3(tmp_path / "original.gguf"), write_gemma3(tmp_path / "other.gguf")
    evaluation = take([str(write_articles(tmp_path / "a.txt", 12))], 6, 6 * 96, tokenizer)
    meter, read = Meter(original, tmp_path / "measured.json"), []
    plain = meters.TorchEngine.hidden_states

    def counted(engine: TorchEngine, windows: Tensor, progress: Task | None = None) -> Tensor:
        read.append(engine is meter.original)
        return plain(engine, windows, progress)

    monkeypatch.setattr(meters.TorchEngine, "hidden_states", counted)
    first = meter.figures(original, evaluation.windows, "itself")
    meter.known.clear()
    assert meter.figures(other, evaluation.windows, "another") == first and read == [True, False, False]


def test_a_text_without_headings_is_cut_into_parts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "novel.txt"
    path.write_text("".join(f"line {n} of a long tale\n" for n in range(2000)))
    found = take([f"{path}@0-0.5"], 10, 20 * 512, tokenizer)
    half = len(path.read_text()) / 2
    assert len(found.places) == 10 and found.article_of == [n for n in range(10) for _ in range(2)]
    assert max(found.places) < half and min(after - before for before, after in pairwise(found.places)) > half / 11
    assert found.description["sources"][0]["to"] == 0.5


def test_both_sides_calibrate_on_the_same_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """llama.cpp's file holds what smidgen draws from its own: none of what is kept for the report card."""
    path = tmp_path / "long.txt"
    path.write_text("".join(f"{n}; " + "\n" * (n % 20 == 0) for n in range(6000)))
    found = same_for_both([str(path)], 4096, tokenizer, tmp_path, seed=0)
    given, learned = found.given.read_text(), found.learned.read_text()
    assert 4096 * 1.25 < len(tokenizer.encode(given)) < 4096 * 1.6
    assert 0.98 * 4096 < len(tokenizer.encode(learned)) < 1.02 * 4096
    held_out = CalibrationText.of(read_text(found.given), tokenizer, WINDOW)
    torn = set(learned.split()) - set(given.split())  # numbers in which a window begins or ends
    assert len(torn) < 40 and len("".join(held_out.pieces)) < 0.85 * len(given)
    assert found.description["calibrated_on"]["sha256"] == sha256(found.learned)
    again = same_for_both([str(path)], 4096, tokenizer, tmp_path, seed=0)
    assert again.learned == found.learned and again.learned.read_text() == learned
    healed = same_for_both([str(path)], 4096, tokenizer, tmp_path, seed=0, given=12_000)
    assert healed.learned != found.learned and len(healed.given.read_text()) > 1.8 * len(given)


def test_a_file_is_measured_article_by_article_once(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = write_gemma3(tmp_path / "original.gguf")
    evaluation: Evaluation = take([str(write_articles(tmp_path / "a.txt", 12))], 6, 6 * 512, tokenizer)
    meter = Meter(original, tmp_path / "measured.json")
    same = meter.by_article(original, evaluation, "itself")
    assert len(same["articles"]) == 6 and same["kl_interval"] == (0, 0)
    assert sum(one["tokens"] for one in same["articles"]) == same["tokens"]
    monkeypatch.setattr(meters, "scored", None)  # what is known is not measured again
    again = Meter(original, tmp_path / "measured.json").by_article(original, evaluation, "itself")
    assert again["articles"] == same["articles"]
    theirs = same | {"articles": [one | {"kl": 0.2} for one in same["articles"]]}
    ours = same | {"articles": [one | {"kl": 0.1} for one in same["articles"]]}
    assert paired(ours, theirs)["ratio"] == pytest.approx(0.5) and paired(ours, theirs)["articles"] == 6
