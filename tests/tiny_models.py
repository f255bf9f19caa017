"""Tiny random models with every feature turned up, as decoders and as GGUF files that llama.cpp loads.

Files are written with the `gguf` package and with the converter's own row order, independently of what they test.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from smidgen.model.config import LayerConfig, ModelConfig, Rotary
from smidgen.model.decoder import Decoder
from smidgen.model.rope_scaling import LinearScaling

VOCABULARY = 300
WINDOW = 7
_WIDE = LayerConfig(6, 2, 16, 96, Rotary(1e6, 16, LinearScaling(8.0)), 0.25, "gelu_tanh", qk_norm=True, post_norms=True)
_LOCAL = replace(_WIDE, rotary=Rotary(1e4, 16), window=WINDOW)

GEMMA3_CONFIG = ModelConfig(
    "gemma3", VOCABULARY, 64, (_LOCAL, _LOCAL, _WIDE, _LOCAL, _LOCAL), float(np.float32(1e-6)), 4096, True, 8.0, 3.0
)
GEMMA3_KEYS: dict[str, Any] = {
    "context_length": 4096,
    "embedding_length": 64,
    "block_count": 5,
    "feed_forward_length": 96,
    "attention.head_count": 6,
    "attention.head_count_kv": 2,
    "attention.key_length": 16,
    "attention.value_length": 16,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.sliding_window": WINDOW,
    "attention.sliding_window_pattern": 3,
    "rope.freq_base": 1e6,
    "rope.scaling.type": "linear",
    "rope.scaling.factor": 8.0,
    "final_logit_softcapping": 3.0,
}

LLAMA_CONFIG = ModelConfig(
    "llama", VOCABULARY, 64, (LayerConfig(4, 2, 16, 96, Rotary(5e3, 16, LinearScaling(4.0)), 0.25, "silu"),) * 3,
    float(np.float32(1e-5)), 4096, False,
)  # fmt: skip
LLAMA_KEYS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "context_length": 4096,
    "embedding_length": 64,
    "block_count": 3,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.dimension_count": 16,
    "rope.freq_base": 5e3,
    "rope.scaling.type": "linear",
    "rope.scaling.factor": 4.0,
}

_NAMES = {
    "embedding": "token_embd", "final_norm": "output_norm", "head": "output", "attention_norm": "attn_norm",
    "attention.query": "attn_q", "attention.key": "attn_k", "attention.value": "attn_v",
    "attention.output": "attn_output", "attention.query_norm": "attn_q_norm", "attention.key_norm": "attn_k_norm",
    "attention_post_norm": "post_attention_norm", "feed_forward_norm": "ffn_norm", "feed_forward.gate": "ffn_gate",
    "feed_forward.up": "ffn_up", "feed_forward.down": "ffn_down", "feed_forward_post_norm": "post_ffw_norm",
}  # fmt: skip


def random_decoder(config: ModelConfig, seed: int = 0) -> Decoder:
    """Weights that keep the residual stream of order one and make attention sharp, so that mistakes show."""
    decoder, generator = Decoder(config), torch.Generator().manual_seed(seed)
    for name, parameter in decoder.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        strength = 3.0 if "query" in name or "key" in name else 1.0
        parameter.data = 1 + 0.3 * noise if parameter.dim() == 1 else noise * strength * parameter.shape[1] ** -0.5
    return decoder


def gguf_tensors(decoder: Decoder) -> dict[str, np.ndarray]:
    """The weights under llama.cpp's names, Llama's query and key rows in llama.cpp's order."""
    tensors = {}
    for name, weight in decoder.state_dict().items():
        parts = name.removesuffix(".weight").split(".", 2)
        if parts[0] != "blocks":
            tensors[f"{_NAMES[parts[0]]}.weight"] = weight.numpy()
            continue
        array, layer = weight.numpy(), decoder.config.layers[int(parts[1])]
        if decoder.config.family == "llama" and parts[2] in ("attention.query", "attention.key"):
            heads = layer.heads if parts[2] == "attention.query" else layer.kv_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        tensors[f"blk.{parts[1]}.{_NAMES[parts[2]]}.weight"] = array
    return tensors


def write_model(
    path: Path, architecture: str, keys: dict[str, Any], tensors: dict[str, np.ndarray],
    tokens: list[str] | None = None, others: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """A float32 GGUF with a SentencePiece-like vocabulary: the given tokens, else a small one of bytes and letters.

    keys: the architecture's settings.  others: more metadata, by whole keys.
    """
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        _add(writer, f"{architecture}.{key}", value)
    for key, value in (others or {}).items():
        _add(writer, key, value)
    if tokens is None:
        pieces = [f"<0x{byte:02X}>" for byte in range(256)] + [chr(0x4E00 + i) for i in range(VOCABULARY - 261)] + ["▁"]
        tokens = ["<pad>", "</s>", "<s>", "<unk>", *pieces]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types([3, 3, 3, 2, *[6 if token.startswith("<0x") else 1 for token in tokens[4:]]])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_gemma3(path: Path, others: Mapping[str, Any] | None = None) -> Path:
    return write_model(path, "gemma3", GEMMA3_KEYS, gguf_tensors(random_decoder(GEMMA3_CONFIG)), others=others)


def write_llama(path: Path) -> Path:
    return write_model(path, "llama", LLAMA_KEYS, gguf_tensors(random_decoder(LLAMA_CONFIG)))


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
