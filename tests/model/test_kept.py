"""Bytes of keys and values, and which types a model may have for them."""

from dataclasses import replace
from pathlib import Path

import pytest

from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.gguf.kept import kept_of
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.model.kept import AS_USUAL, KeptLayer, bytes_per_token, cache_bytes, keeping_of, kept_in_words, refuse_kv
from tests.tiny_models import LLAMA_CONFIG, write_gemma3

MIB = 2**20


def test_bytes_are_those_that_llama_cpp_says_it_takes(gemma_path: Path, smollm_path: Path) -> None:
    """Its log for 4096 tokens, in MiB. Three of Gemma's 18 layers see all of them, the others keep 1024."""
    said = {gemma_path: {"f16": 12 + 15, "q8_0": 6.38 + 7.97, "q4_0": 3.38 + 4.22},
            smollm_path: {"f16": 90.0, "q8_0": 47.81, "q4_0": 25.31}}  # fmt: skip
    for path, sizes in said.items():
        with GGUFFile.open(path) as file:
            kept = kept_of(file)
        for kv in ("f16", "q8_0", "q4_0"):
            assert cache_bytes(kept, 4096, kv) / MIB == pytest.approx(sizes[kv], abs=0.02)


def test_a_token_takes_what_its_heads_take() -> None:
    layers = [KeptLayer(2, 64, 64), KeptLayer(1, 128, 64, window=512)]
    assert bytes_per_token(layers, "f16") == 2 * (2 * 128 + 192)
    assert bytes_per_token(layers, "q8_0") == 34 * (2 * 128 + 192) // 32
    assert bytes_per_token(layers, "q4_0") == 18 * (2 * 128 + 192) // 32
    assert cache_bytes(layers, 300, AS_USUAL) == 512 * bytes_per_token(layers, AS_USUAL)
    assert "q8_0, with flash attention" in kept_in_words("q8_0", layers, 4096)


@pytest.mark.parametrize(
    ("kv", "head", "said"),
    [
        ("q8_0", 80, "groups of 32 numbers, and this model's heads have 80"),
        ("q5", 64, "choose from f16, q8_0, q4_0"),
    ],
)
def test_what_does_not_fit_is_refused(kv: str, head: int, said: str) -> None:
    layer = replace(LLAMA_CONFIG.layers[0], head_dim=head)
    with pytest.raises(SmidgenError, match=said):
        refuse_kv(kv, keeping_of(replace(LLAMA_CONFIG, layers=(layer,))))
    refuse_kv(AS_USUAL, [KeptLayer(1, 80, 80)])
    with pytest.raises(Unsupported, match="keeps none"):
        refuse_kv("q4_0", [])


def test_a_file_of_a_model_that_we_do_not_know_tells_its_heads(tmp_path: Path) -> None:
    path = write_gemma3(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes().replace(b"gemma3", b"gemma9"))
    with GGUFFile.open(path) as file:
        assert kept_of(file) == (KeptLayer(2, 16, 16),) * 5
