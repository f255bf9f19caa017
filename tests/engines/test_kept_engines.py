"""`--kv` reaches the engines, and what they cannot keep is refused before any of them starts."""

import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from smidgen.cli.main import main
from smidgen.cutting import cut as cutting
from smidgen.cutting.cut import cut
from smidgen.engines.continuations import score_continuations
from smidgen.engines.llama_cpp import server as servers
from smidgen.engines.llama_cpp.bench import measure_speed
from smidgen.engines.llama_cpp.engine import LlamaCppEngine, Sampling
from smidgen.engines.llama_cpp.process import environment
from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.engines.torch import TorchEngine
from smidgen.errors import Unsupported
from smidgen.formats.opening import open_checkpoint
from smidgen.model.kept import KVType
from smidgen.serving.hosting import Hosted
from smidgen.showing.models import Shelf
from tests.parity.test_kept_llama_cpp import tiny
from tests.tiny_models import VOCABULARY, write_llama

DRAWN = Sampling(temperature=0)


def test_llama_cpp_takes_less_memory_and_still_answers(smollm_path: Path) -> None:
    sizes = {}
    kinds: tuple[KVType, ...] = ("f16", "q4_0")
    for kv in kinds:
        with LlamaCppEngine(smollm_path, 8192, threads=1, kv=kv) as engine:
            assert engine.stream("The capital of France is", 4, DRAWN).text()
            sizes[kv] = engine._server.memory()["resident_bytes"]  # pyright: ignore[reportPrivateUsage]
    assert sizes["f16"] - sizes["q4_0"] > 100e6


@pytest.mark.parametrize("kv", ["q8_0", "q4_0"])
def test_what_is_kept_is_rounded_alike_however_a_text_is_read(tmp_path: Path, kv: KVType) -> None:
    """Whole, or in groups that begin alike; and it is not what a float cache gives.

    Sums in another order may take a number half-way between two codes the other way: most texts agree, not each.
    """
    path = tiny(tmp_path / "tiny.gguf", 64)
    texts = torch.randint(4, VOCABULARY, (5, 9), generator=torch.Generator().manual_seed(1))
    pairs = [(row[:5], row[5:]) for row in texts.tolist()]
    with open_checkpoint(path) as checkpoint:
        engine = TorchEngine(checkpoint, kv=kv)
        found, plain = (score_continuations(one, pairs) for one in (engine, TorchEngine(checkpoint)))
        logits = engine.hidden_states(texts)[:, 4:8] @ engine.head_rows(0, VOCABULARY).T
    whole = logits.log_softmax(-1).gather(-1, texts[:, 5:, None]).sum(dim=(1, 2)).tolist()
    apart = sorted(abs(one.log_probability - other) for one, other in zip(found, whole, strict=True))
    moved = [abs(one.log_probability - other.log_probability) for one, other in zip(found, plain, strict=True)]
    assert apart[2] < 1e-4 and min(moved) > 1e-3


def test_heads_that_do_not_fit_are_refused_before_an_engine_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_llama(tmp_path / "tiny.gguf")  # heads of 16 numbers

    def started(*_: Any) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr(servers, "EngineProcess", started)
    for start in (
        lambda: LlamaServer(path, ctx_size=256, kv="q8_0"),
        lambda: LlamaCppEngine(path, 256, kv="q4_0"),
        lambda: measure_speed([path], 1, kv=["q8_0"]),
        lambda: Hosted.check(str(path), kv="q8_0"),
        lambda: Shelf([str(path)], 256, 1, 1, kv="q8_0"),
        lambda: cut(path, tmp_path / "out", fit="90KB", kv="q8_0"),
    ):
        with pytest.raises(Unsupported, match="heads have 16"):
            start()
    for words in (
        ["run", str(path), "Hello", "--kv", "q8_0"],
        ["serve", str(path), "--port", "0", "--kv", "q4_0"],
        ["bench", str(path), "--kv", "q8_0"],
        ["measure", str(path), str(path), "--kv", "q8_0"],
        ["cut", str(path), "--fit", "90KB", "-o", str(tmp_path / "out"), "--kv", "q8_0"],
        ["cut", str(path), "--fit", "90KB", "-o", str(tmp_path / "out"), "--kv", "f16", "--kv", "q8"],
        ["cut", str(path), "--fit", "90KB", "-o", str(tmp_path / "out"), "--kv", "q8_0", "--no-measure"],
        ["run", str(path), "Hello", "--kv", "q8"],
        ["serve", str(path), "--engine", "vllm", "--kv", "q8_0"],
    ):
        with pytest.raises(SystemExit) as left:
            main(words)
        said = capsys.readouterr()
        assert left.value.code == 2 and said.err.count("\n") == 1 and "kv" in said.err and said.out == ""
    assert not (tmp_path / "out").exists()


def test_a_cut_is_measured_with_the_cache_that_was_asked_for(
    smollm_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def measured(*_: object, **options: object) -> NoReturn:
        asked.append(options["kv"])
        raise Measured

    class Measured(Exception):
        pass

    path = tiny(tmp_path / "tiny.gguf", 32)
    (tmp_path / "text.txt").write_text("A text of some words and more. " * 80)
    monkeypatch.setattr(cutting, "measure", measured)
    with pytest.raises(Measured):
        size = path.stat().st_size
        cut(path, tmp_path / "out", fit=size, texts=str(tmp_path / "text.txt"), tokens=512, kv="q8_0")
    assert asked == ["q8_0"]


def test_variables_of_llama_cpp_do_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would have it compute otherwise than the card says."""
    monkeypatch.setenv("LLAMA_ATTN_ROT_DISABLE", "1")
    monkeypatch.setenv("SMIDGEN_TEST_OTHER", "kept")
    found = environment()
    assert "LLAMA_ATTN_ROT_DISABLE" not in found and found["SMIDGEN_TEST_OTHER"] == "kept"
    assert "LLAMA_ATTN_ROT_DISABLE" in os.environ, "ours stays as it is"


def test_a_hosted_model_counts_and_says_what_it_keeps(smollm_path: Path) -> None:
    usual, small = (Hosted.check(str(smollm_path), ctx_size=8192, parallel=2, kv=kv) for kv in ("f16", "q8_0"))
    assert usual.bytes - small.bytes == 2 * 8192 * (23040 - 12240)
    assert small.as_object()["kv"] == "q8_0" and "kv" not in usual.as_object()
    assert small.for_embeddings().kv == "q8_0"
