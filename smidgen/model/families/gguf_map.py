"""A family's GGUF files: metadata ↔ facts, tensor names, and the order of rows there.

Keys are those of the GGUF specification (ggml/docs/gguf.md); what it leaves open (defaults, patterns that no key
states) is as llama.cpp reads it (src/llama-model.cpp and src/models).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smidgen.errors import BadFile, Unsupported
from smidgen.model.config import LayerConfig
from smidgen.model.families import gguf_features
from smidgen.model.families.facts import Facts, Traits
from smidgen.model.families.keys import LARGEST_INT32, Keys
from smidgen.model.families.spelling import Spelling
from smidgen.model.parameters import Shape
from smidgen.model.rope_scaling import (
    STANDING_STILL,
    GivenDivisors,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    RopeScaling,
    YarnScaling,
    recognise_llama3,
    recognise_proportional,
)

ROPE_FREQS, ROPE_SHORT, ROPE_LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
#: Tensors that belong to the configuration: divisors of the rotary frequencies.
SCALING_TENSORS = frozenset({ROPE_FREQS, ROPE_SHORT, ROPE_LONG})
_ATTENTION_FACTOR, _WINDOW = "rope.scaling.attn_factor", "attention.sliding_window"
_ATTENTION_CAP, _LOGIT_CAP = "attn_logit_softcapping", "final_logit_softcapping"

_SPELLING = Spelling(
    layers="block_count",
    hidden="embedding_length",
    heads="attention.head_count",
    kv_heads="attention.head_count_kv",
    ffn_widths="feed_forward_length",
    epsilon="attention.layer_norm_rms_epsilon",
    context_length="context_length",
)

#: llama.cpp's tensor names that most families share (gguf-py's tensor_mapping lists them).
COMMON_NAMES = {
    "embedding.weight": "token_embd.weight",
    "final_norm.weight": "output_norm.weight",
    "head.weight": "output.weight",
    "blocks.{i}.attention_norm.weight": "blk.{i}.attn_norm.weight",
    "blocks.{i}.attention.query.weight": "blk.{i}.attn_q.weight",
    "blocks.{i}.attention.key.weight": "blk.{i}.attn_k.weight",
    "blocks.{i}.attention.value.weight": "blk.{i}.attn_v.weight",
    "blocks.{i}.attention.output.weight": "blk.{i}.attn_output.weight",
    "blocks.{i}.feed_forward_norm.weight": "blk.{i}.ffn_norm.weight",
    "blocks.{i}.feed_forward.gate.weight": "blk.{i}.ffn_gate.weight",
    "blocks.{i}.feed_forward.up.weight": "blk.{i}.ffn_up.weight",
    "blocks.{i}.feed_forward.down.weight": "blk.{i}.ffn_down.weight",
}
BIASES = {
    "blocks.{i}.attention.query.bias": "blk.{i}.attn_q.bias",
    "blocks.{i}.attention.key.bias": "blk.{i}.attn_k.bias",
    "blocks.{i}.attention.value.bias": "blk.{i}.attn_v.bias",
}
OUTPUT_BIAS = {"blocks.{i}.attention.output.bias": "blk.{i}.attn_output.bias"}
QK_NORMS = {
    "blocks.{i}.attention.query_norm.weight": "blk.{i}.attn_q_norm.weight",
    "blocks.{i}.attention.key_norm.weight": "blk.{i}.attn_k_norm.weight",
}
POST_NORMS = {
    "blocks.{i}.attention_post_norm.weight": "blk.{i}.post_attention_norm.weight",
    "blocks.{i}.feed_forward_post_norm.weight": "blk.{i}.post_ffw_norm.weight",
}
EXPERTS = {
    "blocks.{i}.experts.router.weight": "blk.{i}.ffn_gate_inp.weight",
    "blocks.{i}.experts.{e}.gate.weight": "blk.{i}.ffn_gate_exps.weight",
    "blocks.{i}.experts.{e}.up.weight": "blk.{i}.ffn_up_exps.weight",
    "blocks.{i}.experts.{e}.down.weight": "blk.{i}.ffn_down_exps.weight",
}

#: Keys that change nothing in what the decoder computes.
COMMON_IGNORED = frozenset({"tensor_data_layout", "rope.scaling.finetuned", "rope.scaling.original_context_length"})
#: Keys about layers with a window: nothing reads them where no layer has one.
_OF_WINDOWS = frozenset(
    "rope.freq_base_swa rope.dimension_count_swa attention.sliding_window_pattern attention.key_length_swa "
    "attention.value_length_swa".split()
)


@dataclass(frozen=True)
class Tensors:
    """What may be asked about the tensors of a file before it is known to be a model.

    shapes: (rows, columns) by name.  vector: a name → the values of a small float32 vector.
    """

    shapes: Mapping[str, Shape]
    vector: Callable[[str], tuple[float, ...]]


@dataclass(frozen=True)
class GGUFMap:
    """One architecture of GGUF files.

    names: canonical pattern → tensor pattern (`families.names`).
    features: optional parts that the architecture knows: "window", "pattern" (which layers have the window can be
    given), "attention_cap", "logit_cap", "experts", "partial_rotary"; "layer_widths" and "layer_heads" (each layer has
    its own: elsewhere llama.cpp takes those of the first for all, though it reads arrays); "square_queries" (llama.cpp
    wants all heads together to be as wide as the hidden states); and those of `gguf_features`.
    defaults: what holds where a file does not have a key.  local_rope_base: the same, of layers with a window.
    layers_with_wide_query: the number of layers of the one model whose scores are scaled by hidden / heads.
    row_orders: canonical pattern → layer → model row r is file row order[r].
    """

    architecture: str
    names: Mapping[str, str]
    features: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    local_rope_base: float | None = None
    layers_with_wide_query: int | None = None
    row_orders: Mapping[str, Callable[[LayerConfig], np.ndarray]] = field(default_factory=dict)
    ignored: frozenset[str] = COMMON_IGNORED
    neutral: Mapping[str, Any] = field(default_factory=dict)

    # -- metadata → facts --------------------------------------------------------------------------------------------

    def read(self, metadata: Mapping[str, Any], tensors: Tensors, traits: Traits) -> Facts:
        """Raises BadFile for missing, mistyped or absurd values, Unsupported for what the decoder lacks."""
        keys = Keys.of_gguf(metadata, self.architecture)
        common = _SPELLING.read(keys)
        layers, hidden, heads = common["layers"], common["hidden"], common["heads"]
        head_dim = self._head_width(keys, hidden, heads)
        width = keys.integer("rope.dimension_count", head_dim, most=2**14)
        if width != head_dim and "partial_rotary" not in self.features:
            raise Unsupported(f"{keys.where}rope.dimension_count is {width} but heads are {head_dim} wide")
        window, local = self._window(keys, layers, traits)
        experts = "experts" in self.features
        query_width = hidden // heads[0] if layers == self.layers_with_wide_query else head_dim
        facts = Facts(
            **common,
            vocabulary=_vocabulary(keys, metadata, tensors.shapes, self.names["embedding.weight"]),
            head_dim=head_dim,
            tied_head=self.names["head.weight"] not in tensors.shapes,
            rope_base=keys.number("rope.freq_base", 10_000.0),
            rotary_width=width,
            rope_scaling=_read_scaling(keys, tensors, width, common["context_length"]),
            query_width=float(max(1, query_width)),
            window=window,
            local=local,
            rotates=traits.rotates(layers),
            local_rope_base=self.local_rope_base and keys.number("rope.freq_base_swa", self.local_rope_base),
            attention_cap=self._cap(keys, _ATTENTION_CAP) if "attention_cap" in self.features else None,
            logit_cap=self._cap(keys, _LOGIT_CAP) if "logit_cap" in self.features else None,
            qkv_bias=self._has("blocks.{i}.attention.query.bias", tensors),
            output_bias=self._has("blocks.{i}.attention.output.bias", tensors),
            experts=keys.integer("expert_count", 0, least=0, most=1024) if experts else 0,
            experts_used=keys.integer("expert_used_count", 0, least=0, most=1024) if experts else 0,
        )
        facts = gguf_features.completed(keys, self.features, facts, tensors.shapes)
        neutral = {"attention.causal": True, "rope.scaling.yarn_attn_factor": 1.0, **self.neutral}
        if not isinstance(facts.rope_scaling, YarnScaling | LongRopeScaling):
            neutral[_ATTENTION_FACTOR] = 1.0
        keys.refuse_others(neutral)
        keys.refuse_unread(self.ignored if facts.window is not None else self.ignored | _OF_WINDOWS)
        return facts

    def _has(self, pattern: str, tensors: Tensors) -> bool:
        """Whether the first layer of a file has a parameter that the architecture may have."""
        return pattern in self.names and self.names[pattern].replace("{i}", "0") in tensors.shapes

    def _head_width(self, keys: Keys, hidden: int, heads: tuple[int, ...]) -> int:
        if hidden % heads[0] and "attention.key_length" not in keys:
            raise BadFile(
                f"hidden width {hidden} is not divisible by {heads[0]} heads; the file is damaged or not a model"
            )
        width = keys.integer("attention.key_length", max(1, hidden // heads[0]), most=2**14)
        if (values := keys.integer("attention.value_length", width, most=2**14)) != width:
            raise Unsupported(f"{keys.where}attention.value_length is {values} but keys are {width} wide")
        if width % 2:
            raise BadFile(f"heads are {width} wide but rotary embedding needs an even width; the file is damaged")
        return width

    def _window(self, keys: Keys, layers: int, traits: Traits) -> tuple[int | None, tuple[bool, ...]]:
        """The window, and which layers have it."""
        if "window" not in self.features:
            keys.refuse_others({_WINDOW: 0})
            return None, (False,) * layers
        window = keys.integer(_WINDOW, self.defaults.get(_WINDOW, 0), least=0, most=LARGEST_INT32)
        return window or None, self._local(keys, layers, traits) if window else (False,) * layers

    def _local(self, keys: Keys, layers: int, traits: Traits) -> tuple[bool, ...]:
        key = f"{_WINDOW}_pattern"
        if "pattern" not in self.features or (given := keys.value(key)) is None:
            return traits.local(layers)
        if isinstance(given, (np.ndarray, list)):
            return keys.flags(key, layers) or ()
        period = keys.integer(key, least=0, most=LARGEST_INT32)
        return tuple(period == 0 or index % period < period - 1 for index in range(layers))

    def _cap(self, keys: Keys, key: str) -> float | None:
        return keys.number(key, self.defaults.get(key, 0.0), zero=True) or None

    # -- facts → metadata --------------------------------------------------------------------------------------------

    def write(self, facts: Facts) -> dict[str, Any]:
        """The metadata, without the tokenizer's; ints are uint32, floats float32, lists arrays of them.

        Raises Unsupported for layers that llama.cpp would take for other ones.
        """
        self._refuse_layers_not_read(facts)
        values: dict[str, Any] = {
            **_SPELLING.write(facts, _one_or_all),
            "attention.key_length": facts.head_dim,
            "attention.value_length": facts.head_dim,
            "rope.dimension_count": facts.rotary_width,
            "rope.freq_base": facts.rope_base,
            "vocab_size": facts.vocabulary,
        }
        values |= _write_scaling(facts.rope_scaling)
        if facts.window is not None:
            values[_WINDOW] = facts.window
            if "pattern" in self.features:
                values[f"{_WINDOW}_pattern"] = list(facts.local)
        optional = {
            "rope.freq_base_swa": facts.local_rope_base,
            _ATTENTION_CAP: facts.attention_cap,
            _LOGIT_CAP: facts.logit_cap,
        }
        values |= {key: value for key, value in optional.items() if value is not None}
        if facts.experts:
            values |= {"expert_count": facts.experts, "expert_used_count": facts.experts_used}
        values |= gguf_features.written(self.features, facts)
        return {f"{self.architecture}.{key}": value for key, value in values.items()}

    def _refuse_layers_not_read(self, facts: Facts) -> None:
        for feature, key, values in (
            ("layer_widths", _SPELLING.ffn_widths, facts.ffn_widths),
            ("layer_heads", _SPELLING.heads, facts.heads),
            ("layer_heads", _SPELLING.kv_heads, facts.kv_heads),
        ):
            if feature not in self.features and len(set(values)) > 1:
                found = ", ".join(map(str, sorted(set(values))))
                raise Unsupported(
                    f"llama.cpp reads one {key} for all layers of {self.architecture}, these have {found}; "
                    "give every layer the same"
                )
        if "square_queries" in self.features and facts.heads[0] * facts.head_dim != facts.hidden:
            raise Unsupported(
                f"llama.cpp wants all heads of {self.architecture} together as wide as the hidden states, but these "
                f"are {facts.heads[0]} times {facts.head_dim} for {facts.hidden}; prune heads and hidden width alike, "
                "or neither"
            )

    def extra_tensors(self, facts: Facts) -> dict[str, np.ndarray]:
        """Float32 vectors that belong to the configuration but are stored as tensors."""
        match facts.rope_scaling:
            case LongRopeScaling(short, long):
                return {ROPE_LONG: np.array(long, np.float32), ROPE_SHORT: np.array(short, np.float32)}
            case Llama3Scaling() | GivenDivisors() | ProportionalScaling():
                divisors = facts.rope_scaling.divisors(facts.rope_base, facts.rotary_width, 0)
                return {ROPE_FREQS: np.array(divisors, np.float32).clip(max=STANDING_STILL)}
        return {}


def _one_or_all(values: tuple[int, ...]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else list(values)


def _read_scaling(keys: Keys, tensors: Tensors, width: int, context: int) -> RopeScaling | None:
    if ROPE_FREQS in tensors.shapes:
        divisors = _divisors(tensors, ROPE_FREQS, width)
        base = keys.number("rope.freq_base", 10_000.0)
        known = recognise_proportional(divisors) or recognise_llama3(divisors, base, width)
        return known or GivenDivisors(divisors)
    kind = keys.text("rope.scaling.type", "linear")
    original = keys.integer("rope.scaling.original_context_length", context, most=LARGEST_INT32)
    if ROPE_SHORT in tensors.shapes or ROPE_LONG in tensors.shapes:
        short, long = (_divisors(tensors, name, width) for name in (ROPE_SHORT, ROPE_LONG))
        return LongRopeScaling(short, long, original, keys.number(_ATTENTION_FACTOR, 1.0))
    old_key = keys.number("rope.scale_linear", 0.0, zero=True)
    factor = keys.number("rope.scaling.factor", old_key, zero=True)
    if kind == "none" or not factor:
        return None
    if kind == "linear":
        return LinearScaling(factor) if factor != 1 else None
    if kind == "yarn":
        fast, slow = keys.number("rope.scaling.yarn_beta_fast", 32.0), keys.number("rope.scaling.yarn_beta_slow", 1.0)
        plain = YarnScaling(factor, original, fast, slow)
        # The file's factor comes on top of the paper's.
        given = keys.number(_ATTENTION_FACTOR, 1.0)
        return plain if given == 1 else YarnScaling(factor, original, fast, slow, given * plain.magnitude)
    raise Unsupported(f"rope scaling {kind[:40]!r}: smidgen knows none, linear, yarn and longrope; use another model")


def _divisors(tensors: Tensors, name: str, width: int) -> tuple[float, ...]:
    if name not in tensors.shapes:
        raise BadFile(f"tensor {name} is missing; get the complete files of this model")
    values = tensors.vector(name)
    if len(values) != width // 2 or not all(np.isfinite(values)) or min(values) <= 0:
        raise BadFile(f"tensor {name} should hold {width // 2} finite numbers above zero; the file is damaged")
    return values


def _write_scaling(scaling: RopeScaling | None) -> dict[str, Any]:
    match scaling:
        case LinearScaling(factor):
            return {"rope.scaling.type": "linear", "rope.scaling.factor": factor}
        case YarnScaling(factor, original, attention_factor=attention_factor):
            # The betas stay out: llama.cpp takes 32 and 1 whatever the file says, so others cannot be written.
            values = {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": factor,
                "rope.scaling.original_context_length": original,
            }
            if attention_factor is not None:
                values[_ATTENTION_FACTOR] = attention_factor / YarnScaling(factor, original).magnitude
            return values
        case LongRopeScaling(original_context=original, attention_factor=factor):
            return {"rope.scaling.original_context_length": original, _ATTENTION_FACTOR: factor}
    return {}


def _vocabulary(keys: Keys, metadata: Mapping[str, Any], shapes: Mapping[str, Shape], embedding: str) -> int:
    """Rows of the embedding, which the tokenizer's list and the key `vocab_size` must agree with."""
    if len(shapes.get(embedding, ())) != 2:
        raise BadFile(f"the file has no matrix {embedding}; get a complete GGUF of this model")
    rows = shapes[embedding][0]
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is not None and not isinstance(tokens, list):
        raise BadFile("tokenizer.ggml.tokens should be a list of texts; the file is damaged")
    if tokens is not None and len(tokens) != rows:
        raise BadFile(f"{embedding} has {rows} rows but the tokenizer lists {len(tokens)} tokens; the file is damaged")
    if keys.integer("vocab_size", rows, most=2**31) != rows:
        raise BadFile(f"{embedding} has {rows} rows but {keys.where}vocab_size differs; the file is damaged")
    return rows
