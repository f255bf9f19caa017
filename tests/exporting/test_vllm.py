"""vLLM's folders: every code and scale by hand, by the library that defines the format, and run by transformers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smidgen.errors import SmidgenError, Unsupported
from smidgen.exporting.export import export
from smidgen.numerics import block_types as types
from tests.cutting.commands import run
from tests.exporting.longhand import bits_of, quantization, vllm_weights, weights_of_the_folder
from tests.exporting.quantized_models import differ, our_logits, python_with, their_logits, write_quantized
from tests.family_models import save_folder
from tests.gguf_forms import of_types, plain
from tests.tiny_models import write_llama

#: Phi-3's folder stacks what is joined anyway; Gemma and Qwen tie their heads.
FAMILIES = ["gemma", "gemma2", "gemma3", "llama2", "llama3", "smollm2", "mistral", "qwen2", "qwen3", "phi3"]
_READER = "0.20"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {family: write_quantized(family, folder) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_are_those_of_the_file(family: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Every number; all layers are packed, and the embedding and the head are not."""
    export(models[family], "vllm", tmp_path / "out", "float32")
    found, wanted = vllm_weights(tmp_path / "out"), weights_of_the_folder(models[family])
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    layers = {name.removesuffix(".weight") for name in wanted if ".layers." in name and wanted[name].ndim == 2}
    assert bits_of(tmp_path / "out").keys() == layers
    assert set(bits_of(tmp_path / "out").values()) == {4, 8}
    assert quantization(tmp_path / "out")["ignore"] == ["lm_head"]


def test_float16_holds_every_scale(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """And the embedding's cost is said."""
    export(models["gemma3"], "vllm", tmp_path / "out")
    found, wanted = vllm_weights(tmp_path / "out"), weights_of_the_folder(models["gemma3"])
    assert all(torch.equal(found[f"{layer}.weight"], wanted[f"{layer}.weight"]) for layer in bits_of(tmp_path / "out"))
    said = capsys.readouterr().err
    assert "The embedding, which is the head too, takes 16 bits" in said and "41 kB instead of 21.8 kB" in said


def test_gemma_is_not_computed_in_float16(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The real Gemma 3 gives no numbers there; the scales are float16 all the same."""
    for family, dtype in (("gemma2", "bfloat16"), ("gemma3", "bfloat16"), ("llama3", "float16")):
        export(models[family], "vllm", tmp_path / family)
        said = json.loads((tmp_path / family / "config.json").read_text())
        assert said["torch_dtype"] == dtype
        assert ("asks for bfloat16" in capsys.readouterr().err) == (dtype == "bfloat16")
        scale = "model.layers.0.mlp.up_proj.weight_scale"
        assert load_file(tmp_path / family / "model.safetensors")[scale].dtype == torch.float16
    export(models["gemma3"], "vllm", tmp_path / "wide", "float32")
    assert json.loads((tmp_path / "wide/config.json").read_text())["torch_dtype"] == "float32"


def test_the_library_reads_them(models: dict[str, Path], tmp_path: Path) -> None:
    """compressed-tensors unpacks each layer to the same weights, and its own packing gives the same words."""
    library = pytest.importorskip("compressed_tensors", minversion=_READER)
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationConfig

    assert library
    export(models["llama3"], "vllm", tmp_path / "out", "float32")
    tensors, wanted = load_file(tmp_path / "out/model.safetensors"), weights_of_the_folder(models["llama3"])
    config = QuantizationConfig.model_validate(quantization(tmp_path / "out"))
    for scheme in config.config_groups.values():
        assert not isinstance(scheme, list)
        for layer in scheme.targets:
            state = {name.removeprefix(f"{layer}."): one for name, one in tensors.items() if name.startswith(layer)}
            dense = PackedQuantizationCompressor.decompress(state, scheme)
            assert torch.equal(dense["weight"], wanted[f"{layer}.weight"])
            again = PackedQuantizationCompressor.compress(dense, scheme)
            assert torch.equal(again["weight_packed"], state["weight_packed"])


def test_neighbours_are_alike(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """vLLM joins queries, keys and values: where one has 8 bits all have, where one is not packed none is."""
    kinds = {"attn_v.weight": types.Q8_0, "ffn_down.weight": types.Q5_0, "ffn_gate.weight": types.Q4_1}
    model = write_quantized("llama3", tmp_path, kinds)
    export(model, "vllm", tmp_path / "out", "float32")
    bits = bits_of(tmp_path / "out")
    for layer in (f"model.layers.{index}" for index in range(4)):
        assert [bits[f"{layer}.self_attn.{part}_proj"] for part in "qkvo"] == [8, 8, 8, 8]
        assert bits[f"{layer}.mlp.down_proj"] == 8
        assert {f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"} <= set(quantization(tmp_path / "out")["ignore"])
    found, wanted = vllm_weights(tmp_path / "out"), weights_of_the_folder(model)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    said = capsys.readouterr().err
    assert "12 matrices (8 Q4_0, 4 Q5_0) in more bits than they need, the same numbers: vLLM" in said
    assert "8 matrices (4 Q4_1, 4 Q8_0) in 16 bits: 98.3 kB instead of 41.5 kB. vLLM holds Q4_0, Q5_0, Q8_0" in said


def test_other_types_get_16_bits(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(of_types(plain(), {"attn_q.weight": types.Q6_K, "ffn_down.weight": types.Q4_0}).as_bytes())
    export(model, "vllm", tmp_path / "out")
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert tensors["model.layers.0.self_attn.q_proj.weight"].dtype == torch.float16
    assert bits_of(tmp_path / "out") == {f"model.layers.{index}.mlp.down_proj": 4 for index in range(2)}
    wide = quantization(tmp_path / "out")["ignore"]
    assert "lm_head" in wide and "model.layers.1.mlp.up_proj" in wide and not any("norm" in one for one in wide)


def test_nothing_to_pack(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no layer that vLLM could hold packed.*--types portable.*--to hf") as caught:
        export(write_llama(tmp_path / "model.gguf"), "vllm", tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("family", "message"), [("mixtral", "mixtures of experts"), ("openelm", "no class for")])
def test_what_vllm_does_not_run(family: str, message: str, tmp_path: Path) -> None:
    (tmp_path / family).mkdir()
    save_folder(family, tmp_path / family)
    with pytest.raises(Unsupported, match=message):
        export(tmp_path / family, "vllm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bfloat16_would_change_the_weights(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="bfloat16 holds 8"):
        export(models["llama3"], "vllm", tmp_path / "out", "bfloat16")
    assert not (tmp_path / "out").exists()


def test_the_command_says_where_to_run_it(models: dict[str, Path], tmp_path: Path) -> None:
    done = run(["export", models["qwen3"], "--to", "vllm", "-o", tmp_path / "out", "-q"])
    assert done.code == 0, done.err
    assert f"Run it: vllm serve {tmp_path}/out" in done.out
    refused = run(["export", tmp_path / "out", "--to", "gguf", "-o", tmp_path / "again.gguf"])
    assert refused.code == 2 and "the weights are already quantized (compressed-tensors)" in refused.err


def test_transformers_predicts_the_same(models: dict[str, Path], tmp_path: Path) -> None:
    """In float32 but for rounding, in 16 bits within their arithmetic; windows are shorter than the text, caps bite."""
    python = python_with("compressed_tensors", "SMIDGEN_TRANSFORMERS_PYTHON", _READER)
    ours = {name: our_logits(path) for name, path in models.items()}
    for dtype, bound in (("float32", 1e-6), ("float16", 1e-2)):
        folders = {name: export(path, "vllm", tmp_path / f"{name}-{dtype}", dtype) for name, path in models.items()}
        theirs = their_logits(python, "run_transformers.py", list(folders.values()))
        for name, logits in zip(folders, theirs, strict=True):
            assert differ(ours[name], logits) < bound, (name, dtype)
