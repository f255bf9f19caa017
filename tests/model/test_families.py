"""Family maps: configurations from real and made-up metadata, names and row orders there and back, refusals."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.model.config import ModelConfig
from smidgen.model.families import FAMILIES, Family, Transform, family_of_gguf
from smidgen.model.families.gemma3 import GEMMA3
from smidgen.model.families.llama import LLAMA
from smidgen.model.parameters import parameter_shapes
from tests.tiny_models import GEMMA3_CONFIG, GEMMA3_KEYS, LLAMA_CONFIG, LLAMA_KEYS, VOCABULARY

TIED = {"token_embd.weight": (VOCABULARY, 64)}
UNTIED = TIED | {"output.weight": (VOCABULARY, 64)}


def read(family: Family, keys: dict[str, Any], **changes: Any) -> ModelConfig:
    """`changes` name keys with "__" for "."; None takes a key away."""
    keys = keys | {name.replace("__", "."): value for name, value in changes.items()}
    metadata = {f"{family.gguf_architecture}.{key}": value for key, value in keys.items() if value is not None}
    return family.config_from_gguf(metadata, TIED if family is GEMMA3 else UNTIED)


def rounded(config: ModelConfig) -> ModelConfig:
    return replace(config, norm_epsilon=round(config.norm_epsilon, 9))


def test_gemma3() -> None:
    assert rounded(read(GEMMA3, GEMMA3_KEYS)) == rounded(GEMMA3_CONFIG)


def test_llama() -> None:
    assert rounded(read(LLAMA, LLAMA_KEYS)) == rounded(LLAMA_CONFIG)


def windows(**changes: Any) -> list[int | None]:
    return [layer.window for layer in read(GEMMA3, GEMMA3_KEYS, **changes).layers]


def test_gemma3_windows() -> None:
    pattern = "attention__sliding_window_pattern"
    assert windows(**{pattern: None}, block_count=13) == ([7] * 5 + [None]) * 2 + [7]
    assert windows(**{pattern: 2}) == [7, None, 7, None, 7]
    assert windows(**{pattern: 1}) == [None] * 5
    assert windows(**{pattern: 0}) == [7] * 5
    assert windows(**{pattern: np.array([True, False, False, True, True])}) == [7, None, None, 7, 7]
    assert windows(attention__sliding_window=None, **{pattern: None}) == [None] * 5
    with pytest.raises(BadFile, match="one flag for each of the 5 layers"):
        windows(**{pattern: np.array([True, False])})


def test_gemma3_rotary_scaling_is_for_global_layers_only() -> None:
    layers = read(GEMMA3, GEMMA3_KEYS, rope__freq_base_swa=5e3).layers
    assert [(layer.rope_base, layer.rope_scale) for layer in layers[1:3]] == [(5e3, 1.0), (1e6, 8.0)]


def test_gemma3_27b_scales_by_the_residual_width() -> None:
    config = read(
        GEMMA3,
        GEMMA3_KEYS,
        block_count=62,
        embedding_length=5376,
        attention__head_count=32,
        attention__head_count_kv=16,
        attention__key_length=128,
        attention__value_length=128,
    )
    assert config.layers[0].attention_scale == pytest.approx(168**-0.5)


def test_layers_may_differ() -> None:
    config = read(LLAMA, LLAMA_KEYS, feed_forward_length=np.array([8, 16, 24]), attention__head_count_kv=[4, 2, 1])
    assert [(layer.ffn_width, layer.kv_heads) for layer in config.layers] == [(8, 4), (16, 2), (24, 1)]


def test_optional_keys_of_llama() -> None:
    plain = read(LLAMA, LLAMA_KEYS, rope__scaling__type=None, rope__scaling__factor=None, rope__freq_base=None,
                 attention__head_count_kv=None, vocab_size=None)  # fmt: skip
    assert (plain.layers[0].rope_base, plain.layers[0].rope_scale, plain.layers[0].kv_heads) == (1e4, 1.0, 4)
    assert read(LLAMA, LLAMA_KEYS, rope__scaling__type="none").layers[0].rope_scale == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block_count": None}, "no metadata key llama.block_count"),
        ({"embedding_length": None}, "no metadata key llama.embedding_length"),
        ({"attention__layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon"),
        ({"block_count": 2**31}, "should be an integer from 1 to 512, found 2147483648"),
        ({"block_count": 0}, "should be an integer"),
        ({"block_count": -3}, "should be an integer"),
        ({"block_count": 3.0}, "should be an integer"),
        ({"block_count": True}, "should be an integer"),
        ({"block_count": "three"}, "found 'three'"),
        ({"block_count": ["x"] * 10_000}, "should be an integer"),
        ({"attention__head_count": 0}, "attention.head_count should be an integer"),
        ({"attention__head_count": 6}, "not divisible by 6 heads"),
        ({"attention__head_count_kv": 3}, "4 heads do not divide into 3"),
        ({"attention__head_count": np.array([4, 4])}, "one value for each of the 3 layers"),
        ({"attention__head_count": np.array([4, 4, 0])}, "should be an integer"),
        ({"attention__head_count": np.array([4.0, 4.0, 4.0])}, "should be an integer"),
        ({"embedding_length": 2**62}, "embedding_length should be an integer"),
        ({"rope__freq_base": float("nan")}, "finite number above zero"),
        ({"rope__freq_base": float("inf")}, "finite number above zero"),
        ({"rope__freq_base": -1.0}, "finite number above zero"),
        ({"rope__freq_base": "big"}, "should be a number"),
        ({"attention__layer_norm_rms_epsilon": 0.0}, "finite number above zero"),
        ({"rope__scaling__type": 3}, "should be a string"),
        ({"vocab_size": 17}, "300 rows"),
        ({"attention__key_length": 15, "attention__value_length": 15, "rope__dimension_count": 15}, "even width"),
    ],
    ids=str,
)
def test_bad_values(changes: dict[str, Any], words: str) -> None:
    check_refusal(BadFile, changes, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expert_count": 8}, "llama.expert_count is 8"),
        ({"attention__sliding_window": 4096}, "sliding_window is 4096"),
        ({"attention__causal": False}, "causal is False"),
        ({"rope__dimension_count": 8}, "rope.dimension_count is 8 but heads are 16 wide"),
        ({"attention__value_length": 32}, "value_length is 32"),
        ({"rope__scaling__type": "yarn"}, "rope scaling 'yarn'"),
        ({"attention__scale": 0.5}, "unknown metadata llama.attention.scale"),
        ({"new__thing": [1, 2]}, "unknown metadata llama.new.thing"),
    ],
    ids=str,
)
def test_features_the_decoder_lacks(changes: dict[str, Any], words: str) -> None:
    check_refusal(Unsupported, changes, words)


def check_refusal(kind: type[SmidgenError], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(kind) as caught:
        read(LLAMA, LLAMA_KEYS, **changes)
    message = str(caught.value)
    assert words in message and "\n" not in message and len(message) < 250


def test_neutral_and_ignored_keys_pass() -> None:
    read(LLAMA, LLAMA_KEYS, expert_count=0, attention__causal=True, tensor_data_layout="Meta AI original pth")


def test_llama3_rotary_factors_are_named() -> None:
    metadata = {f"llama.{key}": value for key, value in LLAMA_KEYS.items()}
    with pytest.raises(Unsupported, match="rope_freqs.weight"):
        LLAMA.config_from_gguf(metadata, UNTIED | {"rope_freqs.weight": (8,)})


def test_tokenizer_and_embedding_must_agree() -> None:
    metadata = {f"llama.{key}": value for key, value in LLAMA_KEYS.items()}
    with pytest.raises(BadFile, match="300 rows but the tokenizer lists 2 tokens"):
        LLAMA.config_from_gguf(metadata | {"tokenizer.ggml.tokens": ["a", "b"]}, UNTIED)
    with pytest.raises(BadFile, match="no matrix token_embd.weight"):
        LLAMA.config_from_gguf(metadata, {})


def test_unknown_architecture() -> None:
    assert family_of_gguf("gemma3") is GEMMA3
    with pytest.raises(Unsupported, match="'mamba' is not supported; smidgen knows gemma3, llama"):
        family_of_gguf("mamba")


@pytest.mark.parametrize("config", [GEMMA3_CONFIG, LLAMA_CONFIG], ids=lambda config: config.family)
def test_names_there_and_back(config: ModelConfig) -> None:
    family = FAMILIES[config.family]
    names = list(parameter_shapes(config))
    there = [family.gguf_name(name) for name in names]
    assert len(set(there)) == len(names)
    assert [family.canonical_name(name) for name in there] == names
    for unknown in ("rope_freqs.weight", "blk.0.attn_q.bias", "blk.0", "blk"):
        with pytest.raises(KeyError):
            family.canonical_name(unknown)


@pytest.mark.parametrize("config", [GEMMA3_CONFIG, LLAMA_CONFIG], ids=lambda config: config.family)
def test_rows_there_and_back(config: ModelConfig) -> None:
    """For weights (torch) and for packed bytes (numpy)."""
    family = FAMILIES[config.family]
    for name, shape in parameter_shapes(config).items():
        transform = family.transform(name, config)
        weight = torch.randn(shape)
        assert torch.equal(transform.to_model(transform.to_file(weight)), weight)
        packed = np.random.default_rng(0).integers(0, 256, (shape[0], 18), dtype=np.uint8)
        assert np.array_equal(transform.to_file(transform.to_model(packed)), packed)


def test_llama_rows_stand_as_the_converter_puts_them() -> None:
    """convert_hf_to_gguf's permutation: view each head as (2, half), swap, flatten."""
    weight = np.random.default_rng(0).normal(size=(64, 3))
    converted = weight.reshape(4, 2, 8, 3).swapaxes(1, 2).reshape(64, 3)
    transform = LLAMA.transform("blocks.1.attention.query.weight", LLAMA_CONFIG)
    assert np.array_equal(transform.to_model(converted), weight)
    assert np.array_equal(transform.to_file(weight), converted)
    assert LLAMA.transform("blocks.1.attention.value.weight", LLAMA_CONFIG) == Transform()
