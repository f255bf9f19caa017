"""config.json of every family's tiny model, and of the real models as their makers published them.

The real ones are written down from the public repositories, old spelling and idle keys included; with each comes the
number of weights that the model is known to have (a tied head counted once).
"""

import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from smidgen.model.config import ModelConfig
from smidgen.model.families import Family, family_of_config
from tests.family_models import FAMILY_MODELS
from tests.openelm_reference import OpenELM


@cache
def _text_of(label: str) -> str:
    model = FAMILY_MODELS[label].make()
    if not isinstance(model, OpenELM):
        return model.config.to_json_string(use_diff=False)  # type: ignore[union-attr, operator]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder))
        return (Path(folder) / "config.json").read_text()


def settings_of(label: str) -> dict[str, Any]:
    """config.json of a tiny model of `FAMILY_MODELS`, every key of its class spelled out. The caller's own."""
    return json.loads(_text_of(label))


def read_settings(settings: dict[str, Any]) -> tuple[Family, ModelConfig]:
    """The family and configuration that a config.json describes."""
    family, written = family_of_config(settings)
    return family, family.config_from_hf(settings, written)


@dataclass(frozen=True)
class RealModel:
    """parameters: how many weights.  settings: config.json.  context, windows: what it should be read as."""

    parameters: int
    context: int
    settings: dict[str, Any]
    windows: tuple[int | None, ...] = (None,)


_HEAD: dict[str, Any] = {
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.4",
    "use_cache": True,
}
_GEMMA = _HEAD | {
    "attention_bias": False,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "head_dim": 256,
    "rms_norm_eps": 1e-06,
}
_LLAMA = _HEAD | {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
}
_LLAMA3_ROPE = {
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
_MISTRAL = _HEAD | {
    "architectures": ["MistralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
}
_PHI3 = _HEAD | {
    "_name_or_path": "Phi-3-mini-4k-instruct",
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "auto_map": {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    },
    "bos_token_id": 1,
    "embd_pdrop": 0.0,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "pad_token_id": 32000,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
}
_QWEN = _HEAD | {
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def _long_rope(pairs: int) -> dict[str, Any]:
    """The shape of the published tables (their numbers were found by search)."""
    long = [1.08 + 62.0 * (pair / pairs) ** 2 for pair in range(pairs)]
    return {"long_factor": long, "short_factor": [1.0 + pair / pairs for pair in range(pairs)], "type": "longrope"}


REAL_MODELS = {
    "Gemma 2B": RealModel(
        2_506_172_416,
        8192,
        _GEMMA
        | {
            "architectures": ["GemmaForCausalLM"],
            "hidden_act": "gelu",
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "max_position_embeddings": 8192,
            "model_type": "gemma",
            "num_attention_heads": 8,
            "num_hidden_layers": 18,
            "num_key_value_heads": 1,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "vocab_size": 256000,
        },
    ),
    "Gemma 2 2B": RealModel(
        2_614_341_888,
        8192,
        _GEMMA
        | {
            "architectures": ["Gemma2ForCausalLM"],
            "attn_logit_softcapping": 50.0,
            "cache_implementation": "hybrid",
            "final_logit_softcapping": 30.0,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "max_position_embeddings": 8192,
            "model_type": "gemma2",
            "num_attention_heads": 8,
            "num_hidden_layers": 26,
            "num_key_value_heads": 4,
            "query_pre_attn_scalar": 256,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "vocab_size": 256000,
        },
        (4096, None),
    ),
    "Gemma 3 1B": RealModel(
        999_885_952,
        32768,
        _GEMMA
        | {
            "architectures": ["Gemma3ForCausalLM"],
            "attn_logit_softcapping": None,
            "cache_implementation": "hybrid",
            "eos_token_id": [1, 106],
            "final_logit_softcapping": None,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "max_position_embeddings": 32768,
            "model_type": "gemma3_text",
            "num_attention_heads": 4,
            "num_hidden_layers": 26,
            "num_key_value_heads": 1,
            "query_pre_attn_scalar": 256,
            "rope_local_base_freq": 10000,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": 512,
            "sliding_window_pattern": 6,
            "vocab_size": 262144,
        },
        (512, 512, 512, 512, 512, None),
    ),
    "Gemma 3 4B (text)": RealModel(
        3_880_263_168,
        131_072,
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "boi_token_index": 255999,
            "eoi_token_index": 256000,
            "eos_token_id": [1, 106],
            "image_token_index": 262144,
            "initializer_range": 0.02,
            "mm_tokens_per_image": 256,
            "model_type": "gemma3",
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "model_type": "gemma3_text",
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
            "torch_dtype": "bfloat16",
            "transformers_version": "4.50.0.dev0",
            "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model", "num_hidden_layers": 27},
        },
        (1024, 1024, 1024, 1024, 1024, None),
    ),
    "Llama 2 7B": RealModel(
        6_738_415_616,
        4096,
        _LLAMA
        | {
            "_name_or_path": "meta-llama/Llama-2-7b-hf",
            "intermediate_size": 11008,
            "max_position_embeddings": 4096,
            "num_key_value_heads": 32,
            "rope_scaling": None,
            "torch_dtype": "float16",
            "vocab_size": 32000,
        },
    ),
    "Llama 3.1 8B": RealModel(
        8_030_261_248,
        131_072,
        _LLAMA
        | {
            "intermediate_size": 14336,
            "max_position_embeddings": 131072,
            "rope_scaling": {"factor": 8.0, **_LLAMA3_ROPE},
            "rope_theta": 500000.0,
            "vocab_size": 128256,
        },
    ),
    "Llama 3.2 1B": RealModel(
        1_235_814_400,
        131_072,
        _LLAMA
        | {
            "head_dim": 64,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "max_position_embeddings": 131072,
            "num_hidden_layers": 16,
            "rope_scaling": {"factor": 32.0, **_LLAMA3_ROPE},
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
            "vocab_size": 128256,
        },
    ),
    "Mistral 7B v0.1": RealModel(
        7_241_732_096,
        32768,
        _MISTRAL | {"rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 32000},
        (4096,),
    ),
    "Mistral 7B v0.3": RealModel(
        7_248_023_552, 32768, _MISTRAL | {"rope_theta": 1000000.0, "sliding_window": None, "vocab_size": 32768}
    ),
    "Mixtral 8x7B": RealModel(
        46_702_792_704,
        32768,
        _MISTRAL
        | {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "num_experts_per_tok": 2,
            "num_local_experts": 8,
            "output_router_logits": False,
            "rope_theta": 1000000.0,
            "router_aux_loss_coef": 0.02,
            "sliding_window": None,
            "vocab_size": 32000,
        },
    ),
    "Phi-3 mini 4k": RealModel(3_821_079_552, 4096, _PHI3, (2047,)),
    "Phi-3 mini 128k": RealModel(
        3_821_079_552,
        131_072,
        _PHI3 | {"max_position_embeddings": 131072, "rope_scaling": _long_rope(48), "sliding_window": 262144},
        (262_144,),
    ),
    "Phi-4 mini": RealModel(
        3_836_021_760,
        131_072,
        _PHI3
        | {
            "bos_token_id": 199999,
            "eos_token_id": 199999,
            "full_attn_mod": 1,
            "interpolate_factor": 1,
            "lm_head_bias": False,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "num_attention_heads": 24,
            "num_key_value_heads": 8,
            "pad_token_id": 199999,
            "partial_rotary_factor": 0.75,
            "rope_scaling": _long_rope(48),
            "sliding_window": 262144,
            "tie_word_embeddings": True,
            "vocab_size": 200064,
        },
        (262_144,),
    ),
    "OpenELM 270M": RealModel(
        271_527_168,
        2048,
        {
            "activation_fn_name": "swish",
            "architectures": ["OpenELMForCausalLM"],
            "auto_map": {
                "AutoConfig": "configuration_openelm.OpenELMConfig",
                "AutoModelForCausalLM": "modeling_openelm.OpenELMForCausalLM",
            },
            "bos_token_id": 1,
            "eos_token_id": 2,
            "ffn_dim_divisor": 256,
            "ffn_multipliers": [
                0.5, 0.73, 0.97, 1.2, 1.43, 1.67, 1.9, 2.13, 2.37, 2.6, 2.83, 3.07, 3.3, 3.53, 3.77, 4.0,
            ],
            "ffn_with_glu": True,
            "head_dim": 64,
            "initializer_range": 0.02,
            "max_context_length": 2048,
            "model_dim": 1280,
            "model_type": "openelm",
            "normalization_layer_name": "rms_norm",
            "normalize_qk_projections": True,
            "num_gqa_groups": 4,
            "num_kv_heads": [3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5],
            "num_query_heads": [12, 12, 12, 12, 12, 16, 16, 16, 16, 16, 16, 16, 20, 20, 20, 20],
            "num_transformer_layers": 16,
            "qkv_multipliers": [0.5, 1.0],
            "rope_freq_constant": 10000,
            "rope_max_length": 4096,
            "share_input_output_layers": True,
            "torch_dtype": "float32",
            "transformers_version": "4.39.3",
            "use_cache": True,
            "vocab_size": 32000,
        },
    ),
    "Qwen2.5 0.5B": RealModel(
        494_032_768,
        32768,
        _QWEN
        | {
            "architectures": ["Qwen2ForCausalLM"],
            "hidden_size": 896,
            "intermediate_size": 4864,
            "max_position_embeddings": 32768,
            "max_window_layers": 24,
            "model_type": "qwen2",
            "num_attention_heads": 14,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "sliding_window": 32768,
            "use_mrope": False,
        },
    ),
    "Qwen3 0.6B": RealModel(
        596_049_920,
        40960,
        _QWEN
        | {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "head_dim": 128,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "max_position_embeddings": 40960,
            "max_window_layers": 28,
            "model_type": "qwen3",
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "num_key_value_heads": 8,
            "rope_scaling": None,
            "sliding_window": None,
        },
    ),
    "SmolLM2 135M": RealModel(
        134_515_008,
        8192,
        _LLAMA
        | {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "is_llama_config": True,
            "max_position_embeddings": 8192,
            "num_attention_heads": 9,
            "num_hidden_layers": 30,
            "num_key_value_heads": 3,
            "rope_interleaved": False,
            "rope_scaling": None,
            "rope_theta": 100000,
            "tie_word_embeddings": True,
            "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
            "vocab_size": 49152,
        },
    ),
    "SmolLM3 3B": RealModel(
        3_075_098_624,
        65536,
        _HEAD
        | {
            "architectures": ["SmolLM3ForCausalLM"],
            "attention_bias": False,
            "bos_token_id": None,
            "eos_token_id": 128012,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "layer_types": ["full_attention"] * 36,
            "max_position_embeddings": 65536,
            "max_window_layers": 28,
            "mlp_bias": False,
            "model_type": "smollm3",
            "no_rope_layer_interval": 4,
            "no_rope_layers": [1, 1, 1, 0] * 9,
            "num_attention_heads": 16,
            "num_hidden_layers": 36,
            "num_key_value_heads": 4,
            "pad_token_id": 128004,
            "pretraining_tp": 2,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 5000000.0,
            "sliding_window": None,
            "use_sliding_window": False,
            "vocab_size": 128256,
        },
    ),
}  # fmt: skip
