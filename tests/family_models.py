"""One tiny random model for each family of the README's table, made by transformers, with every feature turned up.

Windows are shorter than the texts, weights large enough for soft caps to bite, more than one group of queries, rotary
scaling that starts within the texts. OpenELM, for which transformers has no class, is in `openelm_reference.py`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn

from smidgen.model.tokenizers.byte_level import BYTE_CHARACTERS
from tests.openelm_reference import OpenELM, OpenELMSettings

VOCABULARY = 320
WINDOW = 7
CONTEXT = 256
ORIGINAL_CONTEXT = 24  # of scaled rotary positions: texts in the tests are longer and shorter

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    "attn_implementation": "eager",
}
_GEMMA = {"head_dim": 24, "tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh"}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL_CONTEXT,
}
_YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": ORIGINAL_CONTEXT,
}


def _long_rope(pairs: int, original: int) -> dict[str, Any]:
    """LongRoPE. llama.cpp goes by the size of its context, 256 at least, where transformers goes by the text's length:
    an `original` above that takes the divisors for short texts in both, one below the text's length the others.
    """
    return {
        "rope_type": "longrope",
        "rope_theta": 1000.0,
        "short_factor": [1.0 + 0.1 * pair for pair in range(pairs)],
        "long_factor": [1.5 + 0.7 * pair for pair in range(pairs)],
        "original_max_position_embeddings": original,
    }


@dataclass(frozen=True)
class FamilyModel:
    """A row of the README's table.

    label: what the table calls it.  make: the model, its weights still as transformers draws them.
    llama_cpp: whether llama.cpp computes what the model does (not beyond the window of Phi-3 and Mistral).
    longest: the longest text on which it does.
    """

    label: str
    make: Callable[[], nn.Module]
    longest: int = 97


def of_transformers(config: str, model: str, **settings: Any) -> Callable[[], nn.Module]:
    """How to make a model of transformers: its classes by name, and settings."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        return getattr(transformers, model)(getattr(transformers, config)(**(_COMMON | settings)))

    return make


FAMILY_MODELS = {
    "gemma": FamilyModel("Gemma 2B, 7B", of_transformers("GemmaConfig", "GemmaForCausalLM", **_GEMMA)),
    "gemma2": FamilyModel(
        "Gemma 2 2B, 9B, 27B",
        of_transformers(
            "Gemma2Config",
            "Gemma2ForCausalLM",
            **_GEMMA,
            query_pre_attn_scalar=24,
            sliding_window=WINDOW,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
        ),
    ),
    "gemma3": FamilyModel(
        "Gemma 3 270M, 1B, and the text of 4B-27B",
        of_transformers(
            "Gemma3TextConfig",
            "Gemma3ForCausalLM",
            **_GEMMA,
            query_pre_attn_scalar=24,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
        ),
    ),
    "llama2": FamilyModel(
        "Llama 2",
        of_transformers(
            "LlamaConfig",
            "LlamaForCausalLM",
            num_key_value_heads=4,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
        ),
    ),
    "llama3": FamilyModel(
        "Llama 3, 3.1, 3.2",
        of_transformers("LlamaConfig", "LlamaForCausalLM", tie_word_embeddings=False, rope_parameters=_LLAMA3_ROPE),
    ),
    "smollm2": FamilyModel(
        "SmolLM2",
        of_transformers(
            "LlamaConfig", "LlamaForCausalLM", tie_word_embeddings=True, attention_bias=True, rms_norm_eps=1e-5
        ),
    ),
    "smollm3": FamilyModel(
        "SmolLM3",
        of_transformers("SmolLM3Config", "SmolLM3ForCausalLM", tie_word_embeddings=True, no_rope_layers=[1, 1, 1, 0]),
    ),
    "mistral": FamilyModel(
        "Mistral 7B",
        of_transformers(
            "MistralConfig", "MistralForCausalLM", head_dim=24, sliding_window=WINDOW, tie_word_embeddings=False
        ),
        longest=WINDOW,
    ),
    "mixtral": FamilyModel(
        "Mixtral 8x7B",
        of_transformers(
            "MixtralConfig",
            "MixtralForCausalLM",
            num_local_experts=4,
            num_experts_per_tok=2,
            tie_word_embeddings=False,
            num_hidden_layers=3,
        ),
    ),
    "qwen2": FamilyModel(
        "Qwen2, Qwen2.5",
        of_transformers("Qwen2Config", "Qwen2ForCausalLM", tie_word_embeddings=False, rope_parameters=_YARN_ROPE),
    ),
    "qwen3": FamilyModel(
        "Qwen3", of_transformers("Qwen3Config", "Qwen3ForCausalLM", head_dim=24, tie_word_embeddings=True)
    ),
    "phi3": FamilyModel(
        "Phi-3 mini",
        of_transformers(
            "Phi3Config",
            "Phi3ForCausalLM",
            num_key_value_heads=4,
            sliding_window=WINDOW,
            tie_word_embeddings=False,
            max_position_embeddings=4 * CONTEXT,
            original_max_position_embeddings=2 * CONTEXT,
            rope_parameters=_long_rope(8, 2 * CONTEXT),
        ),
        longest=WINDOW,
    ),
    "phi4": FamilyModel(
        "Phi-4 mini",
        of_transformers(
            "Phi3Config",
            "Phi3ForCausalLM",
            tie_word_embeddings=True,
            original_max_position_embeddings=ORIGINAL_CONTEXT,
            rope_parameters=_long_rope(6, ORIGINAL_CONTEXT) | {"partial_rotary_factor": 0.75},
        ),
    ),
    "openelm": FamilyModel(
        "OpenELM",
        lambda: OpenELM(OpenELMSettings(VOCABULARY, 64, 16, (2, 4, 6), (1, 2, 2), (96, 128, 160), CONTEXT)),
    ),
}


def strengthen(model: nn.Module) -> None:
    """Weights that keep the residual stream of order one and make attention sharp, so that mistakes show.

    Norms are multiples of 1/256, so that Gemma's, which are stored around 0, survive the way there and back exactly.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.5 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(parameter + (0.3 * noise).clamp(-0.5, 0.5).mul(256).round() / 256)
            else:
                sharp = any(part in name for part in ("q_proj", "k_proj", "qkv_proj", "router", "gate.weight"))
                parameter.copy_(noise * (1.5 if sharp else 1.0) * parameter.shape[-1] ** -0.5)


def save_folder(family: str, folder: Path, **options: Any) -> nn.Module:
    """Write a family's model and a tokenizer into `folder` as transformers does. Returns the model."""
    model = FAMILY_MODELS[family].make().eval()
    strengthen(model)
    if isinstance(model, OpenELM):
        model.save_pretrained(folder)
    else:
        model.save_pretrained(folder, **options)
    save_tokenizer(folder)
    return model


def save_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer with a few merges and special tokens."""
    pairs = [(left, right) for left in "thanesior" for right in "eanthr"][: VOCABULARY - 260]
    vocabulary = {character: token for token, character in enumerate(BYTE_CHARACTERS)}
    special = ["<|begin|>", "<|end|>", "<|pad|>", "<|user|>"]
    for left, right in pairs:
        vocabulary[left + right] = 260 + len(vocabulary) - 256
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary | {text: 256 + i for i, text in enumerate(special)}, merges=pairs)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "add_bos_token": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
