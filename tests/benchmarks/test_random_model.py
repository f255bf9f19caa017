"""A random model has a tokenizer like a real one, and does not only repeat what it was given."""

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.options import environment_of
from benchmarks.random_model import SHAPES, metadata, text, vocabulary, write
from smidgen.engines.torch import TorchEngine
from smidgen.formats.opening import open_checkpoint
from smidgen.model.tokenizer import Tokenizer

_SHAPE = replace(SHAPES["gemma-2-2b"], hidden=64, blocks=2, heads=2, kv_heads=1, head_dim=32, ffn_width=64,
                 vocabulary=3000)  # fmt: skip


def test_vocabulary_has_the_size_asked_for_and_no_token_twice() -> None:
    tokens, kinds = vocabulary(3000)
    assert len(tokens) == len(set(tokens)) == len(kinds) == 3000
    assert any(token.startswith("▁") and len(token) > 4 for token in tokens)


def test_text_has_at_least_the_tokens_asked_for() -> None:
    tokenizer = Tokenizer.from_gguf(metadata(_SHAPE)[0])
    assert 4000 <= len(tokenizer.encode(text(4000, _SHAPE))) < 6000


def test_such_a_model_writes_various_tokens(tmp_path: Path) -> None:
    write(_SHAPE, tmp_path / "model.gguf")
    with open_checkpoint(tmp_path / "model.gguf") as checkpoint:
        prompts = torch.full((2, 1), 2)
        ids = TorchEngine(checkpoint).sample(prompts, 30, 1.0, 0, end_ids=[1], bos_id=2, progress=None)
    assert len(set(ids.flatten().tolist())) > 40


def test_torch_is_told_which_instructions_it_may_use() -> None:
    assert environment_of("all") == {}
    assert environment_of("AVX2")["ATEN_CPU_CAPABILITY"] == "avx2"
