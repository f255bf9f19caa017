"""What files say about a model, in one vocabulary: the step between config.json or GGUF metadata and `ModelConfig`.

Files state facts about the whole model ("every sixth layer sees everything"), the decoder wants each layer by itself.
`configure` goes from the one to the other and `facts_of` back, the same for all families; what a family adds is in its
`Traits`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from smidgen.errors import BadFile
from smidgen.model.config import Activation, LayerConfig, ModelConfig, Rotary
from smidgen.model.rope_scaling import RopeScaling

#: Optional parts that only some model types and architectures have, by the names that maps have for them.
LAYER_INPUTS = "layer_inputs"  # embeddings per layer
SHARED_KEYS = "shared_keys"  # layers at the end read keys and values of earlier ones
WIDE_HEADS = "wide_heads"  # layers that see everything have heads of another width
EXPERTS_BESIDE = "experts_beside"  # experts beside a feed-forward network
STREAMS = "streams"  # alternating updates, low-rank residuals and sparse activations
_MOST_EXPERTS = 2**14  # in all layers together, several times what any model has


@dataclass(frozen=True)
class Facts:
    """Facts about a whole model.

    heads, kv_heads, ffn_widths: one for each layer.  query_width: scores are divided by its square root.
    local: which layers have the window.  rotates: which layers have rotary positions.
    local_rope_base: base of the layers with a window, where it is another (these are not scaled then).
    local_head_dim: width of a head in layers with a window, where it is another; all of it turns there.
    keys_are_values: in layers that see everything.
    shared: layers at the end that read keys and values of earlier ones.
    output_scale: whether the layers have one, in families that know it.
    sparsity: of each layer's feed-forward network, nothing for none.
    The rest is as in `LayerConfig` and `ModelConfig`.
    """

    layers: int
    hidden: int
    vocabulary: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    head_dim: int
    ffn_widths: tuple[int, ...]
    epsilon: float
    context_length: int
    tied_head: bool
    rope_base: float
    rotary_width: int
    rope_scaling: RopeScaling | None
    query_width: float
    window: int | None
    local: tuple[bool, ...]
    rotates: tuple[bool, ...]
    local_rope_base: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    experts: int = 0
    experts_used: int = 0
    local_head_dim: int | None = None
    keys_are_values: bool = False
    shared: int = 0
    layer_input: int = 0
    layer_input_rows: int = 0
    expert_width: int = 0
    streams: int = 1
    active_stream: int = 0
    low_rank: int = 0
    output_scale: bool = True
    sparsity: tuple[float, ...] = ()


def every_layer(layers: int) -> tuple[bool, ...]:
    """The pattern of a feature that all layers have."""
    return (True,) * layers


def no_layer(layers: int) -> tuple[bool, ...]:
    """The pattern of a feature that no layer has."""
    return (False,) * layers


def all_but_each(period: int) -> Callable[[int], tuple[bool, ...]]:
    """The pattern of a feature that every `period`-th layer lacks, counted from one."""
    return lambda layers: tuple((index + 1) % period != 0 for index in range(layers))


@dataclass(frozen=True)
class Traits:
    """What holds for every model of a family, and is in no file.

    scaled_embedding: embeddings are multiplied by √hidden.
    unscaled: scores are not divided by the square root of a width.
    value_norm, output_scale: as in `LayerConfig`.
    local, rotates: number of layers → the pattern that holds where a file gives none.
    """

    activation: Activation = "silu"
    qk_norm: bool = False
    post_norms: bool = False
    scaled_embedding: bool = False
    unscaled: bool = False
    value_norm: bool = False
    output_scale: bool = False
    local: Callable[[int], tuple[bool, ...]] = every_layer
    rotates: Callable[[int], tuple[bool, ...]] = every_layer


def configure(family: str, traits: Traits, facts: Facts) -> ModelConfig:
    """The configuration. Raises BadFile for facts that contradict each other."""
    _refuse_contradictions(facts)
    lenders = _lenders(facts)
    return ModelConfig(
        family=family,
        vocabulary=facts.vocabulary,
        hidden=facts.hidden,
        layers=tuple(_layer(traits, facts, lenders, index) for index in range(facts.layers)),
        norm_epsilon=facts.epsilon,
        context_length=facts.context_length,
        tied_head=facts.tied_head,
        embedding_scale=facts.hidden**0.5 if traits.scaled_embedding else 1.0,
        logit_cap=facts.logit_cap,
        layer_input_rows=facts.layer_input_rows if facts.layer_input else 0,
    )


def _lenders(facts: Facts) -> dict[int, int]:
    """Layer that borrows keys and values → whose: the last layer of its kind, with a window or without, that has some.

    Raises BadFile where there is none.
    """
    first = facts.layers - facts.shared
    if first < 0:
        raise BadFile(f"{facts.shared} of {facts.layers} layers share keys and values; the file is damaged")
    local = [facts.window is not None and one for one in facts.local]
    lenders = {}
    for layer in range(first, facts.layers):
        own = [other for other in range(first) if local[other] == local[layer]]
        if not own:
            kind = "a window" if local[layer] else "sight of everything"
            raise BadFile(
                f"layer {layer} reads the keys and values of an earlier layer with {kind}, and there is none; "
                "the file is damaged or not a model"
            )
        lenders[layer] = own[-1]
    return lenders


def _refuse_contradictions(facts: Facts) -> None:
    for query, kv in zip(facts.heads, facts.kv_heads, strict=True):
        if query % kv:
            raise BadFile(f"{query} heads do not divide into {kv} key/value heads; the file is damaged or not a model")
    if facts.rotary_width % 2 or facts.rotary_width > facts.head_dim:
        raise BadFile(
            f"{facts.rotary_width} of {facts.head_dim} features of a head turn, but it must be an even number of them; "
            "the file is damaged"
        )
    if facts.experts_used > facts.experts or (facts.experts and not facts.experts_used):
        raise BadFile(f"{facts.experts_used} of {facts.experts} experts should be used; the file is damaged")
    if facts.layers * facts.experts > _MOST_EXPERTS:
        raise BadFile(f"{facts.experts} experts in each of {facts.layers} layers; the file is damaged or not a model")
    if facts.layer_input and not 0 < facts.layer_input_rows <= facts.vocabulary:
        raise BadFile(
            f"the table that each layer looks tokens up in has {facts.layer_input_rows} rows for a vocabulary of "
            f"{facts.vocabulary}; the file is damaged or not a model"
        )
    if not 0 <= facts.active_stream < facts.streams:
        raise BadFile(f"stream {facts.active_stream} of {facts.streams} should be the active one; the file is damaged")
    if facts.sparsity and len(facts.sparsity) != facts.layers:
        raise BadFile(f"{len(facts.sparsity)} layers have a sparsity, of {facts.layers}; the file is damaged")
    if any(not 0 <= share < 1 for share in facts.sparsity):
        raise BadFile("a layer's sparsity should be from 0 to below 1; the file is damaged or not a model")
    if min(facts.rope_base, facts.local_rope_base or facts.rope_base) <= 1:
        raise BadFile("the base of the rotary frequencies should be above 1; the file is damaged or not a model")


def _layer(traits: Traits, facts: Facts, lenders: Mapping[int, int], index: int) -> LayerConfig:
    local = facts.window is not None and facts.local[index]
    base, scaling = facts.rope_base, facts.rope_scaling
    head_dim, turning = facts.head_dim, facts.rotary_width
    if local and facts.local_rope_base is not None:
        base, scaling = facts.local_rope_base, None
    if local and facts.local_head_dim is not None:
        head_dim = turning = facts.local_head_dim
    return LayerConfig(
        heads=facts.heads[index],
        kv_heads=facts.kv_heads[index],
        head_dim=head_dim,
        ffn_width=facts.ffn_widths[index],
        rotary=Rotary(base, turning, scaling) if facts.rotates[index] else None,
        attention_scale=1.0 if traits.unscaled else facts.query_width**-0.5,
        activation=traits.activation,
        window=facts.window if local else None,
        attention_cap=facts.attention_cap,
        qk_norm=traits.qk_norm,
        post_norms=traits.post_norms,
        qkv_bias=facts.qkv_bias,
        output_bias=facts.output_bias,
        experts=facts.experts,
        experts_used=facts.experts_used,
        expert_width=facts.expert_width,
        sparsity=facts.sparsity[index] if facts.sparsity else 0.0,
        value_norm=traits.value_norm,
        keys_are_values=facts.keys_are_values and not local and index not in lenders,
        lends=index if index in lenders.values() else None,
        borrows=lenders.get(index),
        low_rank=facts.low_rank,
        layer_input=facts.layer_input,
        output_scale=traits.output_scale and facts.output_scale,
        streams=facts.streams,
        active_stream=facts.active_stream,
    )


def facts_of(config: ModelConfig) -> Facts:
    """The facts from which `configure` makes this configuration, as far as there are such facts.

    Layers may differ in more than files can say; whoever writes a file reads it back and compares (`Family`).
    """
    layers, first = config.layers, config.layers[0]
    local = tuple(layer.window is not None for layer in layers)
    rotary = [layer.rotary for layer in layers if layer.rotary is not None]
    wide = [layer.rotary for layer in layers if layer.rotary is not None and layer.window is None] or rotary
    near = [layer.rotary for layer in layers if layer.rotary is not None and layer.window is not None]
    differs = bool(near) and (near[0].base, near[0].scaling) != (wide[0].base, wide[0].scaling)
    heads = {layer.window is not None: layer.head_dim for layer in layers}
    head_dim = heads.get(False, first.head_dim)
    local_head_dim = heads.get(True, head_dim)
    return Facts(
        layers=len(layers),
        hidden=config.hidden,
        vocabulary=config.vocabulary,
        heads=tuple(layer.heads for layer in layers),
        kv_heads=tuple(layer.kv_heads for layer in layers),
        head_dim=head_dim,
        ffn_widths=tuple(layer.ffn_width for layer in layers),
        epsilon=config.norm_epsilon,
        context_length=config.context_length,
        tied_head=config.tied_head,
        rope_base=wide[0].base if wide else 10_000.0,
        rotary_width=wide[0].width if wide else head_dim,
        rope_scaling=wide[0].scaling if wide else None,
        query_width=_plain_number(first.attention_scale**-2),
        window=next((layer.window for layer in layers if layer.window is not None), None),
        local=local,
        rotates=tuple(layer.rotary is not None for layer in layers),
        local_rope_base=near[0].base if differs else None,
        attention_cap=first.attention_cap,
        logit_cap=config.logit_cap,
        qkv_bias=first.qkv_bias,
        output_bias=first.output_bias,
        experts=first.experts,
        experts_used=first.experts_used,
        local_head_dim=local_head_dim if local_head_dim != head_dim else None,
        keys_are_values=any(layer.keys_are_values for layer in layers),
        shared=sum(layer.borrows is not None for layer in layers),
        layer_input=first.layer_input,
        layer_input_rows=config.layer_input_rows,
        expert_width=first.expert_width,
        streams=first.streams,
        active_stream=first.active_stream,
        low_rank=first.low_rank,
        output_scale=first.output_scale,
        sparsity=tuple(layer.sparsity for layer in layers) if any(layer.sparsity for layer in layers) else (),
    )


def _plain_number(value: float) -> float:
    """256.0 for 256.00000000000006: widths are whole numbers that went through a square root."""
    return float(round(value)) if abs(value - round(value)) < 1e-6 * value else value
