"""A model whose matrices smidgen wrote as IQ2 and IQ3 computes in llama.cpp as it does here."""

from pathlib import Path

import numpy as np
import torch

from smidgen.numerics.block_types import BY_NAME
from smidgen.numerics.decode import decode
from smidgen.quantization.compensate import compensate
from tests.gguf_forms import plain, tensors_of, with_tensors
from tests.parity.test_decoder_llama_cpp import LlamaCpp, log_probabilities
from tests.tiny_models import VOCABULARY

KINDS = {
    "attn_q.weight": "IQ2_XS", "attn_k.weight": "IQ2_XXS", "attn_v.weight": "IQ3_S", "attn_output.weight": "IQ2_S",
    "ffn_gate.weight": "IQ3_XXS", "ffn_up.weight": "IQ2_XS", "ffn_down.weight": "IQ3_S", "token_embd.weight": "IQ3_XXS",
    "output.weight": "IQ2_S",
}  # fmt: skip


def write(path: Path, *, decoded: bool) -> Path:
    """The model with matrices in few bits, or with the same weights as float32."""
    tensors = []
    for name, (_, shape, kind, raw) in tensors_of(plain()).items():
        new = next((BY_NAME[KINDS[ending]] for ending in KINDS if name.endswith(ending)), None)
        if new is not None:
            weight = torch.from_numpy(np.frombuffer(raw, "<f4").reshape(-1, shape[0]).copy())
            packed = compensate(weight, new, torch.ones(shape[0]))
            kind, raw = (kind, decode(packed, new)) if decoded else (new.ggml_id, packed)
            raw = raw.numpy().tobytes()
        tensors.append((name, shape, kind, raw))
    path.write_bytes(with_tensors(plain(), tensors).as_bytes())
    return path


def test_what_is_written_computes_as_in_llama_cpp(tmp_path: Path) -> None:
    packed, decoded = write(tmp_path / "packed.gguf", decoded=False), write(tmp_path / "decoded.gguf", decoded=True)
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in (1, 20)]
    for path, largest in ((decoded, 1e-3), (packed, None)):
        theirs = LlamaCpp(path, context=64)
        for ids, ours in zip(prompts, log_probabilities(packed, prompts), strict=True):
            tokens, scores = theirs.likeliest(ids, VOCABULARY)
            difference = ours[tokens] - scores
            if largest is not None:
                assert difference.abs().max() < largest
            # llama.cpp rounds activations to 8 bits in blocks of 256 where weights are, which here moves scores by a
            # sixth of their spread. Another model's would differ by more than the whole of it.
            assert difference.std() < 0.25 * scores.std()
