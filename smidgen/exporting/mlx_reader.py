"""What mlx-lm makes of a config.json: which settings it reads, and which it passes over.

mlx-lm (https://github.com/ml-explore/mlx-lm, 0.32, `mlx_lm/models/`) takes the keys that its classes know and drops the
others without a word. So a model whose windows, caps or positions are in a key that its class lacks would run, and
predict something else. Here each class is a function from the settings to what it takes them for; that is read as any
config.json is, and has to be the model.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from smidgen.errors import SmidgenError, Unsupported
from smidgen.model.config import LayerConfig, ModelConfig
from smidgen.model.families import Family
from smidgen.model.families.family import refuse_misreading

Settings = dict[str, Any]
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
#: No window, in the words of every model type.
_WINDOW_OFF = {"sliding_window": None, "use_sliding_window": False, "layer_types": None}


def mlx_settings(family: Family, config: ModelConfig) -> Settings:
    """What config.json says for mlx-lm beside what it says for transformers.

    Raises Unsupported, naming the first field, where mlx-lm would take the model for another.
    """
    written = family.hf_map(config)
    settings = family.to_hf(config)
    if written.model_type not in _CLASSES:
        raise Unsupported(f"mlx-lm has no class for {written.model_type}; write the model with --to hf or gguf.")
    more = _positions(settings)
    if written.model_type == "gemma3_text":
        more |= {"sliding_window_pattern": _period([kind == _LOCAL for kind in settings["layer_types"]])}
    where = f"config.json for mlx-lm ({written.model_type})"
    try:
        found = family.config_from_hf(_CLASSES[written.model_type](settings | more), written)
    except SmidgenError as error:
        raise Unsupported(f"{where} cannot run this model ({error}); write another format") from error
    refuse_misreading(_without_idle_windows(config), _without_idle_windows(found), where)
    return more


def _without_idle_windows(config: ModelConfig) -> ModelConfig:
    """The same model within its context, where a window at least as long hides nothing."""

    def without(layer: LayerConfig) -> LayerConfig:
        idle = layer.window is not None and layer.window >= config.context_length
        return replace(layer, window=None) if idle else layer

    return replace(config, layers=tuple(without(layer) for layer in config.layers))


def _period(local: list[bool]) -> int:
    """mlx-lm's Gemma 3 has one layer without a window in so many, counted from the first; it needs one at least."""
    for period in range(1, len(local) + 1):
        if local == [(index + 1) % period != 0 for index in range(len(local))]:
            return period
    found = ", ".join(str(index + 1) for index, is_local in enumerate(local) if not is_local) or "none"
    raise Unsupported(
        f"mlx-lm's Gemma 3 has its layers without a window at even distances; here they are layers {found} of "
        f"{len(local)}. Write the model with --to gguf or hf."
    )


def _positions(settings: Settings) -> Settings:
    """Scaled positions with all the keys that one or another class of mlx-lm looks for."""
    scaling = settings.get("rope_scaling")
    if scaling is None:
        return {}
    scaling = {**scaling, "type": scaling["rope_type"]}
    if "original_max_position_embeddings" in settings:
        scaling["original_max_position_embeddings"] = settings["original_max_position_embeddings"]
    return {"rope_scaling": scaling}


# -- its classes: settings → what it takes them for --------------------------------------------------------------------


def _gemma(settings: Settings) -> Settings:
    return settings | {"rope_scaling": None, "tie_word_embeddings": True}


def _gemma2(settings: Settings) -> Settings:
    """Caps are always applied; the window never is."""
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    used = {key: settings[key] or usual for key, usual in caps.items()}
    return _gemma(settings) | _no_window(settings) | used


def _gemma3(settings: Settings) -> Settings:
    layers, period = settings["num_hidden_layers"], settings["sliding_window_pattern"]
    kinds = [_GLOBAL if (index + 1) % period == 0 else _LOCAL for index in range(layers)]
    taken = _scaled(settings) | {"layer_types": kinds, "attn_logit_softcapping": None, "final_logit_softcapping": None}
    if _LOCAL in kinds and "rope_local_base_freq" not in settings:
        taken |= {"rope_local_base_freq": 10_000.0}
    return taken


def _llama(settings: Settings) -> Settings:
    """A window only in layers that `layer_types` names, and never in all of them: its class looks for one without."""
    kinds = settings.get("layer_types") or []
    return _scaled(settings) | ({} if _GLOBAL in kinds else _no_window(settings))


def _qwen2(settings: Settings) -> Settings:
    """Heads always share the hidden width."""
    return _scaled(settings) | _no_window(settings) | {"head_dim": None}


def _qwen3(settings: Settings) -> Settings:
    return _scaled(settings) | _no_window(settings)


def _mixtral(settings: Settings) -> Settings:
    return settings | _no_window(settings) | {"head_dim": None, "rope_scaling": None}


def _phi3(settings: Settings) -> Settings:
    kind = (settings.get("rope_scaling") or {}).get("type")
    taken = _scaled(settings) | _no_window(settings) | {"head_dim": None}
    return taken if kind in ("longrope", "linear") else taken | {"rope_scaling": None}


def _openelm(settings: Settings) -> Settings:
    return settings


_CLASSES: Mapping[str, Callable[[Settings], Settings]] = {
    "gemma": _gemma, "gemma2": _gemma2, "gemma3_text": _gemma3, "llama": _llama, "mistral": _llama,
    "smollm3": _llama, "mixtral": _mixtral, "qwen2": _qwen2, "qwen3": _qwen3, "phi3": _phi3, "openelm": _openelm,
}  # fmt: skip


def _no_window(settings: Settings) -> Settings:
    return {key: off for key, off in _WINDOW_OFF.items() if key in settings}


def _scaled(settings: Settings) -> Settings:
    """Positions as `initialize_rope` scales them: LongRoPE as for long texts, YaRN by the paper's factor."""
    scaling = settings.get("rope_scaling")
    if scaling is None:
        return settings
    if scaling["rope_type"] == "yarn":
        return settings | {"rope_scaling": {key: value for key, value in scaling.items() if key != "attention_factor"}}
    if scaling["rope_type"] == "longrope":
        original = scaling["original_max_position_embeddings"]
        stretch = settings["max_position_embeddings"] / original
        factor = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
        longest = {"short_factor": scaling["long_factor"], "attention_factor": factor}
        return settings | {"rope_scaling": {**scaling, **longest}}
    return settings
