"""Our decoder with a rounded cache against llama.cpp with a quantized one, for the same GGUF file.

Weights in F32 and SiLU: then all that both round is keys, values and queries. A number half-way between two codes may
fall either way, since sums differ in their last bit; at 4 bits one such code moves the result visibly, so most prompts
agree to float32's accuracy and few do not: seen, 1e-4 at most in nearly all and 0.1 nats in the others. Without the
rounding of queries nearly all prompts of more than one token are apart by 0.3 to 2 nats.
"""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch

from smidgen.engines.torch import TorchEngine
from smidgen.formats.opening import open_checkpoint
from smidgen.model.attention import soft_cap
from smidgen.model.kept import KVType
from smidgen.model.tokenizer import Tokenizer
from tests.parity.test_decoder_llama_cpp import LONG_TEXT, LlamaCpp, xllamacpp
from tests.tiny_models import LLAMA_CONFIG, LLAMA_KEYS, VOCABULARY, gguf_tensors, random_decoder, write_model

_LENGTHS = (1, 2, 5, 12, 33)


class Quantized(LlamaCpp):
    """llama.cpp as `serve --kv` sets it up."""

    def __init__(self, path: Path, context: int, kv: str) -> None:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx, parameters.n_parallel, parameters.port = context, 1, 0
        parameters.warmup, parameters.verbosity = False, -1
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
        kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{kv.upper()}")
        parameters.cache_type_k = parameters.cache_type_v = kind
        self.server = xllamacpp.Server(parameters)


def ours(path: Path, ids: list[int], kv: KVType) -> torch.Tensor:
    with open_checkpoint(path) as checkpoint:
        engine = TorchEngine(checkpoint, kv=kv)
        hidden = engine.hidden_states(torch.tensor([ids]))[0, -1]
        logits = engine.head_rows(0, engine.config.vocabulary) @ hidden
        return soft_cap(logits, engine.config.logit_cap).log_softmax(0)


def tiny(path: Path, head: int) -> Path:
    layer = LLAMA_CONFIG.layers[0]
    assert layer.rotary is not None
    layer = replace(layer, head_dim=head, rotary=replace(layer.rotary, width=head), attention_scale=head**-0.5)
    widths = dict.fromkeys(("rope.dimension_count", "attention.key_length", "attention.value_length"), head)
    decoder = random_decoder(replace(LLAMA_CONFIG, layers=(layer,) * 3))
    return write_model(path, "llama", LLAMA_KEYS | widths, gguf_tensors(decoder))


@pytest.mark.parametrize("kv", ["q8_0", "q4_0"])
@pytest.mark.parametrize("head", [32, 64, 128])  # not rotated; rotated; keys in a wider rotation than values
def test_a_tiny_model(head: int, kv: KVType, tmp_path: Path) -> None:
    path = tiny(tmp_path / "tiny.gguf", head)
    theirs = Quantized(path, 256, kv)
    generator = torch.Generator().manual_seed(3)
    moved, apart = [], []
    for length in _LENGTHS:
        ids = torch.randint(4, VOCABULARY, (length,), generator=generator).tolist()
        tokens, scores = theirs.likeliest(ids, VOCABULARY)
        moved.append(float((ours(path, ids, "f16")[tokens] - scores).abs().max()))
        apart.append(float((ours(path, ids, kv)[tokens] - scores).abs().max()))
    assert min(moved) > 1e-3
    assert sorted(apart)[len(apart) // 2] < 1e-4
    assert max(apart) < max(moved)


@pytest.mark.parametrize("kv", ["q8_0"])
def test_smollm2_costs_about_what_it_costs_in_llama_cpp(smollm_path: Path, kv: str) -> None:
    """Quantized weights round activations there, too (see test_decoder_llama_cpp.py), so closer than that is luck."""
    with open_checkpoint(smollm_path) as checkpoint:
        ids = Tokenizer.from_gguf(checkpoint.tokenizer_metadata).encode(LONG_TEXT, add_bos=True)[:100]
    tokens, scores = Quantized(smollm_path, 256, kv).likeliest(ids, 20)
    assert (ours(smollm_path, ids, cast("KVType", kv))[tokens] - scores).abs().max() < 0.5
