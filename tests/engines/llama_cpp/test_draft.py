"""A draft proposes ids, so its vocabulary must be the model's: refused by its first other token, else it helps."""

from pathlib import Path

import numpy as np
import pytest

from smidgen.engines.llama_cpp.draft import usable_draft
from smidgen.engines.llama_cpp.engine import LlamaCppEngine, Sampling
from smidgen.errors import BadFile, Unsupported
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.writer import TensorPlan, write_gguf
from tests import tiny_models as tiny
from tests.padded_models import padded

TOKENS = ["<pad>", "</s>", "<s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
TOKENS += [*(chr(0x4E00 + i) for i in range(tiny.VOCABULARY - 261)), "▁"]


def write(folder: Path, name: str, tokens: list[str]) -> Path:
    tensors = tiny.gguf_tensors(tiny.random_decoder(tiny.GEMMA3_CONFIG))
    tensors["token_embd.weight"] = tensors["token_embd.weight"][: len(tokens)]
    return tiny.write_model(folder / name, "gemma3", tiny.GEMMA3_KEYS, tensors, tokens)


def trim(source: Path, target: Path, drop: int) -> Path:
    """The same file without one token and its row of the embedding."""
    with GGUFFile.open(source) as file:
        metadata, embedding = dict(file.metadata), "token_embd.weight"
        for key in ("tokens", "scores", "token_type"):
            values = metadata[f"tokenizer.ggml.{key}"]
            assert isinstance(values, list | np.ndarray)
            shorter = [*values[:drop], *values[drop + 1 :]] if isinstance(values, list) else np.delete(values, drop)
            metadata[f"tokenizer.ggml.{key}"] = shorter
        plans = [
            TensorPlan(name, (info.shape[0] - (name == embedding), *info.shape[1:]), info.kind)
            for name, info in file.tensors.items()
        ]

        def packed(name: str) -> np.ndarray:
            rows = file.packed(name)
            return np.delete(rows, drop, axis=0) if name == embedding else rows

        write_gguf(target, metadata, file.metadata_types, plans, packed)
    return target


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([*TOKENS[:270], *TOKENS[271:]], "token 270 is '\u4e0b' in the draft and '\u4e0a' in the model"),
        (TOKENS[:290], f"token 290, {TOKENS[290]!r}, is in the model and not in the draft (290 tokens)"),
        ([*TOKENS[:260], "\n\x1b[31m", *TOKENS[261:]], r"'\n\x1b[31m' in the draft"),
    ],
)
def test_the_first_other_token_is_named(tmp_path: Path, tokens: list[str], said: str) -> None:
    model, draft = write(tmp_path, "model.gguf", TOKENS), write(tmp_path, "draft.gguf", tokens)
    with pytest.raises(Unsupported) as caught:
        usable_draft(model, draft)
    message = str(caught.value)
    assert said in message and message.isprintable() and "--draft" in message


def test_a_longer_draft_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    short, whole = write(tmp_path, "short.gguf", TOKENS[:290]), write(tmp_path, "whole.gguf", TOKENS)
    with pytest.raises(Unsupported, match="is in the draft and not in the model"):
        usable_draft(short, whole)
    usable_draft(whole, whole)
    (tmp_path / "half.gguf").write_bytes(whole.read_bytes()[:20_000])
    with pytest.raises(BadFile, match="half.gguf"):
        usable_draft(whole, tmp_path / "half.gguf")


def test_a_model_drafts_for_itself_and_a_trimmed_one_does_not(gemma_path: Path, tmp_path: Path) -> None:
    prompt = "The capital of France is"
    with LlamaCppEngine(gemma_path, 256, threads=1, draft=gemma_path) as engine:
        answer = engine._server.call(  # pyright: ignore[reportPrivateUsage]
            "/completion", {"prompt": prompt, "n_predict": 24, "temperature": 0}
        )
        assert answer["timings"]["draft_n"] >= answer["timings"]["draft_n_accepted"] > 10
        reply = engine.stream(prompt, 16, Sampling(temperature=0))
        assert len(reply.text()) > 20 and reply.generated_tokens == 16

    trimmed = trim(gemma_path, tmp_path / "trimmed.gguf", 200_000)
    with pytest.raises(Unsupported, match="trimmed.gguf cannot draft for .*: token 200000 is '.*' in the draft and '"):
        LlamaCppEngine(gemma_path, 256, threads=1, draft=trimmed)


@pytest.mark.parametrize("rows", [310, 600])
def test_padding_does_not_count(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft that proposes its padding ends llama.cpp, and so does a model of more rows than its draft has."""
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    model = write(tmp_path, "model.gguf", TOKENS)
    longer = padded(model, tmp_path / "longer.gguf", rows)
    fitted = usable_draft(model, longer)
    with GGUFFile.open(model) as wanted, GGUFFile.open(fitted) as found:
        assert found.metadata["tokenizer.ggml.tokens"] == TOKENS
        for name in wanted.tensors:  # the same weights, once the padding is gone
            assert bytes(found.packed(name)) == bytes(wanted.packed(name))
    assert usable_draft(model, longer) == fitted != longer
    other = usable_draft(longer, model)
    with GGUFFile.open(other) as found:
        assert len(found.tensors["token_embd.weight"].shape) == 2
        assert found.tensors["token_embd.weight"].shape[0] == rows
    for written, draft in ((model, longer), (longer, model)):  # the longer one likes its padding best, and writes it
        with LlamaCppEngine(written, draft=draft) as drafted, LlamaCppEngine(written) as alone:
            replies = [engine.stream("a", 12, Sampling(temperature=0)) for engine in (drafted, alone)]
            assert replies[0].text() == replies[1].text()
            assert replies[0].generated_tokens == 12
