"""Optional parts of models that only some configuration classes know: config.json ↔ facts.

Gemma 3n's and Gemma 4's, by the feature of `HFMap` that names them. The keys are those of transformers' classes.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from smidgen.errors import BadFile, Unsupported
from smidgen.model.families.facts import EXPERTS_BESIDE, LAYER_INPUTS, SHARED_KEYS, STREAMS, WIDE_HEADS, Facts
from smidgen.model.families.keys import Keys


def completed(keys: Keys, features: Collection[str], facts: Facts) -> Facts:
    """The facts with what these features add. Raises BadFile and Unsupported as `HFMap.read`."""
    for feature, (read, _) in _FEATURES.items():
        if feature in features:
            facts = read(keys, facts)
    return facts


def written(features: Collection[str], facts: Facts) -> dict[str, Any]:
    """The keys of these features."""
    values: dict[str, Any] = {}
    for feature, (_, write) in _FEATURES.items():
        if feature in features:
            values |= write(facts)
    return values


def _read_layer_inputs(keys: Keys, facts: Facts) -> Facts:
    width = keys.integer("hidden_size_per_layer_input", least=0, most=2**14)
    rows = keys.integer("vocab_size_per_layer_input", most=2**31)
    return replace(facts, layer_input=width, layer_input_rows=rows if width else 0)


def _write_layer_inputs(facts: Facts) -> dict[str, Any]:
    rows = facts.layer_input_rows or facts.vocabulary
    return {"hidden_size_per_layer_input": facts.layer_input, "vocab_size_per_layer_input": rows}


def _read_shared(keys: Keys, facts: Facts) -> Facts:
    shared = keys.integer("num_kv_shared_layers", 0, least=0)
    widths = facts.ffn_widths
    if keys.flag("use_double_wide_mlp", False):
        first = facts.layers - shared
        widths = tuple(2 * width if layer >= first else width for layer, width in enumerate(widths))
    return replace(facts, shared=shared, ffn_widths=widths)


def _write_shared(facts: Facts) -> dict[str, Any]:
    doubled = bool(facts.shared) and facts.ffn_widths[-1] == 2 * facts.ffn_widths[0]
    values: dict[str, Any] = {"num_kv_shared_layers": facts.shared}
    return {**values, "use_double_wide_mlp": True} if doubled else values


def _read_wide_heads(keys: Keys, facts: Facts) -> Facts:
    """`head_dim` and `num_key_value_heads` are those of layers with a window. Of the others they are said in two ways:
    by keys of their own, or layer by layer."""
    if facts.window is not None and facts.local[-1]:
        raise Unsupported(
            "config.json: the last layer has a window, and transformers would take it for one that sees everything; "
            "leave a layer that does at the end"
        )
    keys_are_values = keys.flag("attention_k_eq_v", False)
    width, groups = keys.integer("global_head_dim", 512, most=2**14), None
    own = keys.optional_integer("num_global_key_value_heads", most=2**14)
    if keys_are_values:  # else transformers does not look at it
        groups = own
    kinds = [facts.window is not None and local for local in facts.local]
    if (given := keys.nested("per_layer_config")) is not None:
        width, groups = _layer_by_layer(given, kinds, facts.head_dim)
    heads = tuple(kv if local or groups is None else groups for local, kv in zip(kinds, facts.kv_heads, strict=True))
    return replace(
        facts,
        head_dim=width,
        rotary_width=width,
        local_head_dim=facts.head_dim if facts.head_dim != width else None,
        kv_heads=heads,
        keys_are_values=keys_are_values,
    )


def _layer_by_layer(given: Keys, kinds: list[bool], usual: int) -> tuple[int, int | None]:
    """Width and key heads of the layers without a window, from a table of layers that differ."""
    found: set[tuple[int, int | None]] = set()
    for layer, local in enumerate(kinds):
        one = given.nested(str(layer))
        width = usual if one is None else one.optional_integer("head_dim", most=2**14) or usual
        groups = None if one is None else one.optional_integer("num_key_value_heads", most=2**14)
        if one is not None:
            one.refuse_unread(frozenset())
        if not local:
            found.add((width, groups))
        elif (width, groups) != (usual, None):
            raise Unsupported(f"{given.where}{layer}: layers with a window are all alike in smidgen")
    given.refuse_unread(frozenset())
    if len(found) != 1:
        raise Unsupported(f"{given.where[:-1]}: layers without a window are all alike in smidgen")
    return found.pop()


def _write_wide_heads(facts: Facts) -> dict[str, Any]:
    near = next((kv for kv, local in zip(facts.kv_heads, facts.local, strict=True) if local), facts.kv_heads[0])
    far = next((kv for kv, local in zip(facts.kv_heads, facts.local, strict=True) if not local), near)
    values: dict[str, Any] = {
        "head_dim": facts.local_head_dim or facts.head_dim,
        "global_head_dim": facts.head_dim,
        "num_key_value_heads": near,
        "attention_k_eq_v": facts.keys_are_values,
    }
    return {**values, "num_global_key_value_heads": far} if far != near else values


def _read_experts(keys: Keys, facts: Facts) -> Facts:
    names = ("num_experts", "top_k_experts", "moe_intermediate_size")
    if not keys.flag("enable_moe_block", False):
        for name in names:
            keys.value(name)
        return facts
    experts, used, width = (keys.integer(name, most=2**20) for name in names)
    return replace(facts, experts=experts, experts_used=used, expert_width=width)


def _write_experts(facts: Facts) -> dict[str, Any]:
    if not facts.experts:
        return {"enable_moe_block": False}
    return {
        "enable_moe_block": True,
        "num_experts": facts.experts,
        "top_k_experts": facts.experts_used,
        "moe_intermediate_size": facts.expert_width,
    }


def _read_streams(keys: Keys, facts: Facts) -> Facts:
    keys.refuse_others({"altup_correct_scale": True})
    keys.value("altup_coef_clip")  # bounds weights while Google trains them, and nothing in what is published
    streams = keys.integer("altup_num_inputs", most=16)
    if streams < 2:
        raise BadFile("config.json: altup_num_inputs is 1, and alternating updates need two; the file is damaged")
    return replace(
        facts,
        streams=streams,
        active_stream=keys.integer("altup_active_idx", least=0, most=15),
        low_rank=keys.integer("laurel_rank", most=2**14),
        sparsity=_sparsity(keys, facts.layers),
    )


def _sparsity(keys: Keys, layers: int) -> tuple[float, ...]:
    """Where nothing is said, the first ten layers of more than ten have one, as in transformers."""
    given = keys.value("activation_sparsity_pattern")
    if given is None:
        return (0.95,) * 10 + (0.0,) * (layers - 10) if layers > 10 else ()
    if isinstance(given, (int, float)):
        given = [given] * layers
    if not isinstance(given, list) or len(given) != layers or not all(_is_share(one) for one in given):
        raise keys.wrong("activation_sparsity_pattern", f"{layers} shares, one for each layer")
    return tuple(float(one) for one in given) if any(given) else ()


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


def _write_streams(facts: Facts) -> dict[str, Any]:
    widths = facts.ffn_widths
    return {
        "altup_num_inputs": facts.streams,
        "altup_active_idx": facts.active_stream,
        "altup_correct_scale": True,
        "laurel_rank": facts.low_rank,
        "activation_sparsity_pattern": list(facts.sparsity or (0.0,) * facts.layers),
        "intermediate_size": widths[0] if len(set(widths)) == 1 else list(widths),
    }


_FEATURES: Mapping[str, tuple[Callable[[Keys, Facts], Facts], Callable[[Facts], dict[str, Any]]]] = {
    LAYER_INPUTS: (_read_layer_inputs, _write_layer_inputs),
    SHARED_KEYS: (_read_shared, _write_shared),
    WIDE_HEADS: (_read_wide_heads, _write_wide_heads),
    EXPERTS_BESIDE: (_read_experts, _write_experts),
    STREAMS: (_read_streams, _write_streams),
}
