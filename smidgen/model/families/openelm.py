"""Apple's OpenELM (https://arxiv.org/abs/2404.14619): every layer has its own number of heads and feed-forward width.

transformers has no class for it: config.json and tensor names are those of the code that comes with Apple's
repositories (model_type "openelm"). Queries, keys and values are stacked in one tensor, gate and up in another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smidgen.model.families import gguf_map
from smidgen.model.families.facts import Facts, Traits, no_layer
from smidgen.model.families.family import Family
from smidgen.model.families.gguf_map import GGUFMap
from smidgen.model.families.hf_map import IGNORED, HFMap
from smidgen.model.families.keys import LARGEST_INT32, Keys

_EPSILON = 1e-6  # of every norm, in no file

_GGUF_QKV = {f"blocks.{{i}}.attention.{part}.weight": "blk.{i}.attn_qkv.weight" for part in ("query", "key", "value")}
_LAYER = "transformer.layers.{i}"
_HF_NAMES = {
    "embedding.weight": "transformer.token_embeddings.weight",
    "final_norm.weight": "transformer.norm.weight",
    "head.weight": "lm_head.weight",
    "blocks.{i}.attention_norm.weight": f"{_LAYER}.attn_norm.weight",
    "blocks.{i}.attention.query.weight": f"{_LAYER}.attn.qkv_proj.weight",
    "blocks.{i}.attention.key.weight": f"{_LAYER}.attn.qkv_proj.weight",
    "blocks.{i}.attention.value.weight": f"{_LAYER}.attn.qkv_proj.weight",
    "blocks.{i}.attention.query_norm.weight": f"{_LAYER}.attn.q_norm.weight",
    "blocks.{i}.attention.key_norm.weight": f"{_LAYER}.attn.k_norm.weight",
    "blocks.{i}.attention.output.weight": f"{_LAYER}.attn.out_proj.weight",
    "blocks.{i}.feed_forward_norm.weight": f"{_LAYER}.ffn_norm.weight",
    "blocks.{i}.feed_forward.gate.weight": f"{_LAYER}.ffn.proj_1.weight",
    "blocks.{i}.feed_forward.up.weight": f"{_LAYER}.ffn.proj_1.weight",
    "blocks.{i}.feed_forward.down.weight": f"{_LAYER}.ffn.proj_2.weight",
}
_NEUTRAL = {
    "ffn_with_glu": True,
    "normalize_qk_projections": True,
    "normalization_layer_name": "rms_norm",
    "activation_fn_name": "swish",
}
#: What the lists of heads and widths were computed from, and what the code does not use.
_IGNORED = IGNORED | {"num_gqa_groups", "qkv_multipliers", "rope_max_length"}


@dataclass(frozen=True)
class OpenELMMap(HFMap):
    """OpenELM's config.json, which has keys of its own."""

    def read(self, config: Mapping[str, Any], traits: Traits) -> Facts:
        """As `HFMap.read`."""
        keys = Keys(config, "config.json: ")
        layers, hidden = keys.integer("num_transformer_layers", most=512), keys.integer("model_dim")
        head_dim = keys.integer("head_dim", most=2**14)
        facts = Facts(
            layers=layers,
            hidden=hidden,
            vocabulary=keys.integer("vocab_size", most=2**31),
            heads=keys.per_layer("num_query_heads", layers),
            kv_heads=keys.per_layer("num_kv_heads", layers),
            head_dim=head_dim,
            ffn_widths=_widths(keys, layers, hidden),
            epsilon=_EPSILON,
            context_length=keys.integer("max_context_length", most=LARGEST_INT32),
            tied_head=keys.flag("share_input_output_layers", True),
            rope_base=keys.number("rope_freq_constant", 10_000.0),
            rotary_width=head_dim,
            rope_scaling=None,
            query_width=float(head_dim),
            window=None,
            local=no_layer(layers),
            rotates=traits.rotates(layers),
        )
        keys.refuse_others(_NEUTRAL)
        keys.refuse_unread(_IGNORED)
        return facts

    def write(self, facts: Facts, traits: Traits) -> dict[str, Any]:
        """As `HFMap.write`. Widths are written as multiples of the hidden width that round back to themselves."""
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "num_transformer_layers": facts.layers,
            "model_dim": facts.hidden,
            "vocab_size": facts.vocabulary,
            "head_dim": facts.head_dim,
            "num_query_heads": list(facts.heads),
            "num_kv_heads": list(facts.kv_heads),
            "ffn_multipliers": [width / facts.hidden for width in facts.ffn_widths],
            "ffn_dim_divisor": 1,
            "max_context_length": facts.context_length,
            "rope_max_length": 2 * facts.context_length,
            "rope_freq_constant": facts.rope_base,
            "share_input_output_layers": facts.tied_head,
            **_NEUTRAL,
        }


def _widths(keys: Keys, layers: int, hidden: int) -> tuple[int, ...]:
    """Feed-forward widths: multiples of the hidden width, rounded to the divisor, but never down by over a tenth."""
    multipliers, divisor = keys.numbers("ffn_multipliers", layers), keys.integer("ffn_dim_divisor", 256)
    widths = []
    for multiplier in multipliers:
        wanted = multiplier * hidden
        width = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
        widths.append(width + divisor if width < 0.9 * wanted else width)
    if max(widths) > 2**20:
        raise keys.wrong("ffn_multipliers", "multipliers that lead to widths up to a million")
    return tuple(widths)


OPENELM = Family(
    name="openelm",
    traits=Traits(qk_norm=True),
    gguf=GGUFMap(
        "openelm", gguf_map.COMMON_NAMES | _GGUF_QKV | gguf_map.QK_NORMS, frozenset({"layer_widths", "layer_heads"})
    ),
    hf=(OpenELMMap("openelm", "OpenELMForCausalLM", _HF_NAMES),),
)
