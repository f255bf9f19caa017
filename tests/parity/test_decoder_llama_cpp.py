"""Next-token log-probabilities of our decoder against llama.cpp's for the same GGUF file.

llama.cpp's CPU arithmetic is not float32 throughout, and each bound below is what one of its roundings needs. Figures
seen on x86 with prompts of up to 1030 tokens, float32 cache, no flash attention:

- Weights in F32, SiLU (Llama): 2e-5 on a tiny model; on SmolLM2 135M 3e-4, nearly all of it one shift shared by all
  tokens, because the softmax over the vocabulary is summed in float32 token by token and loses that much of the mass.
- Weights in F32, GELU (Gemma): the GELU comes from a table of half-precision inputs and outputs, which alone makes
  1e-3 on a tiny model and 7e-3 on Gemma 3 270M (likeliest 1000 tokens). With that rounding put into our GELU, 3e-4 and
  3e-3 are left: where a sum differs in its last bit, the rounded value falls on the other side.
- Quantized weights meet activations rounded to 8 bits in blocks of 32 or 256. On the packaged files that moves the
  likeliest 20 tokens by up to 0.47 (Gemma 3 270M) and 0.29 (SmolLM2 135M), and makes a KL divergence of up to 0.012
  and 0.005 nats. The same weights in F32 agree as above, so it is this rounding and not another model.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from smidgen.engines.torch import TorchEngine
from smidgen.formats.opening import open_checkpoint
from smidgen.model.attention import soft_cap
from smidgen.model.tokenizer import Tokenizer
from smidgen.shapes import Float
from tests.tiny_models import VOCABULARY, WINDOW, write_gemma3, write_llama, write_model

xllamacpp = import_module("xllamacpp")

LONG_TEXT = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
SHORT_TEXTS = (
    "The capital of France is",
    "def fibonacci(n):\n    if n <",
    "Die Hauptstadt von Deutschland ist",
)
REAL_TOKENS_KEPT = 8192
PLAIN_TOKEN = 280
HEAD_ROWS = 32_768


class LlamaCpp:
    """llama.cpp in this process, with its key/value cache in float32 and no flash attention."""

    def __init__(self, path: Path, context: int, lora: Path | None = None) -> None:
        parameters = xllamacpp.CommonParams()
        if lora is not None:
            adapter = xllamacpp.CommonAdapterLoraInfo()
            adapter.path, adapter.scale = str(lora), 1.0
            parameters.lora_adapters = [adapter]
        parameters.model.path = str(path)
        parameters.n_ctx, parameters.n_parallel, parameters.port = context, 1, 0
        parameters.warmup, parameters.verbosity = False, -1
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        self.server = xllamacpp.Server(parameters)

    def likeliest(self, ids: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
        """The likeliest next tokens and their log-probabilities before any sampler, likeliest first."""
        answer: dict[str, Any] = self.server.handle_completions(
            {
                "prompt": list(ids),
                "n_predict": 1,
                "n_probs": count,
                "post_sampling_probs": False,
                "cache_prompt": False,
                # A token that ends the text, or a lone byte, would be answered without probabilities.
                "logit_bias": [[PLAIN_TOKEN, 1000.0]],
            }
        )
        top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return torch.tensor([one["id"] for one in top]), torch.tensor([one["logprob"] for one in top])


def log_probabilities(path: Path, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "prompts vocab"]:
    """Ours, after each prompt. Padding stands behind the prompts, where it changes nothing."""
    padded = pad_sequence([torch.tensor(ids) for ids in prompts], batch_first=True)
    ends = torch.tensor([len(ids) - 1 for ids in prompts])
    with open_checkpoint(path) as checkpoint:
        engine = TorchEngine(checkpoint)
        hidden = engine.hidden_states(padded)[torch.arange(len(prompts)), ends]
        starts = range(0, engine.config.vocabulary, HEAD_ROWS)
        logits = [hidden @ engine.head_rows(at, min(at + HEAD_ROWS, engine.config.vocabulary)).T for at in starts]
        return soft_cap(torch.cat(logits, dim=1), engine.config.logit_cap).log_softmax(dim=1)


@pytest.mark.parametrize(("write", "bound"), [(write_gemma3, 1e-3), (write_llama, 1e-4)], ids=["gemma3", "llama"])
@pytest.mark.usefixtures("llama_cpp_gelu")
def test_tiny_models_in_float32(write: Any, bound: float, tmp_path: Path) -> None:
    """Every feature turned up; prompts that end before, at and after the window's edge, and far beyond it."""
    path = write(tmp_path / "tiny.gguf")
    theirs = LlamaCpp(path, context=128)
    generator = torch.Generator().manual_seed(3)
    lengths = (1, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + 2, 2 * WINDOW, 3 * WINDOW + 1, 97)
    prompts = [torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    for ids, ours in zip(prompts, log_probabilities(path, prompts), strict=True):
        tokens, scores = theirs.likeliest(ids, VOCABULARY)
        assert len(tokens) == VOCABULARY
        assert scores.std() > 0.3
        assert (ours[tokens] - scores).abs().max() < bound


@pytest.fixture(scope="module")
def real_gemma_in_float32(gemma_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gemma 3 270M's blocks, decoded to F32, with the first rows of its vocabulary; deleted afterwards (450 MB)."""
    path = tmp_path_factory.mktemp("gemma") / "f32.gguf"
    with open_checkpoint(gemma_path) as checkpoint:
        tensors = {
            checkpoint.gguf_name(name): checkpoint.tensor(name).numpy()
            for name in checkpoint.names()
            if name != "embedding.weight"
        }
        tensors["token_embd.weight"] = checkpoint.rows("embedding.weight", 0, REAL_TOKENS_KEPT).numpy()
        metadata = checkpoint.file.metadata
        keys = {key.removeprefix("gemma3."): value for key, value in metadata.items() if key.startswith("gemma3.")}
        tokens = metadata["tokenizer.ggml.tokens"]
        assert isinstance(tokens, list)
        yield write_model(path, "gemma3", keys, tensors, tokens[:REAL_TOKENS_KEPT])
    path.unlink()


@pytest.mark.usefixtures("llama_cpp_gelu")
def test_real_gemma_in_float32(gemma_path: Path, real_gemma_in_float32: Path) -> None:
    """All 18 layers of the real weights, once without and once with a text longer than the window of 512."""
    theirs = LlamaCpp(real_gemma_in_float32, context=1024)
    with open_checkpoint(gemma_path) as checkpoint:
        ids = [
            one
            for one in Tokenizer.from_gguf(checkpoint.tokenizer_metadata).encode(LONG_TEXT)
            if one < REAL_TOKENS_KEPT
        ]
    prompts = [[2, *ids[:length]] for length in (30, 560)]
    for prompt, ours in zip(prompts, log_probabilities(real_gemma_in_float32, prompts), strict=True):
        tokens, scores = theirs.likeliest(prompt, 1000)
        assert (ours[tokens] - scores).abs().max() < 1e-2


@pytest.mark.parametrize(
    ("model", "characters", "bound", "divergence"),
    [("gemma_path", 3100, 0.6, 0.02), ("smollm_path", 500, 0.4, 0.01)],
    ids=["gemma", "smollm"],
)
def test_real_models_as_packaged(
    model: str, characters: int, bound: float, divergence: float, request: pytest.FixtureRequest
) -> None:
    """The files themselves, quantized; Gemma's longest prompt is longer than its window."""
    path = request.getfixturevalue(model)
    theirs = LlamaCpp(path, context=1024)
    with open_checkpoint(path) as checkpoint:
        tokenizer = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
    prompts = [tokenizer.encode(text, add_bos=tokenizer.adds_bos) for text in (*SHORT_TEXTS, LONG_TEXT[:characters])]
    both = torch.cat([log_probabilities(path, prompts[:-1]), log_probabilities(path, prompts[-1:])])
    for ids, ours in zip(prompts, both, strict=True):
        tokens, scores = theirs.likeliest(ids, 2000)
        difference = scores - ours[tokens]
        assert tokens[0] == ours.argmax()
        assert difference[:20].abs().max() < bound
        # Over the likeliest tokens: what is missing of the sum is less than 1e-2 of it.
        assert (scores.exp() * difference).sum() < divergence
