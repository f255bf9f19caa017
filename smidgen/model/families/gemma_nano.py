"""Gemma 3n and Gemma 4 (text): Gemini Nano's architecture, and what came after it.

There is no paper; facts are those of transformers' classes and llama.cpp's graphs. Common to both: embeddings per
layer, keys and values that the last layers read of earlier ones, values divided by their root mean square, scores that
are not scaled. Gemma 3n has four residual streams, low-rank residuals and sparse activations. Gemma 4 has wider heads
in the layers that see everything, where a quarter of each head turns, a factor for each layer's output, and in the
larger models keys that are values, and experts beside the feed-forward network.
"""

from smidgen.model.families import gguf_features, gguf_map, hf_map
from smidgen.model.families.facts import (
    EXPERTS_BESIDE,
    LAYER_INPUTS,
    SHARED_KEYS,
    STREAMS,
    WIDE_HEADS,
    Traits,
    all_but_each,
)
from smidgen.model.families.family import Family
from smidgen.model.families.gguf_map import GGUFMap
from smidgen.model.families.hf_map import HFMap

_DEFAULTS = {"tie_word_embeddings": True, "head_dim": 256, "rms_norm_eps": 1e-6, "num_attention_heads": 8}
_DEFAULTS |= {"sliding_window": 512}
_TABLE = {"hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 262_144}
_GEMMA3N_DEFAULTS = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "max_position_embeddings": 32_768}
_GEMMA3N_DEFAULTS |= {"vocab_size": 262_400, "num_key_value_heads": 2, "final_logit_softcapping": 30.0}
_GEMMA3N_DEFAULTS |= {"altup_num_inputs": 4, "altup_active_idx": 0, "laurel_rank": 64, "num_kv_shared_layers": 15}
_GEMMA4_DEFAULTS = {"vocab_size": 262_144, "num_key_value_heads": 4, "max_position_embeddings": 131_072}
_GEMMA4_DEFAULTS |= {
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
}

_HF_LAYERS = "model.layers.{i}."
_HF_LAYER_INPUTS = {
    "layer_embedding.weight": "model.embed_tokens_per_layer.weight",
    "layer_projection.weight": "model.per_layer_model_projection.weight",
    "layer_projection_norm.weight": "model.per_layer_projection_norm.weight",
    "blocks.{i}.layer_input.gate.weight": _HF_LAYERS + "per_layer_input_gate.weight",
    "blocks.{i}.layer_input.output.weight": _HF_LAYERS + "per_layer_projection.weight",
    "blocks.{i}.layer_input_norm.weight": _HF_LAYERS + "post_per_layer_input_norm.weight",
}
_HF_STREAMS = {
    "streams_in.{e}.weight": "model.altup_projections.{e}.weight",
    "streams_out.{e}.weight": "model.altup_unembed_projections.{e}.weight",
    "blocks.{i}.streams.router_norm.weight": _HF_LAYERS + "altup.router_norm.weight",
    "blocks.{i}.streams.router.weight": _HF_LAYERS + "altup.modality_router.weight",
    "blocks.{i}.streams.predict.weight": _HF_LAYERS + "altup.prediction_coefs.weight",
    "blocks.{i}.streams.correct.weight": _HF_LAYERS + "altup.correction_coefs.weight",
    "blocks.{i}.streams.output_scale.weight": _HF_LAYERS + "altup.correct_output_scale",
    "blocks.{i}.low_rank.left.weight": _HF_LAYERS + "laurel.linear_left.weight",
    "blocks.{i}.low_rank.right.weight": _HF_LAYERS + "laurel.linear_right.weight",
    "blocks.{i}.low_rank_norm.weight": _HF_LAYERS + "laurel.post_laurel_norm.weight",
}
_HF_EXPERTS = {
    "blocks.{i}.feed_forward_own_norm.weight": _HF_LAYERS + "post_feedforward_layernorm_1.weight",
    "blocks.{i}.experts_norm.weight": _HF_LAYERS + "pre_feedforward_layernorm_2.weight",
    "blocks.{i}.experts_post_norm.weight": _HF_LAYERS + "post_feedforward_layernorm_2.weight",
    "blocks.{i}.experts.router.weight": _HF_LAYERS + "router.proj.weight",
    "blocks.{i}.experts.router_scale.weight": _HF_LAYERS + "router.scale",
    "blocks.{i}.experts.output_scale.weight": _HF_LAYERS + "router.per_expert_scale",
    "blocks.{i}.experts.{e}.gate.weight": _HF_LAYERS + "experts.gate_up_proj",
    "blocks.{i}.experts.{e}.up.weight": _HF_LAYERS + "experts.gate_up_proj",
    "blocks.{i}.experts.{e}.down.weight": _HF_LAYERS + "experts.down_proj",
}
_HF_COMMON = hf_map.COMMON_NAMES | hf_map.POST_NORMS | hf_map.QK_NORMS
_HF_SCALE = {"blocks.{i}.output_scale.weight": _HF_LAYERS + "layer_scalar"}

_GGUF_LAYER_INPUTS = {
    "layer_embedding.weight": gguf_features.LAYER_EMBEDDING,
    "layer_projection.weight": "per_layer_model_proj.weight",
    "layer_projection_norm.weight": "per_layer_proj_norm.weight",
    "blocks.{i}.layer_input.gate.weight": "blk.{i}.inp_gate.weight",
    "blocks.{i}.layer_input.output.weight": "blk.{i}.proj.weight",
    "blocks.{i}.layer_input_norm.weight": "blk.{i}.post_norm.weight",
}
_GGUF_STREAMS = {
    "streams_in.{e}.weight": "altup_proj.weight",
    "streams_out.{e}.weight": "altup_unembd_proj.weight",
    "blocks.{i}.streams.router_norm.weight": "blk.{i}.altup_router_norm.weight",
    "blocks.{i}.streams.router.weight": "blk.{i}.altup_router.weight",
    "blocks.{i}.streams.predict.weight": "blk.{i}.altup_predict_coef.weight",
    "blocks.{i}.streams.correct.weight": "blk.{i}.altup_correct_coef.weight",
    "blocks.{i}.streams.output_scale.weight": "blk.{i}.altup_correct_scale.weight",
    "blocks.{i}.low_rank.left.weight": "blk.{i}.laurel_l.weight",
    "blocks.{i}.low_rank.right.weight": "blk.{i}.laurel_r.weight",
    "blocks.{i}.low_rank_norm.weight": "blk.{i}.laurel_post_norm.weight",
}
_GGUF_EXPERTS = {
    "blocks.{i}.feed_forward_own_norm.weight": "blk.{i}.post_ffw_norm_1.weight",
    "blocks.{i}.experts_norm.weight": "blk.{i}.pre_ffw_norm_2.weight",
    "blocks.{i}.experts_post_norm.weight": "blk.{i}.post_ffw_norm_2.weight",
    "blocks.{i}.experts.router.weight": "blk.{i}.ffn_gate_inp.weight",
    "blocks.{i}.experts.router_scale.weight": "blk.{i}.ffn_gate_inp.scale",
    "blocks.{i}.experts.output_scale.weight": "blk.{i}.ffn_down_exps.scale",
    "blocks.{i}.experts.{e}.gate.weight": "blk.{i}.ffn_gate_up_exps.weight",
    "blocks.{i}.experts.{e}.up.weight": "blk.{i}.ffn_gate_up_exps.weight",
    "blocks.{i}.experts.{e}.down.weight": "blk.{i}.ffn_down_exps.weight",
}
_GGUF_COMMON = gguf_map.COMMON_NAMES | gguf_map.POST_NORMS | gguf_map.QK_NORMS
_GGUF_SCALE = {"blocks.{i}.output_scale.weight": "blk.{i}.layer_output_scale.weight"}

GEMMA3N = Family(
    name="gemma3n",
    traits=Traits(
        activation="gelu_tanh",
        qk_norm=True,
        post_norms=True,
        scaled_embedding=True,
        unscaled=True,
        value_norm=True,
        local=all_but_each(5),
    ),
    gguf=GGUFMap(
        "gemma3n",
        _GGUF_COMMON | _GGUF_LAYER_INPUTS | _GGUF_STREAMS,
        frozenset({"window", "pattern", "logit_cap", "layer_widths"}) | {LAYER_INPUTS, SHARED_KEYS, STREAMS},
        local_rope_base=10_000.0,
    ),
    hf=(
        HFMap(
            "gemma3n_text",
            "Gemma3nForCausalLM",
            _HF_COMMON | _HF_LAYER_INPUTS | _HF_STREAMS,
            frozenset({"window", "logit_cap"}) | {LAYER_INPUTS, SHARED_KEYS, STREAMS},
            _DEFAULTS | _TABLE | _GEMMA3N_DEFAULTS,
            activation_key="hidden_activation",
        ),
    ),
)

_GEMMA4_FEATURES = frozenset({"window", "logit_cap", "rope_kinds", SHARED_KEYS, WIDE_HEADS})

GEMMA4 = Family(
    name="gemma4",
    traits=Traits(
        activation="gelu_tanh",
        qk_norm=True,
        post_norms=True,
        scaled_embedding=True,
        unscaled=True,
        value_norm=True,
        output_scale=True,
        local=all_but_each(6),
    ),
    gguf=GGUFMap(
        "gemma4",
        _GGUF_COMMON | _GGUF_LAYER_INPUTS | _GGUF_EXPERTS | _GGUF_SCALE,
        frozenset({"window", "pattern", "logit_cap", "layer_widths", "layer_heads"})
        | {
            LAYER_INPUTS,
            SHARED_KEYS,
            WIDE_HEADS,
            EXPERTS_BESIDE,
        },
        local_rope_base=10_000.0,
    ),
    hf=(
        HFMap(
            "gemma4_text",
            "Gemma4ForCausalLM",
            _HF_COMMON | _HF_LAYER_INPUTS | _HF_EXPERTS | _HF_SCALE,
            _GEMMA4_FEATURES | {LAYER_INPUTS, EXPERTS_BESIDE},
            _DEFAULTS | _TABLE | _GEMMA4_DEFAULTS,
            activation_key="hidden_activation",
            neutral={"use_bidirectional_attention": "vision"},  # between the parts of one picture
        ),
        HFMap(
            "gemma4_unified_text",
            "Gemma4UnifiedForCausalLM",
            _HF_COMMON | _HF_SCALE,
            _GEMMA4_FEATURES,
            _DEFAULTS | _GEMMA4_DEFAULTS | {"max_position_embeddings": 262_144, "sliding_window": 1024},
            activation_key="hidden_activation",
            neutral={"use_bidirectional_attention": "vision"},
        ),
    ),
)
