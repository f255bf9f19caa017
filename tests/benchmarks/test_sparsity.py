"""The sparsity benchmark on a tiny model, from texts to table, and what it takes for an order."""

import json
import random
from pathlib import Path

import pytest

from benchmarks import sparsity
from tests.tiny_models import write_llama


def one(method: str, lowest: float, highest: float) -> dict:
    return {"pattern": "2:4", "method": method, "perplexity": {"lowest": lowest, "highest": highest}}


def test_order() -> None:
    assert sparsity.ordered([one("magnitude", 9, 9), one("wanda", 7, 8), one("sparsegpt", 6, 7)])
    assert not sparsity.ordered([one("magnitude", 8, 9), one("wanda", 7, 8), one("sparsegpt", 6, 7)])
    assert not sparsity.ordered([one("magnitude", 9, 9), one("wanda", 6.5, 8), one("sparsegpt", 6, 7)])


def test_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_llama(tmp_path / "tiny.gguf")
    letters = random.Random(0)
    text = "\n".join("".join(letters.choices("abcdefghij ", k=40)) for _ in range(120))
    (tmp_path / "text.txt").write_text(text)
    words = [str(model), "--calibration", str(tmp_path / "text.txt"), "--evaluation", f"{tmp_path / 'text.txt'}@0.7"]
    words += ["--tokens", "1100", "--evaluation-tokens", "600", "--patterns", "2:4", "--threads", "1"]
    words += ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "result.json")]
    sparsity.main(words)
    first = (tmp_path / "result.json").read_text()
    assert "| tiny.gguf |" in capsys.readouterr().out
    result = json.loads(first)
    (measured,) = result["models"]
    assert [(one["method"], len(one["runs"])) for one in measured["results"]] == [
        ("magnitude", 1), ("wanda", 2), ("sparsegpt", 2),
    ]  # fmt: skip
    assert all(one["perplexity"]["lowest"] > 1 and one["runs"][0]["kl_mean"] > 0 for one in measured["results"])
    assert not (tmp_path / "work" / "thinned").exists()
    sparsity.main(words)  # from what is kept
    assert (tmp_path / "result.json").read_text() == first
