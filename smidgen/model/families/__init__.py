"""Model families: maps only (settings, tensor names, row orders), no maths. A module for each group of relatives."""

from collections.abc import Mapping
from typing import Any

from smidgen.errors import BadFile, Unsupported
from smidgen.model.families.family import Family, Transform
from smidgen.model.families.gemma import GEMMA, GEMMA2, GEMMA3
from smidgen.model.families.gemma_nano import GEMMA3N, GEMMA4
from smidgen.model.families.gguf_map import SCALING_TENSORS, Tensors
from smidgen.model.families.hf_map import HFMap
from smidgen.model.families.llama import LLAMA, SMOLLM3
from smidgen.model.families.names import Layout, unread_tensors
from smidgen.model.families.openelm import OPENELM
from smidgen.model.families.phi3 import PHI3
from smidgen.model.families.qwen import QWEN2, QWEN3

__all__ = [
    "FAMILIES",
    "SCALING_TENSORS",
    "Family",
    "HFMap",
    "Layout",
    "Tensors",
    "Transform",
    "family_of_config",
    "family_of_gguf",
    "unread_tensors",
]

FAMILIES = {
    family.name: family
    for family in (GEMMA, GEMMA2, GEMMA3, GEMMA3N, GEMMA4, LLAMA, SMOLLM3, QWEN2, QWEN3, PHI3, OPENELM)
}

#: What newer or larger relatives have that the decoder lacks, by the name that files give them.
_MISSING = {
    "llama4": "chunked attention and its own kind of experts",
    "llama4_text": "chunked attention and its own kind of experts",
    "qwen2moe": "shared experts",
    "qwen2_moe": "shared experts",
    "qwen3moe": "experts beside Mixtral's kind",
    "qwen3_moe": "experts beside Mixtral's kind",
    "qwen3next": "linear attention",
    "qwen3_next": "linear attention",
    "qwen35": "linear attention",
    "phimoe": "sparse mixing of experts and LayerNorm",
    "phi2": "LayerNorm and parallel residuals",
    "phi": "LayerNorm and parallel residuals",
}


def family_of_gguf(architecture: str) -> Family:
    """The family of a GGUF file's `general.architecture`. Raises Unsupported, naming those that exist."""
    for family in FAMILIES.values():
        if family.gguf.architecture == architecture:
            return family
    raise _unsupported(architecture, [family.gguf.architecture for family in FAMILIES.values()])


def family_of_config(config: Mapping[str, Any]) -> tuple[Family, HFMap]:
    """The family and map of a config.json. Raises Unsupported, naming the model types that exist."""
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise BadFile(
            "config.json: model_type is missing, so it is not a model's; get the complete files of this model"
        )
    for family in FAMILIES.values():
        for one in family.hf:
            if one.model_type == kind:
                return family, one
    raise _unsupported(kind, [one.model_type for family in FAMILIES.values() for one in family.hf])


def _unsupported(name: str, known: list[str]) -> Unsupported:
    lacking = f": the decoder has no {_MISSING[name]} yet" if name in _MISSING else ""
    return Unsupported(
        f"architecture {name[:40]!r} is not supported{lacking}; smidgen knows {', '.join(sorted(known))}"
    )
