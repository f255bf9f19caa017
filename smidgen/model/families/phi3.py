"""Phi-3 mini and Phi-4 mini (https://arxiv.org/abs/2404.14219, https://arxiv.org/abs/2503.01743).

Files stack queries, keys and values in one tensor, gate and up in another; long contexts come by LongRoPE; in Phi-4
mini only three quarters of each head turn. llama.cpp ignores the window of the 4k model, which matters beyond it alone.
"""

from smidgen.model.families import gguf_map, hf_map
from smidgen.model.families.facts import Traits
from smidgen.model.families.family import Family
from smidgen.model.families.gguf_map import GGUFMap
from smidgen.model.families.hf_map import HFMap

_GGUF_QKV, _HF_QKV = "blk.{i}.attn_qkv.weight", "model.layers.{i}.self_attn.qkv_proj.weight"
_GGUF_GATE_UP, _HF_GATE_UP = "blk.{i}.ffn_up.weight", "model.layers.{i}.mlp.gate_up_proj.weight"


def _stacked(qkv: str, gate_up: str) -> dict[str, str]:
    names = {f"blocks.{{i}}.attention.{part}.weight": qkv for part in ("query", "key", "value")}
    return names | {f"blocks.{{i}}.feed_forward.{part}.weight": gate_up for part in ("gate", "up")}


PHI3 = Family(
    name="phi3",
    traits=Traits(),
    gguf=GGUFMap(
        "phi3",
        gguf_map.COMMON_NAMES | _stacked(_GGUF_QKV, _GGUF_GATE_UP),
        frozenset({"window", "partial_rotary", "square_queries"}),
    ),
    hf=(
        HFMap(
            "phi3",
            "Phi3ForCausalLM",
            hf_map.COMMON_NAMES | _stacked(_HF_QKV, _HF_GATE_UP),
            frozenset({"window", "partial_rotary"}),
            {"rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "original_max_position_embeddings": 4096},
        ),
    ),
)
