"""A model whose matrices have the smallest types is read whole, and computes as in llama.cpp."""

from pathlib import Path

import torch

from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from tests.gguf_forms import of_types, plain
from tests.parity.test_decoder_llama_cpp import LlamaCpp, log_probabilities
from tests.tiny_models import VOCABULARY

# Each at two places, one in each layer. (llama.cpp takes seconds to begin quantizing to IQ1 and the larger IQ2.)
FIRST = {
    "attn_q.weight": types.IQ3_S, "attn_k.weight": types.IQ2_XXS, "attn_v.weight": types.Q2_0,
    "attn_output.weight": types.NVFP4, "ffn_gate.weight": types.TQ1_0, "ffn_up.weight": types.MXFP4,
    "ffn_down.weight": types.TQ2_0, "token_embd.weight": types.IQ3_XXS,
}  # fmt: skip
SECOND = {
    "attn_output.weight": types.Q1_0, "ffn_gate.weight": types.IQ4_NL, "ffn_up.weight": types.IQ4_XS,
    "ffn_down.weight": types.Q3_K, "output.weight": types.Q2_K,
}  # fmt: skip


def assert_computes_alike(path: Path, seed: int) -> None:
    """A file of quantized weights has here the scores that llama.cpp gives it."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in (1, 20)]
    theirs = LlamaCpp(path, context=64)
    for ids, ours in zip(prompts, log_probabilities(path, prompts), strict=True):
        tokens, scores = theirs.likeliest(ids, VOCABULARY)
        difference = ours[tokens] - scores
        # llama.cpp rounds activations to 8 bits in blocks: seen are 0.2 at most, and a spread of 0.05.
        assert difference.abs().max() < 0.4
        assert difference.std() < 0.1 * scores.std()


def test_small_types_compute_as_in_llama_cpp(tmp_path: Path) -> None:
    for number, kinds in enumerate((FIRST, SECOND)):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(of_types(plain(), kinds).as_bytes())
        with open_checkpoint(path) as checkpoint:
            assert {checkpoint.kind(name) for name in checkpoint.names()} >= set(kinds.values())
        assert_computes_alike(path, number)
