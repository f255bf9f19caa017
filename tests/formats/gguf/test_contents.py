"""Headers that are sound as GGUF and absurd as models must be refused before llama.cpp, which would end the process."""

import math
from pathlib import Path
from typing import Any

import pytest

from smidgen.engines.llama_cpp.bench import measure_speed
from smidgen.engines.llama_cpp.engine import read_facts
from smidgen.errors import BadFile
from tests.tiny_models import GEMMA3_CONFIG, GEMMA3_KEYS, gguf_tensors, random_decoder, write_model

TENSORS = gguf_tensors(random_decoder(GEMMA3_CONFIG))


def write(folder: Path, architecture: str = "gemma3", **keys: Any) -> Path:
    return write_model(folder / "model.gguf", architecture, GEMMA3_KEYS | keys, TENSORS)


@pytest.mark.parametrize("architecture", ["gemma3", "mamba9"])
@pytest.mark.parametrize(
    "key, value",
    [
        ("block_count", 0),
        ("block_count", 2_000_000_000),
        ("context_length", 0),
        ("context_length", 2**32 - 1),
        ("embedding_length", 0),
        ("attention.layer_norm_rms_epsilon", math.nan),
    ],
)
def test_absurd_numbers_never_reach_llama_cpp(tmp_path: Path, architecture: str, key: str, value: object) -> None:
    path = write(tmp_path, architecture, **{key: value})
    for look in (read_facts, lambda path: measure_speed([path])):
        with pytest.raises(BadFile, match=rf"model\.gguf: metadata {architecture}\.{key} should be"):
            look(path)


def test_a_model_without_some_of_its_tensors_never_reaches_llama_cpp(tmp_path: Path) -> None:
    some = {name: array for name, array in TENSORS.items() if name != "blk.3.ffn_down.weight"}
    with pytest.raises(BadFile, match=r"blk\.3\.ffn_down\.weight is missing"):
        read_facts(write_model(tmp_path / "model.gguf", "gemma3", GEMMA3_KEYS, some))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("architecture", ["gemma3", "mamba9"])
def test_vectors_that_are_not_finite_never_reach_llama_cpp(tmp_path: Path, architecture: str, value: float) -> None:
    """It would write nonsense without a word."""
    norm = TENSORS["blk.3.attn_norm.weight"].copy()
    norm[5] = value
    path = write_model(tmp_path / "m.gguf", architecture, GEMMA3_KEYS, TENSORS | {"blk.3.attn_norm.weight": norm})
    for look in (read_facts, lambda path: measure_speed([path])):
        with pytest.raises(BadFile, match=r"m\.gguf: blk\.3\.attn_norm\.weight holds values that are not finite"):
            look(path)


def test_what_only_llama_cpp_can_do_is_left_to_it(tmp_path: Path) -> None:
    assert read_facts(write(tmp_path, "mamba9")).context_length == 4096
    assert read_facts(write(tmp_path, unheard_of=1)).context_length == 4096
