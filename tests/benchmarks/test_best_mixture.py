"""llama.cpp's side: its best file is found by quick looks, and each file is made once."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.best_mixture import Search, chosen_bodies, chosen_embeddings
from benchmarks.documents import Evaluation
from benchmarks.llama_cpp_mixtures import Mixture, Quantizer, candidates
from benchmarks.meter import Meter
from smidgen.errors import SmidgenError
from tests.tiny_models import write_llama

# Bytes saved, and KL, of each part of a model of 1,000 bytes.
SAVED = {"Q4_0": 500, "Q5_0": 400, "Q8_0": 100, "iq4_nl": 300, "q4_0": 290, "q8_0": 200, "f16": 0, "F16": 0}
COST = {"Q4_0": 0.2, "Q5_0": 0.1, "Q8_0": 0.01, "iq4_nl": 0.1, "q4_0": 0.3, "q8_0": 0.01, "f16": 0.0, "F16": 0.0}


class Quantizing:
    """A quantizer whose files say what they are."""

    original = Path("original.gguf")

    def __init__(self, folder: Path) -> None:
        self.folder, self.shelf = folder, SimpleNamespace(folder=folder)

    def expected_sizes(self, mixtures: Any) -> dict[Mixture, int]:
        return {one: 1000 - SAVED[str(one.body)] - SAVED[one.embedding] for one in mixtures}

    def inputs(self, mixture: Mixture) -> dict[str, str]:
        return {"mixture": str(mixture)}

    def command(self, mixture: Mixture, source: Path, destination: Path) -> list[str | Path]:
        return ["llama-quantize", *mixture.options(), source, destination]

    def make(self, mixture: Mixture, path: Path) -> None:
        path.write_text(str(mixture))
        os.truncate(path, 1000 - SAVED[str(mixture.body)] - SAVED[mixture.embedding])

    def made(self, mixture: Mixture) -> Path:
        path = self.folder / str(mixture)
        self.make(mixture, path)
        return path


class Measuring:
    """A meter that adds what the parts cost, and a mixture of its own that is worse than its parts."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.looks, self.full = 0, []

    def _cost(self, path: Path) -> dict[str, Any]:
        name = path.read_bytes().rstrip(b"\0").decode()
        body, embedding = name.split(", embedding ")
        return {"kl_mean": COST[body] + COST[embedding] + 0.5 * (name == "Q5_0, embedding iq4_nl")}

    def figures(self, path: Path, windows: Any, label: str) -> dict[str, Any]:
        self.looks += 1
        return self._cost(path)

    def by_article(self, path: Path, evaluation: Any, label: str) -> dict[str, Any]:
        self.full.append(path.name)
        return self._cost(path)

    def remember(self, key: str, figures: dict[str, Any]) -> None:
        self.known[key] = figures


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Quantizing, Measuring]:
    return Quantizing(tmp_path), Measuring()


def search(parts: tuple[Quantizing, Measuring], finalists: int) -> Search:
    quantizer, meter = parts
    look = SimpleNamespace(rows=lambda: [[1]])
    text = cast(Evaluation, SimpleNamespace(first=lambda tokens: look))
    bodies, embeddings = chosen_bodies("Q4_0,Q5_0,Q8_0"), chosen_embeddings("iq4_nl,q4_0,q8_0")
    return Search(cast(Quantizer, quantizer), cast(Meter, meter), text, bodies, embeddings, 512, finalists)


def test_the_best_of_the_promising_is_found_by_measuring_them_in_full(parts: tuple[Quantizing, Measuring]) -> None:
    found = search(parts, 2).best(310)
    # Q4_0 + q8_0 has 300 bytes and Q5_0 + iq4_nl too, which its parts overrate. Q5_0 + q4_0 is outdone: larger, dearer.
    assert [str(one.mixture) for one in found] == ["Q4_0, embedding q8_0", "Q5_0, embedding iq4_nl"]
    assert parts[1].full == ["Q5_0, embedding iq4_nl", "Q4_0, embedding q8_0"]
    assert found[0].command == "llama-quantize --token-embedding-type q8_0 original.gguf quantized.gguf"


def test_only_what_comes_near_a_size_is_looked_at_and_each_part_once(parts: tuple[Quantizing, Measuring]) -> None:
    searched = search(parts, 1)
    searched.best(310)
    assert set(searched.costs) == {"Q4_0", "Q5_0", "iq4_nl", "q4_0", "q8_0"} and parts[1].looks == 5
    searched.best(400)
    assert parts[1].looks == 5
    search(parts, 1).best(310)  # a repeated run
    assert parts[1].looks == 5


def test_a_size_that_nothing_comes_near_is_refused_with_its_neighbours(parts: tuple[Quantizing, Measuring]) -> None:
    with pytest.raises(SmidgenError, match="near 260 bytes: the next smaller one has 210, the next larger one 300"):
        search(parts, 1).best(260)


def test_a_name_that_is_none_is_refused() -> None:
    assert [str(body) for body in chosen_bodies("IQ4_NL attn_v=q8_0, IQ4_NL pure")] == [
        "IQ4_NL attn_v=q8_0",
        "IQ4_NL pure",
    ]
    with pytest.raises(ValueError, match="'Q9' is none of"):
        chosen_bodies("Q4_0,Q9")
    with pytest.raises(ValueError, match="'q9' is none of q2_k"):
        chosen_embeddings("q9")


def test_an_embedding_whose_rows_do_not_fit_a_type_is_not_tried_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_llama(tmp_path / "narrow.gguf")  # 64 columns
    nothing = cast(Any, SimpleNamespace(folder=tmp_path))
    quantizer = Quantizer(nothing, tmp_path / "narrow.gguf", tmp_path / "imatrix.gguf", nothing, 1)
    monkeypatch.setattr(quantizer, "expected_bytes", lambda mixture: 1000)
    known = quantizer.expected_sizes(candidates(chosen_bodies("Q4_0"), chosen_embeddings("q6_k,q4_0,q8_0")))
    assert {one.embedding for one in known} == {"q4_0", "q8_0"}
