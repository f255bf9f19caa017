"""Llama 2 and 3, Mistral 7B, Mixtral, SmolLM2 (one architecture in GGUF), and SmolLM3.

Llama: Touvron et al. 2023, https://arxiv.org/abs/2307.09288, and https://arxiv.org/abs/2407.21783. Mistral: a window in
every layer, https://arxiv.org/abs/2310.06825. Mixtral: experts, https://arxiv.org/abs/2401.04088. SmolLM3: every fourth
layer without positions (https://arxiv.org/abs/2501.18795).

GGUF files hold the rows of query and key weights in the order of the paper's rotary embedding (neighbouring features
form a pair); the decoder wants the half-split order, so these rows move.
"""

import numpy as np

from smidgen.model.config import LayerConfig
from smidgen.model.families import gguf_map, hf_map
from smidgen.model.families.facts import Traits, all_but_each
from smidgen.model.families.family import Family
from smidgen.model.families.gguf_map import GGUFMap
from smidgen.model.families.hf_map import HFMap


def _half_split(heads: int, head: int) -> np.ndarray:
    """Model row h·head + p·head/2 + j is file row h·head + 2j + p (p: which of the pair, j: which pair)."""
    rows = np.arange(heads * head).reshape(heads, head // 2, 2)
    return rows.swapaxes(1, 2).reshape(-1)


def _query_order(layer: LayerConfig) -> np.ndarray:
    return _half_split(layer.heads, layer.head_dim)


def _key_order(layer: LayerConfig) -> np.ndarray:
    return _half_split(layer.kv_heads, layer.head_dim)


_ROW_ORDERS = {
    "blocks.{i}.attention.query.weight": _query_order,
    "blocks.{i}.attention.query.bias": _query_order,
    "blocks.{i}.attention.key.weight": _key_order,
    "blocks.{i}.attention.key.bias": _key_order,
}
_GGUF_NAMES = gguf_map.COMMON_NAMES | gguf_map.BIASES | gguf_map.OUTPUT_BIAS
_HF_NAMES = hf_map.COMMON_NAMES | hf_map.BIASES | hf_map.OUTPUT_BIAS
_EXPERT_NAMES = {name: tensor for name, tensor in hf_map.COMMON_NAMES.items() if ".feed_forward." not in name}

LLAMA = Family(
    name="llama",
    traits=Traits(),
    gguf=GGUFMap("llama", _GGUF_NAMES | gguf_map.EXPERTS, frozenset({"window", "experts"}), row_orders=_ROW_ORDERS),
    hf=(
        HFMap("llama", "LlamaForCausalLM", _HF_NAMES, frozenset({"attention_bias"}), {"rms_norm_eps": 1e-6}),
        HFMap(
            "mistral",
            "MistralForCausalLM",
            hf_map.COMMON_NAMES,
            frozenset({"window"}),
            {"num_key_value_heads": 8, "sliding_window": 4096},
        ),
        HFMap(
            "mixtral",
            "MixtralForCausalLM",
            _EXPERT_NAMES | hf_map.EXPERTS,
            frozenset({"window", "experts"}),
            {"num_key_value_heads": 8, "rope_theta": 1e6},
        ),
    ),
)

SMOLLM3 = Family(
    name="smollm3",
    traits=Traits(rotates=all_but_each(4)),
    gguf=GGUFMap("smollm3", _GGUF_NAMES, row_orders=_ROW_ORDERS),
    hf=(
        HFMap(
            "smollm3",
            "SmolLM3ForCausalLM",
            _HF_NAMES,
            frozenset({"attention_bias", "nope", "switched_window"}),
            {"num_key_value_heads": 4, "tie_word_embeddings": True, "rope_theta": 2e6},
        ),
    ),
)
