"""Tiny random models of Gemma 3n and Gemma 4, made by transformers, with every feature turned up.

Windows are shorter than the texts; layers share keys and values, heads are of two widths, the table of the layers has
fewer rows than the vocabulary where that may be.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.family_models import VOCABULARY, FamilyModel, of_transformers, save_tokenizer, strengthen

_KINDS = {"s": "sliding_attention", "f": "full_attention"}
_GEMMA: dict[str, Any] = {
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 7,
    "final_logit_softcapping": 3.0,
    "vocab_size_per_layer_input": VOCABULARY,
}


def _kinds(layers: str) -> dict[str, Any]:
    return {"layer_types": [_KINDS[one] for one in layers], "num_hidden_layers": len(layers)}


_ROPE = {
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 500.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
_GEMMA4 = _GEMMA | {"head_dim": 16, "global_head_dim": 32, "rope_parameters": _ROPE}

NANO_MODELS = {
    "gemma3n": FamilyModel(
        "Gemma 3n E2B, E4B",
        of_transformers(
            "Gemma3nTextConfig",
            "Gemma3nForCausalLM",
            **_GEMMA | {"vocab_size_per_layer_input": VOCABULARY - 20},
            **_kinds("sfssfsf"),
            head_dim=16,
            hidden_size_per_layer_input=32,
            intermediate_size=[96, 96, 64, 96, 96, 128, 96],
            num_kv_shared_layers=2,
            altup_num_inputs=3,
            altup_active_idx=0,
            laurel_rank=8,
            activation_sparsity_pattern=[0.9, 0.5, 0.0, 0.0, 0.0, 0.0, 0.3],
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 500.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        ),
    ),
    "gemma4": FamilyModel(
        "Gemma 4 E2B, E4B",
        of_transformers(
            "Gemma4TextConfig",
            "Gemma4ForCausalLM",
            **_GEMMA4,
            **_kinds("sfssfsf"),
            hidden_size_per_layer_input=32,
            num_kv_shared_layers=2,
            use_double_wide_mlp=True,
        ),
    ),
    "gemma4 experts": FamilyModel(
        "Gemma 4 26B-A4B",
        of_transformers(
            "Gemma4TextConfig",
            "Gemma4ForCausalLM",
            **_GEMMA4,
            **_kinds("ssfsf"),
            hidden_size_per_layer_input=0,
            enable_moe_block=True,
            num_experts=4,
            top_k_experts=2,
            moe_intermediate_size=32,
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
        ),
    ),
    "gemma4 keys": FamilyModel(
        "Gemma 4 12B, 31B",
        of_transformers(
            "Gemma4TextConfig",
            "Gemma4ForCausalLM",
            **_GEMMA4,
            **_kinds("ssfsf"),
            hidden_size_per_layer_input=0,
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
        ),
    ),
    "gemma4 unified": FamilyModel(
        "Gemma 4, pictures and sounds in one stream",
        of_transformers(
            "Gemma4UnifiedTextConfig",
            "Gemma4UnifiedForCausalLM",
            **{key: value for key, value in _GEMMA4.items() if key != "vocab_size_per_layer_input"},
            **_kinds("sfssfsf"),
            num_kv_shared_layers=2,
            use_double_wide_mlp=True,
        ),
    ),
}


#: Heads that blocks of a rounded cache fit, multiples of 64 as the published ones.
WIDE = FamilyModel(
    "Gemma 4 E2B, E4B",
    of_transformers(
        "Gemma4TextConfig",
        "Gemma4ForCausalLM",
        **_GEMMA4 | {"head_dim": 64, "global_head_dim": 128},
        **_kinds("sfssfsf"),
        hidden_size_per_layer_input=32,
        num_kv_shared_layers=2,
    ),
)


def save_nano(name: str, folder: Path) -> nn.Module:
    """Write a model and a tokenizer into `folder` as transformers does. Returns the model."""
    return save(NANO_MODELS[name], folder)


def save(chosen: FamilyModel, folder: Path) -> nn.Module:
    """The same of a model that has no name here."""
    model = chosen.make().eval()
    strengthen(model)
    with torch.no_grad():
        for part, buffer in model.named_buffers():
            if part.endswith("layer_scalar"):
                buffer.copy_(torch.tensor([0.75]))
        for part, parameter in model.named_parameters():
            if part.endswith("correct_output_scale"):
                parameter.add_(1.0)
            if part.endswith("q_norm.weight"):  # scores are not scaled: less sharp, or rounding shows
                parameter.mul_(0.25)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model
