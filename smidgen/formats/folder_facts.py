"""What can be known of a folder in Hugging Face layout whose model smidgen does not support: plain facts, torch-free.

Settings have several names among the families that transformers knows; what is not there is None, and what makes no
sense is not shown. Nothing is computed from these facts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smidgen.errors import printable
from smidgen.formats.hf.folder import HFFolder

_LARGEST = 2**31 - 1
_SPELLINGS = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "n_head_kv", "num_kv_heads", "n_kv_heads"),
    "context_length": ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length"),
    "vocabulary": ("vocab_size",),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "experts_used": ("num_experts_per_tok", "num_experts_per_token", "moe_topk"),
    "window": ("sliding_window",),
}
# A part of a tensor's name → its role; the first that is found counts.
_ROLES = {
    "norm": "norms", "ln_": "norms", "vision": "vision", "visual": "vision", "audio": "audio", "lm_head": "head",
    "embed_out": "head", "expert": "experts", "embed": "embedding", "wte": "embedding", "wpe": "embedding",
    "attn": "attention", "attention": "attention", "mixer": "attention", "mlp": "feed-forward", "ffn": "feed-forward",
    "feed_forward": "feed-forward",
}  # fmt: skip
_PACKED = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"})


@dataclass(frozen=True)
class FolderFacts:
    """Facts of a folder; None for those that its settings do not state.

    architecture: its model type.  quantization: how its weights are packed, in words; None for plain ones.
    packed: whether several weights share a stored number, so that nobody can count them without unpacking.
    numbers: by the names of `Summary`'s fields.
    """

    architecture: str
    quantization: str | None
    packed: bool
    numbers: Mapping[str, Any]


def folder_facts(folder: HFFolder) -> FolderFacts:
    """The facts of a folder, from its config.json and the names and types of its tensors."""
    outer = folder.config
    inner = outer.get("text_config")
    settings = {**outer, **inner} if isinstance(inner, Mapping) else outer
    kinds = {tensor.kind.name for tensor in folder.weights.values()}
    quantization = _quantization(outer.get("quantization_config") or settings.get("quantization_config"))
    return FolderFacts(
        architecture=printable(outer.get("model_type", "unknown"), 60),
        quantization=quantization,
        packed=quantization is not None and bool(kinds & _PACKED),
        numbers={fact: _first_number(settings, names) for fact, names in _SPELLINGS.items()},
    )


def role_of(tensor_name: str) -> str:
    """What a tensor is for, guessed from its name."""
    lower = tensor_name.lower()
    return next((role for part, role in _ROLES.items() if part in lower), "other")


def _quantization(settings: Any) -> str | None:
    if not isinstance(settings, Mapping):
        return None
    method, bits = settings.get("quant_method"), settings.get("bits")
    words = [printable(method, 40) if isinstance(method, str) else "of an unknown kind"]
    return ", ".join([*words, f"{bits} bits"] if isinstance(bits, int) and 0 < bits < 64 else words)


def _first_number(settings: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = settings.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST:
            return value
    return None
