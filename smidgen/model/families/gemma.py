"""Gemma, Gemma 2 and Gemma 3 (text): facts as in Google's reports, transformers' classes and llama.cpp's graphs.

Gemma (https://arxiv.org/abs/2403.08295): gated GELU, embeddings times √hidden, norms stored around 0.
Gemma 2 (https://arxiv.org/abs/2408.00118): norms before and after, soft caps, a window in every other layer.
Gemma 3 (https://arxiv.org/abs/2503.19786): query/key norms, five layers with a window (rotary base 10,000) to one that
sees everything (base 1,000,000, scaled in the larger models).
"""

from smidgen.model.families import gguf_map, hf_map
from smidgen.model.families.facts import Traits, all_but_each, no_layer
from smidgen.model.families.family import Family
from smidgen.model.families.gguf_map import GGUFMap
from smidgen.model.families.hf_map import HFMap

_DEFAULTS = {"tie_word_embeddings": True, "head_dim": 256, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0}
_DEFAULTS |= {"max_position_embeddings": 8192, "vocab_size": 256_000}
_GEMMA2_DEFAULTS = {"num_attention_heads": 8, "num_key_value_heads": 4}
_GEMMA2_DEFAULTS |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096}
_GEMMA3_DEFAULTS = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "max_position_embeddings": 131_072}
_GEMMA3_DEFAULTS |= {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 262_208,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
}

GEMMA = Family(
    name="gemma",
    traits=Traits(activation="gelu_tanh", scaled_embedding=True, local=no_layer),
    gguf=GGUFMap("gemma", gguf_map.COMMON_NAMES),
    hf=(
        HFMap(
            "gemma",
            "GemmaForCausalLM",
            hf_map.COMMON_NAMES,
            defaults=_DEFAULTS | {"num_key_value_heads": 16},
            norm_offset=1.0,
            activation_key="hidden_activation",
        ),
    ),
)

GEMMA2 = Family(
    name="gemma2",
    traits=Traits(activation="gelu_tanh", post_norms=True, scaled_embedding=True, local=all_but_each(2)),
    gguf=GGUFMap(
        "gemma2",
        gguf_map.COMMON_NAMES | gguf_map.POST_NORMS,
        frozenset({"window", "pattern", "attention_cap", "logit_cap"}),
        {"attention.sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        layers_with_wide_query=46,
    ),
    hf=(
        HFMap(
            "gemma2",
            "Gemma2ForCausalLM",
            hf_map.COMMON_NAMES | hf_map.POST_NORMS,
            frozenset({"window", "caps", "query_width"}),
            _DEFAULTS | _GEMMA2_DEFAULTS | {"query_pre_attn_scalar": 256},
            norm_offset=1.0,
            activation_key="hidden_activation",
        ),
    ),
)

_GEMMA3_HF = HFMap(
    "gemma3_text",
    "Gemma3ForCausalLM",
    hf_map.COMMON_NAMES | hf_map.POST_NORMS | hf_map.QK_NORMS,
    frozenset({"window", "caps", "query_width"}),
    _DEFAULTS | _GEMMA3_DEFAULTS,
    norm_offset=1.0,
    activation_key="hidden_activation",
)

GEMMA3 = Family(
    name="gemma3",
    traits=Traits(activation="gelu_tanh", qk_norm=True, post_norms=True, scaled_embedding=True, local=all_but_each(6)),
    gguf=GGUFMap(
        "gemma3",
        gguf_map.COMMON_NAMES | gguf_map.POST_NORMS | gguf_map.QK_NORMS,
        frozenset({"window", "pattern", "logit_cap"}),
        local_rope_base=10_000.0,
        layers_with_wide_query=62,
    ),
    hf=(_GEMMA3_HF,),
)
