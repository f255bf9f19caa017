"""Folders that smidgen does not support are described all the same; damaged ones are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from smidgen.errors import BadFile
from smidgen.formats.folder_facts import role_of
from smidgen.formats.summary import Summary, summarise

CONFIG = {
    "model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}  # fmt: skip
SHAPES = {
    "model.embed_tokens.weight": (8, 4), "lm_head.weight": (8, 4), "model.norm.weight": (4,),
    "model.layers.0.self_attn.q_proj.weight": (4, 4), "model.layers.0.self_attn.k_proj.weight": (2, 4),
    "model.layers.0.self_attn.v_proj.weight": (2, 4), "model.layers.0.self_attn.o_proj.weight": (4, 4),
    "model.layers.0.mlp.gate_proj.weight": (8, 4), "model.layers.0.mlp.up_proj.weight": (8, 4),
    "model.layers.0.mlp.down_proj.weight": (4, 8), "model.layers.0.input_layernorm.weight": (4,),
    "model.layers.0.post_attention_layernorm.weight": (4,),
}  # fmt: skip
PARAMETERS = 8 * 4 * 2 + 4 + 16 + 8 + 8 + 16 + 3 * 32 + 4 + 4


def write(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    weights = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in SHAPES.items()}
    save_file(weights if tensors is None else tensors, folder / "model.safetensors")
    return folder


def facts(summary: Summary) -> tuple[Any, ...]:
    return summary.layers, summary.hidden, summary.heads, summary.kv_heads, summary.context_length, summary.vocabulary


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "flamingo"}, "architecture 'flamingo' is not supported"),
        ({"quantum_attention": 7}, "quantum_attention"),
    ],
)
def test_unknown_models_are_described(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    summary = summarise(write(tmp_path, **config))
    assert summary.cannot_cut is not None and reason in summary.cannot_cut
    assert summary.cannot_run == summary.cannot_cut and not summary.cannot_cut.startswith(str(tmp_path))
    assert (summary.family, summary.parameters, summary.tied_head) == (None, PARAMETERS, False)
    assert facts(summary) == (1, 4, 2, 1, 64, 8)
    assert {name: share.parameters for name, share in summary.parts.items()} == {
        "feed-forward": 96, "attention": 48, "embedding": 32, "head": 32, "norms": 12,
    }  # fmt: skip
    assert summary.types["F16"].bytes == 2 * PARAMETERS


def test_other_spellings_of_settings(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024})
    )
    save_file(
        {"wte.weight": torch.zeros(8, 4), "h.0.attn.c_attn.weight": torch.zeros(4, 12)}, tmp_path / "model.safetensors"
    )
    summary = summarise(tmp_path)
    assert facts(summary) == (12, 768, 12, None, 1024, None)
    assert (summary.architecture, set(summary.parts)) == ("gpt2", {"embedding", "attention"})


def test_settings_that_make_no_sense_are_not_shown(tmp_path: Path) -> None:
    summary = summarise(
        write(tmp_path, model_type="flamingo", hidden_size="wide", num_hidden_layers=-1, vocab_size=True)
    )
    assert facts(summary) == (None, None, 2, 1, 64, None)


def test_packed_weights_are_not_counted(tmp_path: Path) -> None:
    packed = {"model.layers.0.mlp.up_proj.qweight": torch.zeros(1, 8, dtype=torch.int32)}
    summary = summarise(write(tmp_path, packed, quantization_config={"quant_method": "gptq", "bits": 4}))
    assert (summary.quantization, summary.parameters, summary.bits_per_weight) == ("gptq, 4 bits", None, None)
    assert summary.cannot_cut is not None and "already quantized (gptq)" in summary.cannot_cut
    assert summary.types["I32"].bytes == 32


def test_types_of_eight_bits_are_described(tmp_path: Path) -> None:
    weights = {name: torch.zeros(shape).to(torch.float8_e4m3fn) for name, shape in SHAPES.items()}
    summary = summarise(write(tmp_path, weights))
    assert summary.cannot_cut is not None and "has type F8_E4M3" in summary.cannot_cut
    assert (summary.parameters, summary.types["F8_E4M3"].bytes) == (PARAMETERS, PARAMETERS)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in SHAPES.items() if "q_proj" not in name}
    with pytest.raises(BadFile, match="q_proj.weight is missing"):
        summarise(write(tmp_path, tensors))
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(BadFile):
        summarise(tmp_path)


@pytest.mark.parametrize(
    ("tensor", "role"),
    [
        ("transformer.h.3.ln_1.weight", "norms"),
        ("model.layers.0.block_sparse_moe.experts.3.w1.weight", "experts"),
        ("visual.blocks.0.attn.qkv.weight", "vision"),
        ("gpt_neox.embed_out.weight", "head"),
        ("backbone.layers.0.mixer.in_proj.weight", "attention"),
        ("something.else", "other"),
    ],
)
def test_roles(tensor: str, role: str) -> None:
    assert role_of(tensor) == role
