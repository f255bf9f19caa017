"""MLX's folders: every code, scale and bias by hand, what mlx-lm would misread is refused, and mlx-lm itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from smidgen.errors import SmidgenError, Unsupported
from smidgen.exporting.export import export
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from tests.cutting.commands import run
from tests.exporting.longhand import mlx_weights, weights_of_the_folder
from tests.exporting.quantized_models import differ, our_logits, python_with, their_logits, write_quantized
from tests.gguf_forms import of_types, plain
from tests.tiny_models import write_gemma3, write_llama

_GEMMA3 = {"layer_types": ["sliding_attention", "full_attention"] * 2}
_PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}
#: Family → what of its tiny model mlx-lm cannot express, otherwise.
EXPRESSIBLE: dict[str, dict[str, Any]] = {
    "gemma": {}, "gemma2": {"sliding_window": 256}, "gemma3": _GEMMA3, "llama2": {}, "llama3": {}, "smollm2": {},
    "smollm3": {}, "mistral": {"sliding_window": 256}, "mixtral": {}, "qwen2": {}, "qwen3": {},
    "phi3": {"sliding_window": None, "rope_parameters": _PLAIN_ROPE},
    "openelm": {},
}  # fmt: skip
#: mlx-lm's own deviations: the exact GELU; a token near the border between two experts.
_FLOAT32 = {"gemma": 1e-5}
_FLOAT16 = {"mixtral": 0.1}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {family: write_quantized(family, folder, changes=changes) for family, changes in EXPRESSIBLE.items()}


def settings(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("family", EXPRESSIBLE)
def test_the_weights_are_those_of_the_file(family: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Every number, whatever is stacked or in another order; matrices of both widths are packed."""
    export(models[family], "mlx", tmp_path / "out", "float32")
    found, wanted = mlx_weights(tmp_path / "out"), weights_of_the_folder(models[family])
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    packed = [name for name in load_file(tmp_path / "out/model.safetensors") if name.endswith(".scales")]
    assert len(packed) > 4 * 3


def test_float16_holds_every_scale(models: dict[str, Path], tmp_path: Path) -> None:
    export(models["llama3"], "mlx", tmp_path / "out")
    found, wanted = mlx_weights(tmp_path / "out"), weights_of_the_folder(models["llama3"])
    assert all(torch.equal(found[name], wanted[name]) for name in wanted if wanted[name].ndim == 2)
    assert settings(tmp_path / "out")["torch_dtype"] == "float16"


def test_config_names_layers_of_other_bits(models: dict[str, Path], tmp_path: Path) -> None:
    export(models["gemma3"], "mlx", tmp_path / "out")
    said = settings(tmp_path / "out")
    four, eight = ({"group_size": 32, "bits": bits, "mode": "affine"} for bits in (4, 8))
    usual = {key: said["quantization"][key] for key in four}
    assert usual == four
    others = {key: value for key, value in said["quantization"].items() if key not in four}
    eights = ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj")
    assert others == {f"model.layers.{layer}.{name}": eight for layer in range(4) for name in eights} | {
        "model.embed_tokens": eight
    }
    assert said["sliding_window_pattern"] == 2


def test_experts_are_named_as_mlx_lm_stacks_them(models: dict[str, Path], tmp_path: Path) -> None:
    export(models["mixtral"], "mlx", tmp_path / "out")
    named = settings(tmp_path / "out")["quantization"]
    assert named["model.layers.0.block_sparse_moe.switch_mlp.gate_proj"]["bits"] == 8 or named["bits"] == 8


def test_types_with_a_shift_and_types_of_five_bits(tmp_path: Path) -> None:
    kinds = {"attn_q.weight": types.Q4_1, "ffn_down.weight": types.Q5_0, "ffn_up.weight": types.Q5_1}
    model = write_quantized("llama3", tmp_path, kinds)
    export(model, "mlx", tmp_path / "out")
    tensors, found, wanted = (
        load_file(tmp_path / "out/model.safetensors"),
        mlx_weights(tmp_path / "out"),
        weights_of_the_folder(model),
    )
    for part, bits in (("self_attn.q_proj", 4), ("mlp.down_proj", 5), ("mlp.up_proj", 5)):
        name = f"model.layers.1.{part}.weight"
        assert torch.equal(found[name], wanted[name])
        assert tensors[name].dtype == torch.uint32 and tensors[name].shape[1] == wanted[name].shape[1] * bits // 32


def test_stacked_matrices_of_two_types_take_the_wider_codes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Where the folder stacks what the file has apart: codes of 4 bits stand for the same numbers in 8."""
    model = write_quantized("openelm", tmp_path, {"ffn_up.weight": types.Q4_0})
    export(model, "mlx", tmp_path / "out")
    assert "3 matrices (3 Q4_0) in more bits than they need, the same numbers: MLX" in capsys.readouterr().err
    name = "transformer.layers.2.ffn.proj_1.weight"
    assert torch.equal(mlx_weights(tmp_path / "out")[name], weights_of_the_folder(model)[name])


def test_other_types_get_16_bits_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    kinds = {"attn_q.weight": types.Q6_K, "ffn_up.weight": types.Q4_K, "ffn_down.weight": types.Q4_0}
    model = tmp_path / "model.gguf"
    model.write_bytes(of_types(plain(), kinds).as_bytes())
    export(model, "mlx", tmp_path / "out", "float16")
    said = capsys.readouterr().err
    assert "4 matrices (2 Q6_K, 2 Q4_K) in 16 bits: 524.3 kB instead of 181.2 kB. MLX holds Q4_0, Q4_1" in said
    tensors = load_file(tmp_path / "out/model.safetensors")
    wanted = weights_of_the_folder(model)
    for part, dtype in (("self_attn.q_proj", torch.float16), ("mlp.down_proj", torch.uint32)):
        assert tensors[f"model.layers.0.{part}.weight"].dtype == dtype
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(tensors[name], wanted[name].half())


def test_a_model_that_is_not_quantized(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Nothing is packed, nothing said, and the numbers stay what they are."""
    export(write_llama(tmp_path / "model.gguf"), "mlx", tmp_path / "out")
    said = settings(tmp_path / "out")
    assert "quantization" not in said and said["torch_dtype"] == "float32"
    assert "bits" not in capsys.readouterr().err


_SPOILED = {
    "gemma2": ({}, "layer 0 in config.json for mlx-lm .gemma2. cannot say that window is 7"),
    "mistral": ({}, "cannot say that window is 7"),
    "gemma3": (
        {"layer_types": ["sliding_attention", "full_attention", *["sliding_attention"] * 2]},
        "at even distances.*layers 2 of 4",
    ),
    "phi4": ({}, "cannot say that rotary is"),
}


@pytest.mark.parametrize("family", _SPOILED)
def test_what_mlx_lm_passes_over_is_refused(family: str, tmp_path: Path) -> None:
    changes, message = _SPOILED[family]
    model = write_quantized(family, tmp_path, changes=changes)
    with pytest.raises(Unsupported, match=message) as caught:
        export(model, "mlx", tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_caps_that_mlx_lm_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="logit_cap is 3.0"):
        export(write_gemma3(tmp_path / "model.gguf"), "mlx", tmp_path / "out")


def test_a_family_without_a_class_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smidgen.exporting.mlx_reader._CLASSES", {})
    with pytest.raises(Unsupported, match="mlx-lm has no class for llama"):
        export(write_llama(tmp_path / "model.gguf"), "mlx", tmp_path / "out")


def test_bfloat16_would_change_the_weights(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="bfloat16 holds 8"):
        export(models["llama3"], "mlx", tmp_path / "out", "bfloat16")
    assert not (tmp_path / "out").exists()


def test_scales_beyond_float16_leave_nothing(tmp_path: Path) -> None:
    """A Q8_0 scale of 600 has a bias of −76,800."""
    model = write_quantized("llama3", tmp_path)
    with open_checkpoint(model) as checkpoint:
        place = checkpoint.file.tensors["blk.0.attn_output.weight"].offset
    data = bytearray(model.read_bytes())
    data[place : place + 2] = np.float16(600).tobytes()
    model.write_bytes(data)
    with pytest.raises(Unsupported, match="o_proj has scales whose bias is beyond .*choose --dtype float32"):
        export(model, "mlx", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(model, "mlx", tmp_path / "out", "float32")


def test_the_command_says_where_to_run_it(models: dict[str, Path], tmp_path: Path) -> None:
    done = run(["export", models["qwen3"], "--to", "mlx", "-o", tmp_path / "out", "-q"])
    assert done.code == 0, done.err
    assert f'Run it: mlx_lm.generate --model {tmp_path}/out --prompt "Once upon a time"' in done.out
    refused = run(["export", tmp_path / "out", "--to", "gguf", "-o", tmp_path / "again.gguf"])
    assert refused.code == 2 and "was written for another program (mlx)" in refused.err


def test_mlx_lm_predicts_the_same(models: dict[str, Path], tmp_path: Path) -> None:
    """In float32 but for rounding; in float16 within its arithmetic. Windows are in use, caches too."""
    python = python_with("mlx_lm", "SMIDGEN_MLX_PYTHON")
    ours = {name: our_logits(path) for name, path in models.items()}
    for dtype, bound, others in (("float32", 1e-6, _FLOAT32), ("float16", 5e-3, _FLOAT16)):
        folders = {name: export(path, "mlx", tmp_path / f"{name}-{dtype}", dtype) for name, path in models.items()}
        theirs = their_logits(python, "run_mlx.py", list(folders.values()))
        for name, logits in zip(folders, theirs, strict=True):
            assert differ(ours[name], logits) < others.get(name, bound), (name, dtype)
