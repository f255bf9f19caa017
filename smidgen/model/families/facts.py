"""What files say about a model, in one vocabulary: the step between config.json or GGUF metadata and `ModelConfig`.

Files state facts about the whole model ("every sixth layer sees everything"), the decoder wants each layer by itself.
`configure` goes from the one to the other and `facts_of` back, the same for all families; what a family adds is in its
`Traits`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from smidgen.errors import BadFile
from smidgen.model.config import Activation, LayerConfig, ModelConfig, Rotary
from smidgen.model.rope_scaling import RopeScaling

_MOST_EXPERTS = 2**14  # in all layers together, several times what any model has


@dataclass(frozen=True)
class Facts:
    """Facts about a whole model.

    heads, kv_heads, ffn_widths: one for each layer.  query_width: scores are divided by its square root.
    local: which layers have the window.  rotates: which layers have rotary positions.
    local_rope_base: base of the layers with a window, where it is another (these are not scaled then).
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
    local, rotates: number of layers → the pattern that holds where a file gives none.
    """

    activation: Activation = "silu"
    qk_norm: bool = False
    post_norms: bool = False
    scaled_embedding: bool = False
    local: Callable[[int], tuple[bool, ...]] = every_layer
    rotates: Callable[[int], tuple[bool, ...]] = every_layer


def configure(family: str, traits: Traits, facts: Facts) -> ModelConfig:
    """The configuration. Raises BadFile for facts that contradict each other."""
    _refuse_contradictions(facts)
    return ModelConfig(
        family=family,
        vocabulary=facts.vocabulary,
        hidden=facts.hidden,
        layers=tuple(_layer(traits, facts, index) for index in range(facts.layers)),
        norm_epsilon=facts.epsilon,
        context_length=facts.context_length,
        tied_head=facts.tied_head,
        embedding_scale=facts.hidden**0.5 if traits.scaled_embedding else 1.0,
        logit_cap=facts.logit_cap,
    )


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
    if min(facts.rope_base, facts.local_rope_base or facts.rope_base) <= 1:
        raise BadFile("the base of the rotary frequencies should be above 1; the file is damaged or not a model")


def _layer(traits: Traits, facts: Facts, index: int) -> LayerConfig:
    local = facts.window is not None and facts.local[index]
    base, scaling = facts.rope_base, facts.rope_scaling
    if local and facts.local_rope_base is not None:
        base, scaling = facts.local_rope_base, None
    return LayerConfig(
        heads=facts.heads[index],
        kv_heads=facts.kv_heads[index],
        head_dim=facts.head_dim,
        ffn_width=facts.ffn_widths[index],
        rotary=Rotary(base, facts.rotary_width, scaling) if facts.rotates[index] else None,
        attention_scale=facts.query_width**-0.5,
        activation=traits.activation,
        window=facts.window if local else None,
        attention_cap=facts.attention_cap,
        qk_norm=traits.qk_norm,
        post_norms=traits.post_norms,
        qkv_bias=facts.qkv_bias,
        output_bias=facts.output_bias,
        experts=facts.experts,
        experts_used=facts.experts_used,
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
    differs = bool(near) and near[0] != wide[0]
    return Facts(
        layers=len(layers),
        hidden=config.hidden,
        vocabulary=config.vocabulary,
        heads=tuple(layer.heads for layer in layers),
        kv_heads=tuple(layer.kv_heads for layer in layers),
        head_dim=first.head_dim,
        ffn_widths=tuple(layer.ffn_width for layer in layers),
        epsilon=config.norm_epsilon,
        context_length=config.context_length,
        tied_head=config.tied_head,
        rope_base=wide[0].base if wide else 10_000.0,
        rotary_width=wide[0].width if wide else first.head_dim,
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
    )


def _plain_number(value: float) -> float:
    """256.0 for 256.00000000000006: widths are whole numbers that went through a square root."""
    return float(round(value)) if abs(value - round(value)) < 1e-6 * value else value
