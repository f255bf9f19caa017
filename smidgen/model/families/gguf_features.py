"""Optional parts of models that only some architectures of GGUF files know: metadata ↔ facts.

Gemma 3n's and Gemma 4's, by the feature of `GGUFMap` that names them. Keys and what holds where one is missing are as
llama.cpp reads them (src/models/gemma3n.cpp and gemma4.cpp).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np

from smidgen.errors import Unsupported
from smidgen.model.families.facts import EXPERTS_BESIDE, LAYER_INPUTS, SHARED_KEYS, STREAMS, WIDE_HEADS, Facts
from smidgen.model.families.keys import Keys
from smidgen.model.parameters import Shape

LAYER_EMBEDDING = "per_layer_token_embd.weight"
_SCALE, _EXPERTS_APART = "blk.0.layer_output_scale.weight", "blk.0.ffn_gate_exps.weight"
_VALUES, _LOW_RANK = "blk.{i}.attn_v.weight", "blk.0.laurel_l.weight"
_NO_FILE = "so no GGUF file can be made of it, only a folder (export --to hf)"
_WIDTH_NEAR = ("attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa")

Shapes = Mapping[str, Shape]


def completed(keys: Keys, features: Collection[str], facts: Facts, shapes: Shapes) -> Facts:
    """The facts with what these features add. Raises BadFile and Unsupported as `GGUFMap.read`."""
    for feature, (read, _) in _FEATURES.items():
        if feature in features:
            facts = read(keys, facts, shapes)
    return facts


def written(features: Collection[str], facts: Facts) -> dict[str, Any]:
    """The keys of these features."""
    values: dict[str, Any] = {}
    for feature, (_, write) in _FEATURES.items():
        if feature in features:
            values |= write(facts)
    return values


def _read_layer_inputs(keys: Keys, facts: Facts, shapes: Shapes) -> Facts:
    width = keys.integer("embedding_length_per_layer_input", 0, least=0, most=2**14)
    rows = shapes.get(LAYER_EMBEDDING, (0,))[0]
    return replace(facts, layer_input=width, layer_input_rows=rows if width else 0)


def _write_layer_inputs(facts: Facts) -> dict[str, Any]:
    if facts.layer_input_rows not in (0, facts.vocabulary):
        raise Unsupported(
            f"llama.cpp wants a row for each of {facts.vocabulary} tokens in the table of the layers, and it has "
            f"{facts.layer_input_rows}; {_NO_FILE}"
        )
    return {"embedding_length_per_layer_input": facts.layer_input}


def _read_shared(keys: Keys, facts: Facts, shapes: Shapes) -> Facts:
    return replace(facts, shared=keys.integer("attention.shared_kv_layers", 0, least=0))


def _write_shared(facts: Facts) -> dict[str, Any]:
    """llama.cpp takes the last layer but one that has keys for the one with a window, and the last for the other."""
    first = facts.layers - facts.shared
    if facts.shared and facts.local[max(0, first - 2) : first] != (True, False):
        raise Unsupported(
            "llama.cpp reads the keys and values of the last two layers that have some, one with a window before one "
            f"without; layers {first - 2} and {first - 1} are not so; {_NO_FILE}"
        )
    return {"attention.shared_kv_layers": facts.shared}


def _read_wide_heads(keys: Keys, facts: Facts, shapes: Shapes) -> Facts:
    near = [keys.integer(key, facts.head_dim, most=2**14) for key in _WIDTH_NEAR]
    if len(set(near)) > 1:
        raise Unsupported(f"{keys.where}{', '.join(_WIDTH_NEAR)} are {near}; smidgen knows heads of one width")
    first = facts.layers - facts.shared
    own = [layer for layer in range(first) if not (facts.window is not None and facts.local[layer])]
    missing = {_VALUES.replace("{i}", str(layer)) not in shapes for layer in own}
    return replace(
        facts,
        local_head_dim=near[0] if near[0] != facts.head_dim else None,
        output_scale=_SCALE in shapes,
        keys_are_values=missing == {True},
    )


def _write_wide_heads(facts: Facts) -> dict[str, Any]:
    return dict.fromkeys(_WIDTH_NEAR, facts.local_head_dim or facts.head_dim)


def _read_experts(keys: Keys, facts: Facts, shapes: Shapes) -> Facts:
    if _EXPERTS_APART in shapes:
        raise Unsupported(
            "gate and up of its experts are tensors of their own, which smidgen does not read; convert it again"
        )
    experts = keys.integer("expert_count", 0, least=0, most=1024)
    used = keys.integer("expert_used_count", 0, least=0, most=1024)
    width = keys.integer("expert_feed_forward_length", 0, least=0)
    return replace(facts, experts=experts, experts_used=used, expert_width=width if experts else 0)


def _write_experts(facts: Facts) -> dict[str, Any]:
    return {"expert_feed_forward_length": facts.expert_width} if facts.experts else {}


def _read_streams(keys: Keys, facts: Facts, shapes: Shapes) -> Facts:
    bounds = keys.value("activation_sparsity_scale")
    if isinstance(bounds, (np.ndarray, list)) and len(bounds) == facts.layers:
        shares = tuple(round(NormalDist().cdf(float(bound)), 6) for bound in bounds)
    elif bounds is None:
        shares = ()
    else:
        raise keys.wrong("activation_sparsity_scale", f"{facts.layers} numbers, one for each layer")
    return replace(
        facts,
        streams=keys.integer("altup.num_inputs", most=16),
        active_stream=keys.integer("altup.active_idx", least=0, most=15),
        low_rank=shapes.get(_LOW_RANK, (0,))[0],
        sparsity=shares if any(shares) else (),
    )


def _write_streams(facts: Facts) -> dict[str, Any]:
    if facts.shared:
        raise Unsupported(
            "llama.cpp wants matrices for keys and values in all layers of Gemma 3n, also in those that read keys and "
            f"values of others, which smidgen does not write yet; {_NO_FILE}"
        )
    if facts.streams != 4 or facts.active_stream != 0:
        raise Unsupported(f"llama.cpp knows four residual streams, of which the first is active; {_NO_FILE}")
    if facts.sparsity != (0.95,) * 10 + (0.0,) * (facts.layers - 10):
        raise Unsupported(f"llama.cpp keeps a twentieth of the gates in the first ten layers, always; {_NO_FILE}")
    if facts.layers - facts.shared != 20:
        raise Unsupported(f"llama.cpp's Gemma 3n shares keys and values from layer 20 on, always; {_NO_FILE}")
    return {
        "altup.num_inputs": facts.streams,
        "altup.active_idx": facts.active_stream,
        "activation_sparsity_scale": [NormalDist().inv_cdf(share) if share else -1e30 for share in facts.sparsity],
    }


_FEATURES: Mapping[str, tuple[Callable[[Keys, Facts, Shapes], Facts], Callable[[Facts], dict[str, Any]]]] = {
    LAYER_INPUTS: (_read_layer_inputs, _write_layer_inputs),
    SHARED_KEYS: (_read_shared, _write_shared),
    WIDE_HEADS: (_read_wide_heads, _write_wide_heads),
    EXPERTS_BESIDE: (_read_experts, _write_experts),
    STREAMS: (_read_streams, _write_streams),
}
