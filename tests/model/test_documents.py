"""Several documents in a row: none sees another, and each is computed as if it were alone."""

from dataclasses import replace

import pytest
import torch

from smidgen.model.config import LayerConfig, ModelConfig, Rotary
from smidgen.model.decoder import Cache, Decoder
from tests.tiny_models import GEMMA3_CONFIG, LLAMA_CONFIG, random_decoder

LENGTHS = (11, 1, 17, 3)
_CAPPED = LayerConfig(4, 2, 16, 48, Rotary(1e4, 16), 0.25, "gelu_tanh", attention_cap=2.0, post_norms=True)
GEMMA2_CONFIG = ModelConfig(
    "gemma2", 300, 64, (replace(_CAPPED, window=7), _CAPPED, replace(_CAPPED, rotary=None)), 1e-6, 4096, True, 8.0, 3.0
)


@pytest.mark.parametrize("config", [GEMMA3_CONFIG, GEMMA2_CONFIG, LLAMA_CONFIG], ids=lambda config: config.family)
def test_a_packed_row_equals_separate_rows(config: ModelConfig) -> None:
    """Windows shorter than the documents, soft caps and grouped heads; the two rows are packed differently."""
    decoder = random_decoder(config)
    torch.manual_seed(0)
    parts = [torch.randint(300, (1, length)) for length in LENGTHS]
    orders = [range(4), (2, 0, 3, 1)]
    ids = torch.cat([torch.cat([parts[part] for part in order], 1) for order in orders])
    documents = torch.tensor([[part for part in order for _ in range(LENGTHS[part])] for order in orders])
    with torch.no_grad():
        packed = decoder.hidden_states(ids, documents=documents)
        together = decoder.hidden_states(ids)
        for row, order in enumerate(orders):
            found = packed[row].split([LENGTHS[part] for part in order])
            for part, states in zip(order, found, strict=True):
                torch.testing.assert_close(states, decoder.hidden_states(parts[part])[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(packed, together, atol=1e-2)


@pytest.mark.parametrize("config", [GEMMA3_CONFIG, GEMMA2_CONFIG], ids=lambda config: config.family)
def test_gradients_with_and_without_gradient_checkpointing(config: ModelConfig) -> None:
    ids, documents = torch.arange(40).view(2, 20), torch.arange(40).view(2, 20) % 20 // 7

    def gradients(decoder: Decoder) -> list[torch.Tensor]:
        decoder.hidden_states(ids, documents=documents).square().sum().backward()
        return [parameter.grad for parameter in decoder.parameters() if parameter.grad is not None]

    usual, saving = random_decoder(config), random_decoder(config)
    saving.checkpointing = True
    found = gradients(usual)
    assert len(found) == len(list(usual.parameters())) - (usual.head is not None)
    for one, other in zip(found, gradients(saving), strict=True):
        assert torch.equal(one, other)


def test_a_cache_holds_one_document() -> None:
    decoder, ids = random_decoder(LLAMA_CONFIG), torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="one document"):
        decoder.hidden_states(ids, Cache(LLAMA_CONFIG, 1, 4), ids)
