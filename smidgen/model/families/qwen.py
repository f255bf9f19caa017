"""Qwen2, Qwen2.5 and Qwen3 (dense).

Qwen2 (https://arxiv.org/abs/2407.10671): biases on queries, keys and values. Qwen3 (https://arxiv.org/abs/2505.09388):
query/key norms in their place, heads of a width of their own.
"""

from smidgen.model.families import gguf_map, hf_map
from smidgen.model.families.facts import Traits
from smidgen.model.families.family import Family
from smidgen.model.families.gguf_map import GGUFMap
from smidgen.model.families.hf_map import HFMap

QWEN2 = Family(
    name="qwen2",
    traits=Traits(),
    gguf=GGUFMap("qwen2", gguf_map.COMMON_NAMES | gguf_map.BIASES, frozenset({"square_queries"})),
    hf=(
        HFMap(
            "qwen2",
            "Qwen2ForCausalLM",
            hf_map.COMMON_NAMES | hf_map.BIASES,
            frozenset({"switched_window"}),
            {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28},
            qkv_bias=True,
        ),
    ),
)

QWEN3 = Family(
    name="qwen3",
    traits=Traits(qk_norm=True),
    gguf=GGUFMap("qwen3", gguf_map.COMMON_NAMES | gguf_map.QK_NORMS),
    hf=(
        HFMap(
            "qwen3",
            "Qwen3ForCausalLM",
            hf_map.COMMON_NAMES | hf_map.QK_NORMS,
            frozenset({"switched_window"}),
            {"num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096, "max_window_layers": 28},
        ),
    ),
)
