"""Folders from strangers: what is sound is read, all else ends in one line of the right kind, and little memory."""

import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.hf.checkpoint import _name_for_llama_cpp
from smidgen.formats.opening import open_checkpoint
from smidgen.model.families import Layout
from smidgen.numerics.block_types import BY_NAME
from tests.family_models import FAMILY_MODELS, save_folder
from tests.family_settings import read_settings, settings_of

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's folder as transformers writes it; made once, never changed."""
    folders: dict[str, Path] = {}

    def get(label: str) -> Path:
        if label not in folders:
            folders[label] = tmp_path_factory.mktemp(label)
            save_folder(label, folders[label])
        return folders[label]

    return get


@pytest.fixture
def folder(made: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a family's folder with changed settings (by key; `...` takes one away) and tensors."""

    def write(
        label: str = "llama3", config: dict[str, Any] | None = None, change: Callable[[dict[str, Tensor]], Any] = id
    ) -> Path:
        source, copy = made(label), tmp_path / "model"
        copy.mkdir(exist_ok=True)
        for file in source.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        values = json.loads((source / "config.json").read_text()) | (config or {})
        (copy / "config.json").write_text(json.dumps({key: one for key, one in values.items() if one is not ...}))
        if change is not id:
            tensors = load_file(source / WEIGHTS)
            change(tensors)
            save_file(tensors, copy / WEIGHTS)
        return copy

    return write


def refused(folder: Path) -> SmidgenError:
    """The error of opening a folder: one short line that begins with the folder, little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(SmidgenError) as caught:
            open_checkpoint(folder)
        assert tracemalloc.get_traced_memory()[1] < 30 * 2**20
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{folder}") and "\n" not in message and len(message) < len(str(folder)) + 300
    return caught.value


# -- config.json -------------------------------------------------------------------------------------------------------

ABSURD = (10**9, 10**30, 0, -1, 1.5, "64", True, math.nan, math.inf, [], [1, 2], {}, "x" * 10_000, ["x"] * 10_000)
SIZES = (
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "vocab_size",
)  # fmt: skip


@pytest.mark.parametrize("value", ABSURD, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("key", SIZES)
def test_absurd_sizes(key: str, value: Any, folder: Callable[..., Path]) -> None:
    error = refused(folder(config={key: value}))
    assert isinstance(error, BadFile)
    said = (key, "model.embed_tokens.weight is 320×64 but its metadata says", "is not a number of JSON")
    assert any(words in str(error) for words in said)


@pytest.mark.parametrize("key", [key for key in SIZES if key not in ("head_dim", "num_key_value_heads")])
def test_null_and_missing_sizes(key: str, folder: Callable[..., Path]) -> None:
    for value in (None, ...):
        error = refused(folder(config={key: value}))
        assert isinstance(error, BadFile) and f"config.json: {key} is missing" in str(error)


ROPE = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        ({"num_key_value_heads": 3}, BadFile, "4 heads do not divide into 3 key/value heads"),
        ({"num_key_value_heads": [2, 2]}, BadFile, "one value for each of the 4 layers"),
        ({"num_attention_heads": [4, 4, 4, None]}, BadFile, "should be an integer"),
        ({"head_dim": 15}, BadFile, "15 of 15 features of a head turn"),
        ({"rms_norm_eps": 0}, BadFile, "rms_norm_eps should be a finite number above zero"),
        ({"rms_norm_eps": "1e-6"}, BadFile, "rms_norm_eps should be a number"),
        ({"tie_word_embeddings": "yes"}, BadFile, "tie_word_embeddings should be true or false"),
        ({"hidden_act": "relu"}, Unsupported, "hidden_act is 'relu'; smidgen's llama does silu"),
        ({"hidden_act": "x" * 10_000}, Unsupported, "hidden_act is 'xxx"),
        ({"mlp_bias": True}, Unsupported, "mlp_bias is True"),
        ({"sliding_window": 7}, Unsupported, "sliding_window is 7; a llama model has none"),
        ({"partial_rotary_factor": 0.5}, Unsupported, "partial_rotary_factor is 0.5"),
        ({"layer_types": ["full_attention"]}, BadFile, "one name for each of the 4 layers"),
        ({"new_idea": 1}, Unsupported, "unknown config.json: new_idea"),
        ({"quantization_config": {"quant_method": "gptq"}}, Unsupported, "already quantized (gptq)"),
        ({"quantization_config": "?"}, Unsupported, "already quantized (unknown)"),
        ({"rope_parameters": 5}, BadFile, "rope_parameters should be a table of settings"),
        ({"rope_parameters": {**ROPE, "factor": 0}}, BadFile, "rope_parameters.factor should be"),
        ({"rope_parameters": {**ROPE, "factor": math.nan}}, BadFile, "NaN is not a number of JSON"),
        ({"rope_parameters": {**ROPE, "factor": 1e307}}, BadFile, "rope_parameters.factor should be"),
        ({"rope_parameters": {**ROPE, "rope_theta": 1}}, BadFile, "base of the rotary frequencies"),
        ({"rope_parameters": {**ROPE, "high_freq_factor": 1.0}}, BadFile, "a number below high_freq_factor"),
        ({"rope_parameters": {**ROPE, "low_freq_factor": ...}}, BadFile, "low_freq_factor is missing"),
        ({"rope_parameters": {**ROPE, "surprise": 1}}, Unsupported, "unknown config.json: rope_parameters.surprise"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, Unsupported, "rope_type is 'dynamic'"),
        ({"rope_parameters": {"rope_type": ["linear"]}}, BadFile, "rope_type should be a string"),
        ({"rope_parameters": LONG | {"long_factor": [2.0] * 7}}, BadFile, "long_factor should be 8 numbers"),
        ({"rope_parameters": LONG | {"long_factor": [0] + [2.0] * 7}}, BadFile, "long_factor should be"),
        ({"rope_parameters": LONG | {"short_factor": 3}}, BadFile, "short_factor should be 8 numbers"),
        ({"rope_parameters": LONG | {"original_max_position_embeddings": 1}}, BadFile, "more than one position"),
        (
            {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
            Unsupported,
            "not scaled",
        ),
        ({"rope_parameters": {"full_attention": ROPE, "more": 1}}, Unsupported, "rope_parameters.more"),
        ({"model_type": ...}, BadFile, "model_type is missing"),
        ({"model_type": 5}, BadFile, "model_type is missing"),
        ({"model_type": "mamba"}, Unsupported, "'mamba' is not supported; smidgen knows gemma,"),
        ({"model_type": "qwen3_next"}, Unsupported, "the decoder has no linear attention yet"),
        ({"model_type": "llama4_text"}, Unsupported, "the decoder has no chunked attention"),
        ({"model_type": "x" * 10_000}, Unsupported, "is not supported"),
        ({"model_type": "llama\nERROR"}, Unsupported, "'llama\\nERROR' is not supported"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_settings_that_are_refused(config: dict[str, Any], kind: type, words: str, folder: Callable[..., Path]) -> None:
    for key, value in config.items():
        if isinstance(value, dict):
            config = config | {key: {name: one for name, one in value.items() if one is not ...}}
    error = refused(folder(config=config))
    assert type(error) is kind and words in str(error), error


@pytest.mark.parametrize(
    ("label", "config", "words"),
    [
        ("mixtral", {"num_experts_per_tok": 5}, "5 of 4 experts should be used"),
        ("mixtral", {"num_local_experts": 0}, "num_local_experts should be an integer from 1 to 1024"),
        ("mixtral", {"num_local_experts": 1024, "num_hidden_layers": 512}, "1024 experts in each of 512 layers"),
        ("phi4", {"partial_rotary_factor": 1e9, "rope_parameters": None}, "no share of a head"),
        ("phi4", {"partial_rotary_factor": 1e-9, "rope_parameters": None}, "no share of a head"),
        ("phi4", {"partial_rotary_factor": 0.7, "rope_parameters": None}, "11 of 16 features of a head turn"),
        ("smollm3", {"no_rope_layers": [1, 1, 1]}, "one flag for each of the 4 layers"),
        ("smollm3", {"no_rope_layers": [[1], [1, 0], 1, 0]}, "one flag for each of the 4 layers"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 9]}, "one flag for each of the 4 layers"),
        ("openelm", {"ffn_multipliers": [0.5, 1.0]}, "ffn_multipliers should be 3 numbers"),
        ("openelm", {"ffn_multipliers": [0.5, 1.0, 1e300]}, "multipliers that lead to widths up to a million"),
        ("openelm", {"num_query_heads": [2, 4, 5]}, "5 heads do not divide into 2"),
        ("openelm", {"num_kv_heads": [1, 2]}, "one value for each of the 3 layers"),
        ("openelm", {"ffn_dim_divisor": 0}, "ffn_dim_divisor should be an integer"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar should be"),
        ("gemma2", {"final_logit_softcapping": -1}, "final_logit_softcapping should be"),
        ("gemma3", {"sliding_window": -4}, "sliding_window should be an integer"),
    ],
)
def test_settings_of_one_family(label: str, config: dict[str, Any], words: str, folder: Callable[..., Path]) -> None:
    error = refused(folder(label, config))
    assert type(error) is BadFile and words in str(error), error


_NUMBERS = st.sampled_from([0, -1, 1, 2, 3, 7, 512, 1024, 2**31 - 1, 10**9, 10**30, 0.5, 1.5, 1e-300, 5e-324, 1e300])
_WORDS = (
    "",
    "64",
    "silu",
    "linear",
    "llama3",
    "yarn",
    "longrope",
    "default",
    "sliding_attention",
    "factor",
    "x" * 5000,
)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.sampled_from([math.nan, math.inf]) | st.sampled_from(_WORDS),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=3),
    max_leaves=5,
)
_EXTRA = (
    "quantization_config", "rope_scaling", "rope_theta", "partial_rotary_factor", "sliding_window", "layer_types",
    "no_rope_layers", "head_dim", "sliding_window_pattern", "use_sliding_window", "max_window_layers", "attention_bias",
    "original_max_position_embeddings", "rope_local_base_freq", "model_type",
)  # fmt: skip


def spots(values: dict[str, Any], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of nested settings, as a path."""
    found = []
    for key, value in values.items():
        found.append((*before, key))
        if isinstance(value, dict):
            found += spots(value, (*before, key))
    return found


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(label=st.sampled_from(list(FAMILY_MODELS)), data=st.data())
def test_no_settings_end_in_anything_but_our_errors(label: str, data: st.DataObject) -> None:
    """And what is read can be laid out, and written to both kinds of files or refused."""
    values = settings_of(label)
    places = [place for place in spots(values)] + [(key,) for key in _EXTRA]
    for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        inner = values
        for key in place[:-1]:
            inner = inner[key] if isinstance(inner.get(key), dict) else {}
        inner[place[-1]] = data.draw(_VALUES)
    try:
        family, config = read_settings(values)
    except SmidgenError as error:
        return check_line(error)
    for step in (
        lambda: family.to_gguf(config),
        lambda: family.to_hf(config),
        lambda: Layout(config, family.hf_map(config).names),
    ):
        try:
            step()
        except SmidgenError as error:
            check_line(error)


def check_line(error: SmidgenError) -> None:
    assert "\n" not in str(error) and len(str(error)) < 600


# -- tensors -----------------------------------------------------------------------------------------------------------

Q, UP = "model.layers.0.self_attn.q_proj.weight", "model.layers.3.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda found: found.pop(UP), BadFile, f"tensor {UP} is missing"),
        (lambda found: [found.pop(name) for name in list(found) if ".1." in name], BadFile, "… are missing"),
        (lambda found: found.update({Q: torch.zeros(63, 64)}), BadFile, f"{Q} is 63×64 but its metadata says 64×64"),
        (lambda found: found.update({Q: torch.zeros(64, 64, 1)}), BadFile, "64×64×1"),
        (lambda found: found.update({"model.norm.weight": torch.zeros(1, 64)}), BadFile, "1×64"),
        (lambda found: found.update({"model.norm.bias": torch.zeros(64)}), Unsupported, "model.norm.bias is not used"),
        (lambda found: found.update({Q: torch.zeros(64, 64, dtype=torch.int8)}), Unsupported, "I8"),
    ],
)  # fmt: skip
def test_tensors_that_are_refused(
    change: Callable[[dict[str, Tensor]], Any], kind: type, words: str, folder: Callable[..., Path]
) -> None:
    error = refused(folder(change=change))
    assert type(error) is kind and words in str(error), error


def assert_reads_as(folder: Path, original: Path) -> None:
    with open_checkpoint(folder) as one, open_checkpoint(original) as other:
        assert one.config == other.config and one.names() == other.names()
        for name in one.names():
            assert torch.equal(one.tensor(name), other.tensor(name))


def test_what_follows_from_the_rest_is_left_aside(folder: Callable[..., Path], made: Callable[[str], Path]) -> None:
    """Rotary frequencies of old files, and the head of a model whose head is the embedding."""

    def add(found: dict[str, Tensor]) -> None:
        found["lm_head.weight"] = found["model.embed_tokens.weight"].clone()
        found["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(12)

    assert_reads_as(folder("gemma3", change=add), made("gemma3"))


@pytest.mark.parametrize(
    ("prefix", "vision"),
    [("language_model.model.", "vision_tower.x"), ("model.language_model.", "model.vision_tower.x")],
    ids=["old", "new"],
)
def test_language_model_inside_another(
    prefix: str, vision: str, folder: Callable[..., Path], made: Callable[[str], Path]
) -> None:
    def move(found: dict[str, Tensor]) -> None:
        for name in list(found):
            found[prefix + name.removeprefix("model.")] = found.pop(name)
        found |= {vision: torch.zeros(3), "multi_modal_projector.y": torch.zeros(2, 2)}

    inner = json.loads((made("gemma3") / "config.json").read_text())
    outer = dict.fromkeys(inner, ...) | {"model_type": "gemma3", "text_config": inner, "vision_config": {"a": 1}}
    assert_reads_as(folder("gemma3", outer, move), made("gemma3"))

    def twice(found: dict[str, Tensor]) -> None:
        move(found)
        other = {"language_model.model.": "model.language_model."}.get(prefix, "language_model.model.")
        found[f"{other}norm.weight"] = torch.ones(64)

    error = refused(folder("gemma3", outer, twice))
    assert type(error) is BadFile and "are the same tensor" in str(error)
    error = refused(folder("gemma3", outer | {"text_config": inner | {"model_type": "llama4_text"}}, move))
    assert type(error) is Unsupported and "'llama4_text' is not supported" in str(error)


def test_weights_that_are_no_numbers(folder: Callable[..., Path]) -> None:
    def spoil(found: dict[str, Tensor]) -> None:
        found[UP][5, 3] = math.nan

    with open_checkpoint(folder(change=spoil)) as checkpoint:
        assert checkpoint.tensor("blocks.0.feed_forward.up.weight").isfinite().all()
        with pytest.raises(BadFile, match=r"model\.layers\.3\.mlp\.up_proj\.weight holds values that are not finite"):
            checkpoint.tensor("blocks.3.feed_forward.up.weight")


@pytest.mark.parametrize(("dtype", "kind"), [(torch.float16, "F16"), (torch.bfloat16, "BF16")], ids=["F16", "BF16"])
def test_weights_of_16_bits(dtype: torch.dtype, kind: str, folder: Callable[..., Path]) -> None:
    """Exact in every row, whichever way they are asked for; as GGUF they stay, and vectors become float32."""
    kept: dict[str, Tensor] = {}

    def narrow(found: dict[str, Tensor]) -> None:
        kept.update({name: weight.to(dtype) for name, weight in found.items()})
        found.update(kept)

    with open_checkpoint(folder("phi3", change=narrow)) as checkpoint:
        stacked = kept["model.layers.1.self_attn.qkv_proj.weight"].float()
        assert checkpoint.kind("blocks.1.attention.key.weight") is BY_NAME[kind]
        assert torch.equal(checkpoint.tensor("blocks.1.attention.key.weight"), stacked[64:128])
        assert torch.equal(checkpoint.rows("blocks.1.attention.value.weight", 3, 9), stacked[131:137])
        ids = torch.tensor([[5, 1], [5, 0]])
        assert torch.equal(checkpoint.gather("blocks.1.attention.value.weight", ids), stacked[128 + ids])
        tensors = checkpoint.file.tensors
        assert tensors["blk.1.attn_qkv.weight"].kind is BY_NAME[kind]
        assert tensors["blk.1.attn_norm.weight"].kind is BY_NAME["F32"]
        norm = checkpoint.file.packed("blk.1.attn_norm.weight").view(np.float32)[0]
        assert np.array_equal(norm, kept["model.layers.1.input_layernorm.weight"].float().numpy())


def test_stacked_parts_of_different_types(folder: Callable[..., Path]) -> None:
    """GGUF keeps experts in one tensor, which has one type."""

    def mix(found: dict[str, Tensor]) -> None:
        name = next(name for name in found if name.endswith("experts.2.w1.weight"))
        found[name] = found[name].half()

    with open_checkpoint(folder("mixtral", change=mix)) as checkpoint:
        with pytest.raises(Unsupported, match=r"the parts of blk\.\d\.ffn_gate_exps\.weight are stored as \['F16', 'F"):
            _ = checkpoint.file.tensors


@pytest.mark.parametrize(
    ("folder", "stripping", "name"),
    [
        ("tiny", [], "tiny"),
        ("phi3-mine", [], "phi 3-mine"),
        ("My-Phi-3.5", [], "My-Phi 3.5"),
        ("Modern-BERT-x", [], "Modern BERT-x"),
        ("phi4-mini", [], "phi4-mini"),
        ("Phi-3-mini", ["</s>", "<unk>", "a", "<s>", "<|endoftext|>"], "Phi-3-mini"),
        ("mine", ["</s>", "<unk>", "a", "<s>", "<|endoftext|>"], "mine (Phi-3)"),
        ("mine", ["<unk>", "a", "<s>", "<|endoftext|>"], "mine"),
        ("Phi-3-mini", ["<unk>", "<s>", "</s>"], "Phi 3-mini"),
    ],
)
def test_a_folders_name_is_no_statement_about_its_tokenizer(folder: str, stripping: list[str], name: str) -> None:
    """llama.cpp takes a model called phi3 for one whose special tokens swallow white space, or fails."""
    assert _name_for_llama_cpp(folder, stripping) == name
