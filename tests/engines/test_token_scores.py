"""Each token of a text is scored as by the whole model at once, whatever the texts share."""

from pathlib import Path

import pytest
import torch

from smidgen.engines import continuations, token_scores
from smidgen.engines.token_scores import score_tokens
from smidgen.engines.torch import TorchEngine
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from tests import tiny_models

EXAMPLES = list(range(40, 100))
TEXTS = [
    *[[2, *EXAMPLES, 5, 6, choice] for choice in (10, 11, 12)], [2, *EXAMPLES[:30], 200], [2], [7], [2, 7, 8],
    [2, *EXAMPLES], [2, *EXAMPLES, 5, 6, 10],
]  # fmt: skip


@pytest.mark.parametrize("write", [tiny_models.write_gemma3, tiny_models.write_llama])
@pytest.mark.parametrize("in_memory", [1 << 16, 70])
@pytest.mark.parametrize("alternatives", [1, 5])
def test_as_each_text_alone(
    write, in_memory: int, alternatives: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuations, "_TOKENS_IN_MEMORY", in_memory)
    monkeypatch.setattr(token_scores, "_ROWS_AT_ONCE", 3)
    monkeypatch.setattr(token_scores, "_HEAD_ROWS", 64)
    with open_checkpoint(write(tmp_path / "tiny.gguf")) as checkpoint:
        found = score_tokens(TorchEngine(checkpoint), TEXTS, alternatives)
        decoder = load_decoder(checkpoint)
        for text, scores in zip(TEXTS, found, strict=True):
            with torch.no_grad():
                expected = decoder(torch.tensor([text]))[0].log_softmax(-1).double()
            own = expected[:-1].gather(1, torch.tensor(text)[1:, None])[:, 0]
            torch.testing.assert_close(scores.own, own, atol=2e-4, rtol=0)
            top = expected.topk(alternatives)
            torch.testing.assert_close(scores.top_values, top.values, atol=2e-4, rtol=0)
            assert scores.top[:, 0].tolist() == top.indices[:, 0].tolist()


def test_a_token_has_the_very_same_number_among_the_alternatives(tmp_path: Path) -> None:
    """Harnesses compare them to know whether a text is what the model would write."""
    with open_checkpoint(tiny_models.write_gemma3(tmp_path / "tiny.gguf")) as checkpoint:
        engine = TorchEngine(checkpoint)
        written = engine.sample(torch.tensor([[2, 50, 60]]), 3, temperature=0)[0].tolist()
        (scores,) = score_tokens(engine, [[2, 50, 60, *written]], 1)
        assert scores.own[2:].tolist() == scores.top_values[2:-1, 0].tolist()
