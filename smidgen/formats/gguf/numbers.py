"""Are the numbers in a header, and the kinds of its tensors, such that llama.cpp survives them? Torch-free.

llama.cpp ends its process over many a number that makes no sense (src/llama-model.cpp, src/models). What is checked
here holds for every architecture, or for those that are named; the architectures of smidgen's own decoder are checked
once more, number by number, where they are read (model/families).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from smidgen.errors import BadFile, Unsupported, printable
from smidgen.formats.gguf.reader import TensorInfo
from smidgen.numerics.block_types import F32

_MOST_LAYERS = 512  # of llama.cpp, LLAMA_MAX_LAYERS
_MOST_EXPERTS = 1024  # of llama.cpp, LLAMA_MAX_EXPERTS
_LONGEST_CONTEXT = 2**31 - 1  # llama.cpp counts positions in 32 bits
_WIDEST, _WIDEST_HEAD = 2**20, 2**16
_WINDOW, _PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
_SCALINGS = ("none", "linear", "yarn", "longrope")
#: Architectures whose graph in llama.cpp wants keys as wide as values …
_EQUAL_HEADS = frozenset(
    "afmoe apertus arcee arctic baichuan bailingmoe2 bitnet bloom chameleon chatglm codeshell cogvlm cohere2 "
    "cohere2moe command-r dbrx deci deepseek dots1 dream ernie4_5 ernie4_5-moe exaone falcon glm4 glm4moe gpt2 "
    "gptneox granite granite_swa granitehybrid granitemoe grok grovemoe hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 "
    "internlm2 jais jais2 laguna llada llada-moe llama llama4 maincoder mellum minicpm minimax-01 minimax-m2 "
    "minimax-m3 mistral3 mpt nanbeige nemotron nemotron_h nemotron_h_moe olmo olmo2 olmoe openelm orion paddleocr "
    "pangu-embedded phi2 phi3 phimoe plamo qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next "
    "qwen3vl qwen3vlmoe refact rnd1 seed_oss smallthinker smollm3 stablelm starcoder starcoder2 xverse".split()
)
#: … and those that want all of each head to turn.
_WHOLE_ROTARY = frozenset(
    "apertus arcee arctic baichuan chameleon codeshell cogvlm cohere2moe dbrx deci deepseek dots1 dream ernie4_5 "
    "ernie4_5-moe exaone exaone-moe exaone4 falcon granite granite_swa granitemoe grok grovemoe hunyuan-dense "
    "hunyuan-moe hunyuan_vl hy_v3 internlm2 jais2 llada llada-moe llama llama4 maincoder mellum minicpm mistral3 "
    "olmo olmo2 olmoe orion paddleocr pangu-embedded plamo qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe "
    "rnd1 seed_oss smallthinker smollm3 starcoder2 xverse".split()
)
#: … and those that turn some of it. (Of the first, a few have no rotary positions, or not in all layers.)
_ROTARY = (_EQUAL_HEADS | _WHOLE_ROTARY | {"gemma", "gemma2", "gemma3"}) - frozenset(
    "bloom gpt2 granitehybrid jais minimax-01 mpt nemotron_h nemotron_h_moe refact starcoder".split()
)
_MIXTURES = frozenset("bailingmoe2 glm4moe grovemoe lfm2moe llada-moe smallthinker".split())  # never without experts
_NOT_MULTIPLIED = frozenset({"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"})
_ONE_EXPERT_IS_NONE = frozenset({"hunyuan-dense", "hunyuan_vl"})
_ENCODERS = frozenset({"t5", "t5encoder", "wavtokenizer-dec"})
_KINDS = {
    "adapter": "is an adapter, not a model; give it with --lora beside its model",
    "mmproj": "is the part of a model that sees pictures or hears (mmproj); give the language model's own file",
    "imatrix": "is an importance matrix for quantizing, not a model; give the model's own file",
}


def refuse_other_kinds(metadata: Mapping[str, Any]) -> None:
    """Raises Unsupported for files of llama.cpp that are no language model, and for models that write no text."""
    architecture, kind = (str(metadata.get(f"general.{key}")) for key in ("architecture", "type"))
    if architecture == "clip":
        kind = "mmproj"
    if kind in _KINDS:
        raise Unsupported(_KINDS[kind])
    if metadata.get(f"{architecture}.attention.causal") is False or architecture in _ENCODERS:
        raise Unsupported(
            f"a model of {printable(architecture, 40)} does not write one token after the other (an encoder, or one "
            "that fills gaps); smidgen runs models that do"
        )


def check_numbers(metadata: Mapping[str, Any], architecture: str) -> None:
    """Raises BadFile for numbers that no model has."""
    numbers = _Numbers(metadata, architecture)
    layers = numbers.whole("block_count", 1, _MOST_LAYERS)
    numbers.whole("context_length", 1, _LONGEST_CONTEXT)
    hidden = numbers.whole("embedding_length", 1, _WIDEST)
    numbers.whole("embedding_length_out", 1, _WIDEST)
    if layers is not None:
        numbers.whole("nextn_predict_layers", 0, layers - 1)
    for key in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "rope.freq_base"):
        numbers.finite(key)
    scaling = numbers.value("rope.scaling.type")
    if isinstance(scaling, str) and scaling not in _SCALINGS:
        raise numbers.absurd("rope.scaling.type", f"one of {', '.join(_SCALINGS)}")
    _check_window(numbers)
    _check_heads(numbers, hidden)
    _check_experts(numbers)


def check_tensors(tensors: Mapping[str, TensorInfo]) -> None:
    """Raises BadFile for weights of a type that llama.cpp cannot compute with where they stand.

    It multiplies with matrices of most types, but adds and scales with float32 alone. Whole numbers may stand in tables
    (`tid2eid`: the experts of a token), and under names that are no weight's.
    """
    for name, info in tensors.items():
        if not name.endswith((".weight", ".bias")) or "tid2eid" in name:
            continue
        vector = len(info.shape) == 1 or "_norm." in name or name.endswith(".bias")
        if vector and info.kind is not F32:
            wrong = "but biases, norms and other vectors must be F32"
        elif info.kind.name in _NOT_MULTIPLIED:
            wrong = "which nothing multiplies with"
        else:
            continue
        raise BadFile(f"tensor {printable(name)} is stored as {info.kind.name}, {wrong}; convert the model again")


def _check_window(numbers: "_Numbers") -> None:
    """Where a window is given, some layer must have it: by a flag for each, or all but every n-th."""
    window, pattern = numbers.value(_WINDOW), numbers.value(_PATTERN)
    if not (window.any() if isinstance(window, np.ndarray) else window):
        return
    if pattern.any() if isinstance(pattern, np.ndarray) else pattern != 1:
        return
    raise numbers.absurd(_PATTERN, "a pattern in which some layer has the window")


def _check_heads(numbers: "_Numbers", hidden: int | None) -> None:
    heads = numbers.each("attention.head_count", 0, 2**16)
    groups = numbers.each("attention.head_count_kv", 0, 2**16)
    layers = max(len(heads), len(groups))
    for layer in range(layers if heads and groups else 0):
        # One number is for all layers.
        count, shared = heads[min(layer, len(heads) - 1)], groups[min(layer, len(groups) - 1)]
        if count and shared and count % shared:
            raise numbers.absurd("attention.head_count_kv", f"a divisor of the {count} heads")
    if not heads or not heads[0] or hidden is None:
        return
    if not (usual := hidden // heads[0]) and numbers.value("attention.key_length") is None:
        raise numbers.absurd("attention.head_count", f"at most the hidden width {hidden}")
    key = value = usual
    turning: int | None = None
    for some in ("", "_swa"):  # all, and then those with a window, where they have other widths
        key = numbers.whole(f"attention.key_length{some}", 1, _WIDEST_HEAD) or key
        value = numbers.whole(f"attention.value_length{some}", 1, _WIDEST_HEAD) or value
        if numbers.architecture in _EQUAL_HEADS and key != value:
            raise numbers.absurd(f"attention.value_length{some}", f"the width of keys, {key}")
        rotary = f"rope.dimension_count{some}"
        given = numbers.whole(rotary, 2 if numbers.architecture in _ROTARY else 0, key)
        turning = turning if given is None else given
        if turning is not None and turning % 2:
            raise numbers.absurd(rotary, "even")
        if turning is not None and (turning > key or (numbers.architecture in _WHOLE_ROTARY and turning != key)):
            raise numbers.absurd(rotary, f"the width of heads, {key}, or less where not all of a head turns")


def _check_experts(numbers: "_Numbers") -> None:
    count = numbers.whole("expert_count", 0, _MOST_EXPERTS) or 0
    if numbers.architecture in _ONE_EXPERT_IS_NONE and count <= 1:
        return
    if not count and numbers.architecture in _MIXTURES:
        raise numbers.absurd("expert_count", f"from 1 to {_MOST_EXPERTS}")
    used = max(numbers.each("expert_used_count", 0, count), default=0)
    if count and not used:
        raise numbers.absurd("expert_used_count", f"from 1 to {count}")
    groups = numbers.whole("expert_group_count", 0, max(0, count - 1)) or 0
    if groups > 1:
        if count % groups:
            raise numbers.absurd("expert_group_count", f"a divisor of {count} experts")
        if not numbers.whole("expert_group_used_count", 1, groups - 1):
            raise numbers.absurd("expert_group_used_count", f"from 1 to {groups - 1}")


class _Numbers:
    """The numbers of one architecture, each with its bounds. llama.cpp itself refuses those of another type."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        self.architecture = architecture
        self._metadata = metadata

    def value(self, key: str) -> Any:
        return self._metadata.get(f"{self.architecture}.{key}")

    def whole(self, key: str, least: int, most: int) -> int | None:
        """One number within bounds; None where the file has none, or one for each layer."""
        value = self.value(key)
        if value is None or isinstance(value, np.ndarray):
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.absurd(key, f"an integer from {least} to {most}")
        return value

    def each(self, key: str, least: int, most: int) -> list[int]:
        """The one number for all layers, or one for each; empty where the file has none."""
        value = self.value(key)
        if not isinstance(value, np.ndarray):
            one = self.whole(key, least, most)
            return [] if one is None else [one]
        found = value.tolist()
        if not all(isinstance(one, int) and least <= one <= most for one in found):
            raise self.absurd(key, f"integers from {least} to {most}")
        return found

    def finite(self, key: str) -> None:
        value = self.value(key)
        if value is not None and not (isinstance(value, float) and math.isfinite(value) and value >= 0):
            raise self.absurd(key, "a finite number")

    def absurd(self, key: str, wanted: str) -> BadFile:
        shown, key = printable(repr(self.value(key)), 60), printable(f"{self.architecture}.{key}")
        return BadFile(f"metadata {key} should be {wanted}, found {shown}; the file is damaged or not a model")
