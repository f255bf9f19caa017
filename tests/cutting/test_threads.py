"""The same file from any number of threads. Matrices are as wide as real ones: small ones are left to one thread."""

import random
from pathlib import Path

import pytest

from smidgen import cut
from smidgen.model.config import LayerConfig, ModelConfig, Rotary
from tests.cutting.commands import sha256
from tests.tiny_models import LLAMA_KEYS, VOCABULARY, gguf_tensors, random_decoder, write_model

#: A layer of SmolLM2 135M.
_CONFIG = ModelConfig(
    "llama", VOCABULARY, 576, (LayerConfig(9, 3, 64, 1536, Rotary(1e5, 64), 0.125, "silu"),), 1e-5, 8192, False
)
_KEYS = {key: value for key, value in LLAMA_KEYS.items() if "scaling" not in key} | {
    "context_length": 8192,
    "embedding_length": 576,
    "block_count": 1,
    "feed_forward_length": 1536,
    "attention.head_count": 9,
    "attention.head_count_kv": 3,
    "rope.dimension_count": 64,
    "rope.freq_base": 1e5,
}


@pytest.fixture
def model(own_folder: Path) -> Path:
    letters = random.Random(0)
    (own_folder / "text.txt").write_text("".join(letters.choice("abcdefghijklmnopqrstuvwxyz ,.") for _ in range(6000)))
    return write_model(own_folder / "wide.gguf", "llama", _KEYS, gguf_tensors(random_decoder(_CONFIG)))


def test_any_number_of_threads_writes_the_same_file(model: Path) -> None:
    for threads in (1, 2, 3):
        cut(
            model, f"out-{threads}", fit="2.8MB", texts=["text.txt"], tokens=2048, types=["Q5_0"],
            threads=threads, measured=False,
        )  # fmt: skip
    assert len({sha256(model.parent / f"out-{threads}/model.gguf") for threads in (1, 2, 3)}) == 1
