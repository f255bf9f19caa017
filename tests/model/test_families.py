"""Family maps: configurations there and back in both kinds of files, names and rows, refusals with the field's name."""

import math
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.hf.contents import text_part
from smidgen.model.config import ModelConfig, Rotary
from smidgen.model.families import FAMILIES, Family, Layout, Tensors, Transform, family_of_config, family_of_gguf
from smidgen.model.families.gemma import GEMMA3
from smidgen.model.families.llama import LLAMA
from smidgen.model.parameters import parameter_shapes
from smidgen.model.rope_scaling import GivenDivisors, LinearScaling, Llama3Scaling, YarnScaling
from tests.family_models import FAMILY_MODELS
from tests.family_settings import REAL_MODELS, RealModel, read_settings, settings_of
from tests.tiny_models import GEMMA3_CONFIG, GEMMA3_KEYS, LLAMA_CONFIG, LLAMA_KEYS, VOCABULARY

TIED = {"token_embd.weight": (VOCABULARY, 64)}
UNTIED = TIED | {"output.weight": (VOCABULARY, 64)}
LABELS = pytest.mark.parametrize("label", FAMILY_MODELS)


def tensors(shapes: dict[str, tuple[int, ...]], **vectors: tuple[float, ...]) -> Tensors:
    """`vectors`: values of rotary factors, by the middle of their names."""
    named = {f"{name}.weight": values for name, values in vectors.items()}
    return Tensors(shapes | {name: (len(values),) for name, values in named.items()}, lambda name: named[name])


def read(family: Family, keys: dict[str, Any], files: Tensors | None = None, **changes: Any) -> ModelConfig:
    """`changes` name keys with "__" for "."; None takes a key away."""
    keys = keys | {name.replace("__", "."): value for name, value in changes.items()}
    metadata = {f"{family.gguf.architecture}.{key}": value for key, value in keys.items() if value is not None}
    return family.config_from_gguf(metadata, files or tensors(TIED if family is GEMMA3 else UNTIED))


def assert_alike(one: Any, other: Any) -> None:
    """Equal up to the rounding of numbers to float32; rotary scaling by what it does."""
    if isinstance(one, Rotary) and one.scaling:
        assert scales(one) == pytest.approx(scales(other), rel=1e-5)
        assert_alike(replace(one, scaling=None), replace(other, scaling=None))
    elif is_dataclass(one):
        assert type(one) is type(other)
        for field in fields(one):
            assert_alike(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for ours, theirs in zip(one, other, strict=True):
            assert_alike(ours, theirs)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-5)
    else:
        assert one == other


def scales(rotary: Rotary) -> list[float]:
    """What a scaling does: to the pairs of short and of long texts, and to all of them."""
    assert rotary.scaling
    both = [rotary.scaling.divisors(rotary.base, rotary.width, length) for length in (1, 2**31)]
    return [*both[0], *both[1], rotary.scaling.magnitude]


def through_gguf(family: Family, config: ModelConfig) -> ModelConfig:
    metadata, vectors = family.to_gguf(config)
    shapes = dict(family.gguf_layout(config).shapes) | {name: vector.shape for name, vector in vectors.items()}
    stored = {key: float(np.float32(value)) if isinstance(value, float) else value for key, value in metadata.items()}
    return family.config_from_gguf(stored, Tensors(shapes, lambda name: tuple(vectors[name].tolist())))


# -- there and back ----------------------------------------------------------------------------------------------------


@LABELS
def test_gguf_there_and_back(label: str) -> None:
    family, config = read_settings(settings_of(label))
    assert_alike(through_gguf(family, config), config)


@LABELS
def test_hugging_face_there_and_back(label: str) -> None:
    family, config = read_settings(settings_of(label))
    again_family, again = read_settings(family.to_hf(config))
    assert again_family is family
    assert_alike(again, config)


@pytest.mark.parametrize("real", REAL_MODELS.values(), ids=REAL_MODELS)
def test_real_models(real: RealModel) -> None:
    """As published: read, as many weights as are known, and there and back in both kinds of files."""
    settings, _ = text_part(real.settings, [])
    family, config = read_settings(dict(settings))
    assert sum(map(math.prod, parameter_shapes(config).values())) == real.parameters
    assert config.context_length == real.context
    period = len(real.windows)
    assert [layer.window for layer in config.layers] == [real.windows[i % period] for i in range(len(config.layers))]
    assert_alike(through_gguf(family, config), config)
    assert_alike(read_settings(family.to_hf(config))[1], config)


def test_llama3_scaling_is_recognised_in_gguf() -> None:
    for name, factor in (("Llama 3.1 8B", 8.0), ("Llama 3.2 1B", 32.0)):
        family, config = read_settings(REAL_MODELS[name].settings)
        rotary = through_gguf(family, config).layers[0].rotary
        assert rotary is not None and rotary.scaling == Llama3Scaling(factor, 1.0, 4.0, 8192)


# -- GGUF metadata -----------------------------------------------------------------------------------------------------


def test_gemma3() -> None:
    assert_alike(read(GEMMA3, GEMMA3_KEYS), GEMMA3_CONFIG)


def test_llama() -> None:
    assert_alike(read(LLAMA, LLAMA_KEYS), LLAMA_CONFIG)


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
    for wrong in (np.array([True, False]), np.array([2, 0, 0, 0, 0]), [[1], [0, 1], 1, 1, 1]):
        with pytest.raises(BadFile, match="one flag for each of the 5 layers"):
            windows(**{pattern: wrong})


def test_gemma3_rotary_scaling_is_for_global_layers_only() -> None:
    layers = read(GEMMA3, GEMMA3_KEYS, rope__freq_base_swa=5e3).layers
    assert [layer.rotary for layer in layers[1:3]] == [Rotary(5e3, 16), Rotary(1e6, 16, LinearScaling(8.0))]


def test_gemma3_27b_scales_by_the_residual_width() -> None:
    large: dict[str, Any] = {
        "block_count": 62,
        "embedding_length": 5376,
        "attention__head_count": 32,
        "attention__head_count_kv": 16,
    }
    config = read(GEMMA3, GEMMA3_KEYS, **large, attention__key_length=128, attention__value_length=128)
    assert config.layers[0].attention_scale == pytest.approx(168**-0.5)


def test_layers_may_differ() -> None:
    config = read(LLAMA, LLAMA_KEYS, feed_forward_length=np.array([8, 16, 24]), attention__head_count_kv=[4, 2, 1])
    assert [(layer.ffn_width, layer.kv_heads) for layer in config.layers] == [(8, 4), (16, 2), (24, 1)]


def test_optional_keys_of_llama() -> None:
    plain = read(LLAMA, LLAMA_KEYS, rope__scaling__type=None, rope__scaling__factor=None, rope__freq_base=None,
                 attention__head_count_kv=None, vocab_size=None)  # fmt: skip
    assert (plain.layers[0].rotary, plain.layers[0].kv_heads) == (Rotary(1e4, 16), 4)
    assert read(LLAMA, LLAMA_KEYS, rope__scaling__type="none").layers[0].rotary == Rotary(5e3, 16)
    yarn = read(LLAMA, LLAMA_KEYS, rope__scaling__type="yarn", rope__scaling__original_context_length=512)
    assert yarn.layers[0].rotary == Rotary(5e3, 16, YarnScaling(4.0, 512))


def test_rotary_factors_in_tensors() -> None:
    divisors = tuple(float(pair + 1) for pair in range(8))
    plain = LLAMA_KEYS | {"rope.scaling.type": None, "rope.scaling.factor": None}
    config = read(LLAMA, plain, tensors(UNTIED, rope_freqs=divisors))
    assert config.layers[0].rotary == Rotary(5e3, 16, GivenDivisors(divisors))
    for wrong in (divisors[1:], (0.0, *divisors[1:]), (math.nan, *divisors[1:]), (-1.0, *divisors[1:])):
        with pytest.raises(BadFile, match=r"rope_freqs\.weight should hold 8 finite numbers above zero"):
            read(LLAMA, plain, tensors(UNTIED, rope_freqs=wrong))
    with pytest.raises(BadFile, match=r"rope_factors_long\.weight is missing"):
        read(LLAMA, plain, tensors(UNTIED, rope_factors_short=divisors))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block_count": None}, "metadata llama.block_count is missing"),
        ({"embedding_length": None}, "metadata llama.embedding_length is missing"),
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
        ({"rope__freq_base": float("inf")}, "should be a number"),
        ({"rope__freq_base": -1.0}, "finite number above zero"),
        ({"rope__freq_base": 1.0}, "base of the rotary frequencies should be above 1"),
        ({"rope__freq_base": "big"}, "should be a number"),
        ({"attention__layer_norm_rms_epsilon": 0.0}, "finite number above zero"),
        ({"rope__scaling__type": 3}, "should be a string"),
        ({"vocab_size": 17}, "300 rows"),
        ({"attention__key_length": 15, "attention__value_length": 15, "rope__dimension_count": 15}, "even width"),
        ({"expert_count": 2, "expert_used_count": 3}, "3 of 2 experts should be used"),
        ({"expert_count": 2}, "0 of 2 experts should be used"),
        ({"expert_count": 1025}, "should be an integer from 0 to 1024"),
    ],
    ids=str,
)
def test_bad_values(changes: dict[str, Any], words: str) -> None:
    check_refusal(BadFile, changes, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention__causal": False}, "causal is False"),
        ({"rope__dimension_count": 8}, "rope.dimension_count is 8 but heads are 16 wide"),
        ({"attention__value_length": 32}, "value_length is 32"),
        ({"rope__scaling__type": "spiral"}, "rope scaling 'spiral'"),
        ({"rope__scaling__attn_factor": 2.0}, "rope.scaling.attn_factor is 2.0"),
        ({"attention__scale": 0.5}, "unknown metadata llama.attention.scale"),
        ({"expert_shared_count": 1}, "unknown metadata llama.expert_shared_count"),
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


def test_tokenizer_and_embedding_must_agree() -> None:
    metadata = {f"llama.{key}": value for key, value in LLAMA_KEYS.items()}
    with pytest.raises(BadFile, match="300 rows but the tokenizer lists 2 tokens"):
        LLAMA.config_from_gguf(metadata | {"tokenizer.ggml.tokens": ["a", "b"]}, tensors(UNTIED))
    with pytest.raises(BadFile, match=r"no matrix token_embd\.weight"):
        LLAMA.config_from_gguf(metadata, tensors({}))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mamba", ""),
        ("qwen2moe", ": the decoder has no shared experts yet"),
        ("qwen3next", ": the decoder has no linear attention yet"),
    ],
)
def test_unknown_architectures(name: str, reason: str) -> None:
    assert family_of_gguf("gemma3") is GEMMA3
    known = f"'{name}' is not supported{reason}; smidgen knows gemma, gemma2, gemma3, "
    for ask in (partial(family_of_gguf, name), partial(family_of_config, {"model_type": name})):
        with pytest.raises(Unsupported) as caught:
            ask()
        assert known.rstrip() in str(caught.value) or known.replace("gemma3,", "gemma3_text,") in str(caught.value)


# -- what a kind of file cannot say ------------------------------------------------------------------------------------


def config_of(label: str, *changed: int, model: dict[str, Any] | None = None, **changes: Any) -> ModelConfig:
    """A tiny model's configuration with changes in some layers (all, when none is given), and of the whole model."""
    config = read_settings(settings_of(label))[1]
    layers = tuple(
        replace(layer, **changes) if not changed or index in changed else layer
        for index, layer in enumerate(config.layers)
    )
    return replace(config, layers=layers, **(model or {}))


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (config_of("gemma2", attention_scale=0.3), "attention_scale"),
        (config_of("qwen2", rotary=Rotary(500.0, 16, YarnScaling(4.0, 4096, beta_fast=4.0))), "rotary"),
        (config_of("mistral", 1, window=None), "window"),
        (config_of("qwen2", window=5), "qwen2.attention.sliding_window is 5"),
        (config_of("gemma3", attention_cap=2.0), "gemma3.attn_logit_softcapping"),
        (config_of("llama3", model={"logit_cap": 3.0}), "llama.final_logit_softcapping"),
        (config_of("llama3", model={"embedding_scale": 8.0}), "embedding_scale"),
        (config_of("llama3", 1, head_dim=32), "head_dim"),
        (config_of("smollm3", rotary=Rotary(2e6, 16)), "rotary"),
        (config_of("qwen3", activation="gelu_tanh"), "activation"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.family,
)
def test_what_gguf_cannot_say(config: ModelConfig, field: str) -> None:
    refused(FAMILIES[config.family].to_gguf, config, field)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (config_of("llama3", 1, kv_heads=4), "kv_heads"),
        (config_of("llama3", 2, heads=8), "heads"),
        (config_of("gemma3", 3, ffn_width=32), "ffn_width"),
        (config_of("smollm2", output_bias=False), "qkv_bias"),
        (config_of("llama3", attention_scale=0.3), "attention_scale"),
        (config_of("gemma3", 1, rotary=None), "rotary"),
        (config_of("gemma2", 0, rotary=Rotary(5e3, 24)), "rotary"),
        (config_of("qwen3", attention_cap=2.0), "attention_cap"),
        (config_of("mixtral", 1, experts_used=1), "experts_used"),
        (config_of("openelm", attention_scale=0.3), "attention_scale"),
        (config_of("openelm", model={"norm_epsilon": 1e-5}), "norm_epsilon"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.family,
)
def test_what_config_json_cannot_say(config: ModelConfig, field: str) -> None:
    refused(FAMILIES[config.family].to_hf, config, field)


def test_no_model_type_has_it_all() -> None:
    with pytest.raises(Unsupported, match="no model type of qwen3 in transformers has all"):
        FAMILIES["qwen3"].to_hf(config_of("qwen3", experts=4, experts_used=2))


def refused(write: Any, config: ModelConfig, field: str) -> None:
    with pytest.raises(Unsupported) as caught:
        write(config)
    message = str(caught.value)
    assert field in message and "cannot say" in message and "\n" not in message and len(message) < 300


# -- names and rows ----------------------------------------------------------------------------------------------------


@LABELS
def test_every_parameter_has_a_place_and_every_row_of_a_tensor_one_parameter(label: str) -> None:
    family, config = read_settings(settings_of(label))
    shapes = parameter_shapes(config)
    for layout in (family.gguf_layout(config), Layout(config, family.hf_map(config).names)):
        assert set(layout.places) == set(shapes)
        for tensor, members in layout.members.items():
            starts = [layout.places[name].start for name in members]
            rows = [shapes[name][0] for name in members]
            assert starts == [sum(rows[:place]) for place in range(len(rows))]
            assert math.prod(layout.shapes[tensor]) == sum(math.prod(shapes[name]) for name in members)


@LABELS
def test_rows_there_and_back(label: str) -> None:
    """Row r of the file's array comes from model row r as `order` says, for weights and for packed bytes."""
    family, config = read_settings(settings_of(label))
    for name, shape in parameter_shapes(config).items():
        transform = family.gguf_transform(name, config)
        rows = np.arange(shape[0])
        stored = transform.rows_to_file(rows)
        assert sorted(stored) == list(rows)
        assert np.array_equal(stored if transform.order is None else stored[transform.order], rows)


def test_llama_rows_stand_as_the_converter_puts_them() -> None:
    """convert_hf_to_gguf's permutation: view each head as (2, half), swap, flatten."""
    weight = np.random.default_rng(0).normal(size=(64, 3))
    converted = weight.reshape(4, 2, 8, 3).swapaxes(1, 2).reshape(64, 3)
    transform = LLAMA.gguf_transform("blocks.1.attention.query.weight", LLAMA_CONFIG)
    assert np.array_equal(transform.rows_to_file(weight), converted)
    assert np.array_equal(converted[transform.order], weight)
    assert LLAMA.gguf_transform("blocks.1.attention.value.weight", LLAMA_CONFIG) == Transform()
