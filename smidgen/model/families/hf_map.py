"""A family's folders in Hugging Face layout: config.json ↔ facts, and tensor names.

The keys and their defaults are those of transformers' configuration classes (one `model_type` each); rotary settings
are read in the old spelling (rope_theta, rope_scaling) and in the one of transformers 5 (rope_parameters), and written
in the old one, which every reader understands.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smidgen.errors import BadFile, Unsupported
from smidgen.model.families import hf_features
from smidgen.model.families.facts import LAYER_INPUTS, Facts, Traits, every_layer
from smidgen.model.families.keys import LARGEST_INT32, Keys, short
from smidgen.model.families.spelling import Spelling
from smidgen.model.rope_scaling import (
    GivenDivisors,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    RopeScaling,
    YarnScaling,
)

_SPELLING = Spelling(
    layers="num_hidden_layers",
    hidden="hidden_size",
    heads="num_attention_heads",
    kv_heads="num_key_value_heads",
    ffn_widths="intermediate_size",
    epsilon="rms_norm_eps",
    context_length="max_position_embeddings",
)

COMMON_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
    "blocks.{i}.attention_norm.weight": "model.layers.{i}.input_layernorm.weight",
    "blocks.{i}.attention.query.weight": "model.layers.{i}.self_attn.q_proj.weight",
    "blocks.{i}.attention.key.weight": "model.layers.{i}.self_attn.k_proj.weight",
    "blocks.{i}.attention.value.weight": "model.layers.{i}.self_attn.v_proj.weight",
    "blocks.{i}.attention.output.weight": "model.layers.{i}.self_attn.o_proj.weight",
    "blocks.{i}.feed_forward_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
    "blocks.{i}.feed_forward.gate.weight": "model.layers.{i}.mlp.gate_proj.weight",
    "blocks.{i}.feed_forward.up.weight": "model.layers.{i}.mlp.up_proj.weight",
    "blocks.{i}.feed_forward.down.weight": "model.layers.{i}.mlp.down_proj.weight",
}
BIASES = {
    "blocks.{i}.attention.query.bias": "model.layers.{i}.self_attn.q_proj.bias",
    "blocks.{i}.attention.key.bias": "model.layers.{i}.self_attn.k_proj.bias",
    "blocks.{i}.attention.value.bias": "model.layers.{i}.self_attn.v_proj.bias",
}
OUTPUT_BIAS = {"blocks.{i}.attention.output.bias": "model.layers.{i}.self_attn.o_proj.bias"}
QK_NORMS = {
    "blocks.{i}.attention.query_norm.weight": "model.layers.{i}.self_attn.q_norm.weight",
    "blocks.{i}.attention.key_norm.weight": "model.layers.{i}.self_attn.k_norm.weight",
}
#: Where norms stand before and after: the common name of the norm between means another one here.
POST_NORMS = {
    "blocks.{i}.attention_post_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
    "blocks.{i}.feed_forward_norm.weight": "model.layers.{i}.pre_feedforward_layernorm.weight",
    "blocks.{i}.feed_forward_post_norm.weight": "model.layers.{i}.post_feedforward_layernorm.weight",
}
EXPERTS = {
    "blocks.{i}.experts.router.weight": "model.layers.{i}.block_sparse_moe.gate.weight",
    "blocks.{i}.experts.{e}.gate.weight": "model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight",
    "blocks.{i}.experts.{e}.up.weight": "model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight",
    "blocks.{i}.experts.{e}.down.weight": "model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight",
}

#: Keys that change nothing in what the decoder computes: bookkeeping, training, and token ids (the tokenizer has them).
IGNORED = frozenset(
    "_name_or_path architectures auto_map torch_dtype dtype transformers_version use_cache initializer_range "
    "attention_dropout resid_pdrop embd_pdrop hidden_dropout pretraining_tp output_attentions output_hidden_states "
    "return_dict chunk_size_feed_forward is_encoder_decoder id2label label2id problem_type bos_token_id eos_token_id "
    "pad_token_id unk_token_id model_type _attn_implementation attn_implementation _flash_attn_2_enabled "
    "router_aux_loss_coef output_router_logits router_jitter_noise cache_implementation _sliding_window_pattern "
    "sliding_window_pattern max_window_layers no_rope_layer_interval unsloth_fixed unsloth_version "
    "original_max_position_embeddings license bad_words_ids is_llama_config transformers.js_config".split()
)
#: What libraries write into every configuration that they save (transformers' PretrainedConfig and its older versions:
#: how texts are drawn, heads for other tasks, where a model ran) and what trainers leave of themselves. None of it
#: changes what a decoder predicts.
_OF_LIBRARIES = frozenset(
    "_attn_implementation_autoset _attn_implementation_internal _commit_hash tokenizer_class num_labels torchscript "
    "use_bfloat16 tf_legacy_loss pruned_heads tie_encoder_decoder add_cross_attention cross_attention_hidden_size "
    "is_decoder finetuning_task prefix task_specific_params begin_suppress_tokens suppress_tokens "
    "decoder_start_token_id sep_token_id max_length min_length do_sample early_stopping num_beams num_beam_groups "
    "diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size num_return_sequences output_scores return_dict_in_generate forced_bos_token_id "
    "forced_eos_token_id remove_invalid_values exponential_decay_length_penalty classifier_dropout "
    "gradient_checkpointing use_flash_attn model_max_length tokenizer_model_max_length tokenizer_padding_side "
    "generation_config base_model_tp_plan base_model_pp_plan".split()
)
#: Keys of features that the decoder lacks, with the value that leaves them off.
_NEUTRAL = {
    "mlp_bias": False,
    "lm_head_bias": False,
    "use_bidirectional_attention": False,
    "rope_interleaved": False,
    "use_mrope": False,
    "full_attn_mod": 1,
    "interpolate_factor": 1,
}
_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


@dataclass(frozen=True)
class HFMap:
    """One `model_type` of config.json.

    model_type, architecture: what config.json says.  names: canonical pattern → tensor pattern (`families.names`).
    features: optional parts that its configuration class knows: "window" (all or some layers), "switched_window"
    (only with use_sliding_window), "caps" or "logit_cap" alone, "query_width", "experts", "partial_rotary",
    "attention_bias", "nope", "rope_kinds" (rotary settings by kind of layer), and those of `hf_features`.
    defaults: what the configuration class takes for keys that a file leaves out.
    qkv_bias: whether queries, keys and values always have a bias.
    norm_offset: what the model adds to the stored weights of its norms (Gemma's are stored around 0).
    activation_key: where the activation is named.
    """

    model_type: str
    architecture: str
    names: Mapping[str, str]
    features: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    qkv_bias: bool = False
    norm_offset: float = 0.0
    activation_key: str = "hidden_act"
    neutral: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, facts: Facts) -> bool:
        """Whether this model type has all the optional parts that a model needs."""
        needs = {"experts": facts.experts > 0 and not facts.expert_width, "window": facts.window is not None}
        if LAYER_INPUTS in self.features and facts.shared and not facts.layer_input:
            return False  # transformers' class for such models fails where nothing is looked up
        return all(not needed or feature in self.features for feature, needed in needs.items())

    # -- config.json → facts -----------------------------------------------------------------------------------------

    def read(self, config: Mapping[str, Any], traits: Traits) -> Facts:
        """Raises BadFile for missing, mistyped or absurd values, Unsupported for what the decoder lacks."""
        keys = Keys({**self.defaults, **config}, "config.json: ")
        _refuse_quantized(keys)
        common = _SPELLING.read(keys)
        layers = common["layers"]
        head_dim = keys.optional_integer("head_dim", most=2**14) or max(1, common["hidden"] // common["heads"][0])
        rope = _read_rope(keys, head_dim, common["context_length"], "partial_rotary" in self.features)
        window, local = self._window(keys, layers, traits)
        bias = keys.flag("attention_bias", False) if "attention_bias" in self.features else False
        experts = "experts" in self.features
        self._check_activation(keys, traits)
        facts = Facts(
            **common,
            vocabulary=keys.integer("vocab_size", most=2**31),
            head_dim=head_dim,
            tied_head=keys.flag("tie_word_embeddings", False),
            query_width=keys.number("query_pre_attn_scalar") if "query_width" in self.features else float(head_dim),
            window=window,
            local=local,
            rotates=self._rotates(keys, layers, traits),
            attention_cap=self._cap(keys, "attn_logit_softcapping"),
            logit_cap=self._cap(keys, "final_logit_softcapping"),
            qkv_bias=self.qkv_bias or bias,
            output_bias=bias,
            experts=keys.integer("num_local_experts", most=1024) if experts else 0,
            experts_used=keys.integer("num_experts_per_tok", most=1024) if experts else 0,
            **rope,
        )
        facts = hf_features.completed(keys, self.features, facts)
        keys.refuse_others({**_NEUTRAL, **self.neutral})
        if "attention_bias" not in self.features:
            keys.refuse_others({"attention_bias": False})
        if "rope_kinds" in self.features:  # transformers would not look at these
            keys.refuse_others({"rope_scaling": {}, "rope_theta": None, "rope_local_base_freq": None})
        for key in (key for key in _CAPS if not self._caps(key)):
            keys.refuse_others({key: 0})
        keys.refuse_unread(IGNORED | _OF_LIBRARIES)
        return facts

    def _check_activation(self, keys: Keys, traits: Traits) -> None:
        named, old = keys.value(self.activation_key), keys.value("hidden_act")
        if named is None:  # Gemma's first files have the old key alone, and say "gelu" where they mean the other
            named = "gelu_pytorch_tanh" if old == "gelu" else old
        if named is not None and (not isinstance(named, str) or _ACTIVATIONS.get(named) != traits.activation):
            shown = short(named)
            raise Unsupported(
                f"config.json: {self.activation_key} is {shown}; smidgen's {self.model_type} does {traits.activation}"
            )

    def _window(self, keys: Keys, layers: int, traits: Traits) -> tuple[int | None, tuple[bool, ...]]:
        """The window, and which layers have it."""
        kinds = keys.texts("layer_types", layers)
        window = keys.optional_integer("sliding_window", least=0) or None
        if not self.features & {"window", "switched_window"}:
            if window is not None:
                raise Unsupported(f"config.json: sliding_window is {window}; a {self.model_type} model has none")
            return None, (False,) * layers
        if "switched_window" in self.features and not keys.flag("use_sliding_window", False):
            window = None
        if window is None:
            return None, (False,) * layers
        if kinds is None and "nope" in self.features:  # only layers without positions have it
            return window, tuple(not rotates for rotates in self._rotates(keys, layers, traits))
        return window, self._local(keys, layers, kinds, traits)

    def _local(self, keys: Keys, layers: int, kinds: tuple[str, ...] | None, traits: Traits) -> tuple[bool, ...]:
        if kinds is not None:
            known = ("sliding_attention", "full_attention")
            if unknown := next((kind for kind in kinds if kind not in known), None):
                raise Unsupported(f"config.json: layer_types has {unknown[:40]!r}; smidgen knows {', '.join(known)}")
            return tuple(kind == "sliding_attention" for kind in kinds)
        if "switched_window" in self.features:
            first = keys.integer("max_window_layers", 0, least=0)
            return tuple(index >= first for index in range(layers))
        for key in ("sliding_window_pattern", "_sliding_window_pattern"):
            if (period := keys.optional_integer(key)) is not None:
                return tuple((index + 1) % period != 0 for index in range(layers))
        return traits.local(layers)

    def _rotates(self, keys: Keys, layers: int, traits: Traits) -> tuple[bool, ...]:
        if "nope" not in self.features:
            return traits.rotates(layers)
        given = keys.flags("no_rope_layers", layers)  # 1 for layers *with* rotary positions, for all its name
        if given is not None:
            return given
        period = keys.optional_integer("no_rope_layer_interval")
        return traits.rotates(layers) if period is None else tuple((i + 1) % period != 0 for i in range(layers))

    def _cap(self, keys: Keys, key: str) -> float | None:
        return (keys.optional_number(key, zero=True) or None) if self._caps(key) else None

    def _caps(self, key: str) -> bool:
        return "caps" in self.features or ("logit_cap" in self.features and key == _CAPS[1])

    # -- facts → config.json -----------------------------------------------------------------------------------------

    def write(self, facts: Facts, traits: Traits) -> dict[str, Any]:
        """What config.json says about the architecture; token ids and dtype are for others to add."""
        values: dict[str, Any] = {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            **_SPELLING.write(facts, lambda each: each[0]),  # read again: unlike layers are refused
            "vocab_size": facts.vocabulary,
            "head_dim": facts.head_dim,
            "tie_word_embeddings": facts.tied_head,
            self.activation_key: "gelu_pytorch_tanh" if traits.activation == "gelu_tanh" else traits.activation,
        }
        values |= _write_rope_kinds(facts) if "rope_kinds" in self.features else _write_rope(facts)
        if self.features & {"window", "switched_window"}:
            switched = "switched_window" in self.features
            alternates = not switched and traits.local is not every_layer
            # Classes whose layers alternate want a window even where no layer is left that has it.
            values["sliding_window"] = facts.window or (self.defaults["sliding_window"] if alternates else None)
            if switched:
                values["use_sliding_window"] = facts.window is not None
            if switched or alternates or facts.local != every_layer(facts.layers):
                names = {True: "sliding_attention", False: "full_attention"}
                values["layer_types"] = [names[local] for local in facts.local]
        values |= {
            key: cap for key, cap in zip(_CAPS, (facts.attention_cap, facts.logit_cap), strict=True) if self._caps(key)
        }
        if "query_width" in self.features:
            whole = facts.query_width == int(facts.query_width)
            values["query_pre_attn_scalar"] = int(facts.query_width) if whole else facts.query_width
        if "attention_bias" in self.features:
            values["attention_bias"] = facts.output_bias
        if "nope" in self.features:
            values["no_rope_layers"] = [int(rotates) for rotates in facts.rotates]
        if "experts" in self.features:
            values |= {"num_local_experts": facts.experts, "num_experts_per_tok": facts.experts_used}
        values |= hf_features.written(self.features, facts)
        return {key: _tidy(value) for key, value in values.items()}


def _tidy(value: Any) -> Any:
    """Numbers that came through float32 as people write them: 1e-06 for 9.999999974752427e-07."""
    if isinstance(value, dict):
        return {key: _tidy(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_tidy(one) for one in value]
    if isinstance(value, float) and float(np.float32(value)) == value:
        return float(str(np.float32(value)))
    return value


def _refuse_quantized(keys: Keys) -> None:
    settings = keys.value("quantization_config") or keys.value("quantization")  # the second is MLX's
    if settings:
        named = settings if isinstance(settings, Mapping) else {}
        method = named.get("quant_method") or named.get("mode") or "unknown"
        raise Unsupported(
            f"the weights are already quantized ({str(method)[:40]}); take the repository with the original weights"
        )


def _read_rope(keys: Keys, head_dim: int, context: int, partial: bool) -> dict[str, Any]:
    """The facts about rotary positions: rope_base, rotary_width, rope_scaling, local_rope_base."""
    base, share = keys.optional_number("rope_theta"), keys.optional_number("partial_rotary_factor")
    local_base = keys.optional_number("rope_local_base_freq")
    settings = keys.nested("rope_scaling") or keys.nested("rope_parameters")
    keys.value("rope_parameters")  # transformers, too, takes the old spelling where both are there
    if settings is not None and "full_attention" in settings:
        kinds, near, settings = settings, settings.nested("sliding_attention"), settings.nested("full_attention")
        if near is not None:
            local_base = near.number("rope_theta")
            if near.text("rope_type", "default") != "default":
                raise Unsupported(f"{near.where}rope_type: layers with a window are not scaled in smidgen")
            near.refuse_unread(frozenset())
        kinds.refuse_unread(frozenset())
    if settings is not None:
        base = settings.optional_number("rope_theta") or base
        share = settings.optional_number("partial_rotary_factor") or share
    width = int(head_dim * (share or 1.0)) if partial else head_dim
    if not 0 < width <= head_dim:
        raise BadFile(f"config.json: partial_rotary_factor is {share}, no share of a head; the file is damaged")
    proportional = settings is not None and settings.value("rope_type") == "proportional"
    if not partial and not proportional and share not in (None, 1.0):
        raise Unsupported(f"config.json: partial_rotary_factor is {share}; models of this type turn whole heads")
    base = 10_000.0 if base is None else base
    return {
        "rope_base": base,
        "rotary_width": width,
        "rope_scaling": None if settings is None else _read_scaling(keys, settings, width, context, share),
        "local_rope_base": local_base if local_base != base else None,
    }


def _read_scaling(keys: Keys, settings: Keys, width: int, context: int, share: float | None) -> RopeScaling | None:
    kind = settings.text("rope_type", settings.value("type") or "default")
    settings.value("type")
    inner = settings.optional_integer("original_max_position_embeddings")
    original = keys.optional_integer("original_max_position_embeddings") or inner or context
    match kind:
        case "default":
            scaling = None
        case "proportional":
            scaling = ProportionalScaling(share) if share not in (None, 1.0) else None
        case "linear":
            factor = settings.number("factor")
            scaling = LinearScaling(factor) if factor != 1 else None
        case "llama3":
            low, high = settings.number("low_freq_factor"), settings.number("high_freq_factor")
            if low >= high:
                raise settings.wrong("low_freq_factor", f"a number below high_freq_factor, {high}")
            scaling = Llama3Scaling(settings.number("factor"), low, high, original)
        case "yarn" if "long_factor" not in settings:
            settings.refuse_others({"truncate": True})
            scaling = YarnScaling(
                settings.optional_number("factor") or context / original,
                original,
                settings.number("beta_fast", 32.0),
                settings.number("beta_slow", 1.0),
                settings.optional_number("attention_factor"),
            )
        case "longrope" | "su" | "yarn":
            if original < 2:
                raise settings.wrong("original_max_position_embeddings", "more than one position")
            factor = settings.optional_number("factor") or context / original
            usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
            short, long = settings.numbers("short_factor", width // 2), settings.numbers("long_factor", width // 2)
            given = settings.optional_number("attention_factor")
            scaling = LongRopeScaling(short, long, original, usual if given is None else given)
        case _:
            raise Unsupported(
                f"{settings.where}rope_type is {kind[:40]!r}; smidgen knows linear, llama3, yarn and longrope"
            )
    settings.refuse_unread(frozenset())
    return scaling


def _write_rope(facts: Facts) -> dict[str, Any]:
    values: dict[str, Any] = {"rope_theta": facts.rope_base}
    if facts.rotary_width != facts.head_dim:
        values["partial_rotary_factor"] = facts.rotary_width / facts.head_dim
    if facts.local_rope_base is not None:
        values["rope_local_base_freq"] = facts.local_rope_base
    if (scaling := _scaling_table(facts.rope_scaling)) is not None:
        values["rope_scaling"] = scaling
    if isinstance(facts.rope_scaling, LongRopeScaling):
        values["original_max_position_embeddings"] = facts.rope_scaling.original_context
    return values


def _write_rope_kinds(facts: Facts) -> dict[str, Any]:
    """In the spelling of transformers 5, where layers with a window and others have settings of their own."""
    wide: dict[str, Any] = {"rope_type": "default"}
    if isinstance(facts.rope_scaling, ProportionalScaling):
        wide = {"rope_type": "proportional", "partial_rotary_factor": facts.rope_scaling.share}
    elif (scaling := _scaling_table(facts.rope_scaling)) is not None:
        wide = scaling
    near = {"rope_type": "default", "rope_theta": facts.local_rope_base or facts.rope_base}
    return {
        "rope_parameters": {"full_attention": wide | {"rope_theta": facts.rope_base}, "sliding_attention": near},
    }


def _scaling_table(scaling: RopeScaling | None) -> dict[str, Any] | None:
    match scaling:
        case None | ProportionalScaling():
            return None
        case LinearScaling(factor):
            return {"rope_type": "linear", "factor": factor}
        case Llama3Scaling(factor, low, high, original):
            table = {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high}
            return {**table, "original_max_position_embeddings": original}
        case YarnScaling(factor, original, fast, slow, attention_factor):
            table = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
            table |= {"beta_fast": fast, "beta_slow": slow}
            return table if attention_factor is None else {**table, "attention_factor": attention_factor}
        case LongRopeScaling(short, long, _, attention_factor):
            table = {"rope_type": "longrope", "short_factor": list(short), "long_factor": list(long)}
            return {**table, "attention_factor": attention_factor}
        case GivenDivisors(values):
            # No kind says "these divisors"; longrope with the same ones for short and long texts does.
            table = {"rope_type": "longrope", "short_factor": list(values), "long_factor": list(values)}
            return {**table, "attention_factor": 1.0, "original_max_position_embeddings": LARGEST_INT32}
