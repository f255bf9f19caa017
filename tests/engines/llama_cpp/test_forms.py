"""GGUF files as people bring them: what our decoder lacks is handed to llama.cpp, which really runs it."""

from pathlib import Path

import numpy as np
import pytest

from smidgen.engines.llama_cpp.bench import measure_speed
from smidgen.engines.llama_cpp.draft import usable_draft
from smidgen.engines.llama_cpp.engine import LlamaCppEngine, Sampling
from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.opening import open_checkpoint
from tests.gguf_forms import Parts, fused, plain, tensors_of, with_tensors, without_vocabulary, write_parts
from tests.mutated_gguf import ARRAY, STRING, mixture, renamed

GREEDY = Sampling(temperature=0)
F64_ID = 28  # of ggml


def write(parts: Parts, folder: Path, name: str = "model") -> Path:
    (folder / f"{name}.gguf").write_bytes(parts.as_bytes())
    return folder / f"{name}.gguf"


def written_by(path: Path) -> str:
    with LlamaCppEngine(path, 64, threads=1) as engine:
        reply = engine.stream("ab ab", 8, GREEDY)
        text = reply.text()
        assert reply.generated_tokens > 0
        return text


def test_fused_attention_and_parts_write_what_the_plain_model_writes(tmp_path: Path) -> None:
    wanted = written_by(write(plain(), tmp_path))
    assert wanted
    assert written_by(write(fused(plain()), tmp_path, "fused")) == wanted
    parts = write_parts(plain(), tmp_path)
    assert written_by(parts[2]) == wanted
    assert usable_draft(tmp_path / "model.gguf", parts[1]) == parts[0]


def test_types_that_no_weights_have_are_refused_by_both(tmp_path: Path) -> None:
    tensors = tensors_of(plain())
    name, shape, _, raw = tensors["blk.1.ffn_up.weight"]
    doubled = np.frombuffer(raw, "<f4").astype("<f8").tobytes()
    tensors[name] = name, shape, F64_ID, doubled
    path = write(with_tensors(plain(), list(tensors.values())), tmp_path)
    with pytest.raises(
        Unsupported, match="blk.1.ffn_up.weight has type F64, which neither smidgen nor llama.cpp computes with"
    ):
        open_checkpoint(path)
    with pytest.raises(BadFile, match="blk.1.ffn_up.weight is stored as F64, which nothing multiplies with"):
        LlamaCppEngine(path, 64)


def test_architectures_that_we_do_not_have_run_in_llama_cpp(tmp_path: Path) -> None:
    path = write(renamed(plain(), "internlm2"), tmp_path)
    written_by(path)
    with pytest.raises(Unsupported, match="architecture 'internlm2' is not supported"):
        open_checkpoint(path)


def test_speed_of_parts_and_of_a_mixture(tmp_path: Path) -> None:
    """The bound on the speed counts all parts, and of the experts those that are used."""
    dense, sparse = measure_speed([write_parts(plain(), tmp_path)[1], write(mixture(plain()), tmp_path)], 1, repeats=1)
    router, expert = 2 * 4 * 256 * 4, 2 * 3 * 256 * 256 * 4  # of both layers, float32
    assert sparse["bytes_per_token"] == dense["bytes_per_token"] + router + expert


TOKENS = "tokenizer.ggml.tokens"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({TOKENS: ((ARRAY, STRING), ["a"] * 300)}, BadFile, "tokens 0 and 1 of its vocabulary have the same text"),
        ({"tokenizer.ggml.model": ((STRING,), "no_vocab"), "llama.vocab_size": ((4,), 300)}, Unsupported, "vocabulary"),
        ({"llama.rope.scaling.type": ((STRING,), "su")}, BadFile, "rope.scaling.type should be one of"),
        ({"llama.expert_used_count": ((4,), 2)}, BadFile, "expert_used_count should be"),
        ({"general.type": ((STRING,), "adapter")}, Unsupported, "is an adapter, not a model"),
    ],
)
def test_what_would_end_llama_cpp_never_reaches_it(
    tmp_path: Path, changes: dict[str, tuple[tuple[int, ...], object]], error: type[SmidgenError], message: str
) -> None:
    parts = plain().copy()
    parts.metadata |= changes
    path = write(parts, tmp_path)
    for look in (LlamaCppEngine, lambda path: measure_speed([path])):
        with pytest.raises(error, match=message):
            look(path)


def test_a_model_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="has no vocabulary"):
        LlamaCppEngine(write(without_vocabulary(plain()), tmp_path))
