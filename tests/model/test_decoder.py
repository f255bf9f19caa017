"""The decoder's promises that need no other implementation: caching, gradients, blocks alone, names."""

from dataclasses import replace

import pytest
import torch

from smidgen.model.attention import visible
from smidgen.model.config import LayerConfig, ModelConfig, Rotary
from smidgen.model.decoder import Block, Cache, Decoder
from smidgen.model.parameters import parameter_shapes
from smidgen.model.rope_scaling import Llama3Scaling
from tests.tiny_models import GEMMA3_CONFIG, LLAMA_CONFIG, VOCABULARY, random_decoder

LLAMA3 = Llama3Scaling(8.0, 1.0, 4.0, 16)
MIXED_CONFIG = ModelConfig(
    "mixed",
    VOCABULARY,
    40,
    (
        LayerConfig(4, 4, 8, 24, Rotary(1e4, 6), 0.3, "silu", window=3, qkv_bias=True),
        LayerConfig(6, 2, 12, 56, Rotary(1e5, 12), 0.2, "gelu_tanh", attention_cap=1.5, window=5, qk_norm=True),
        LayerConfig(3, 1, 20, 32, None, 0.2, "silu", attention_cap=2.0, post_norms=True, output_bias=True),
        LayerConfig(4, 2, 8, 24, Rotary(1e4, 8, LLAMA3), 0.3, "silu", experts=5, experts_used=2),
    ),
    1e-6,
    512,
    False,
    2.0,
    4.0,
)
CONFIGS = pytest.mark.parametrize(
    "config", [GEMMA3_CONFIG, LLAMA_CONFIG, MIXED_CONFIG], ids=lambda config: config.family
)


@CONFIGS
def test_parameter_names_and_shapes_are_those_listed_without_torch(config: ModelConfig) -> None:
    state = Decoder(config).state_dict()
    assert {name: tuple(weight.shape) for name, weight in state.items()} == parameter_shapes(config)


@CONFIGS
@torch.no_grad()
def test_generation_with_a_cache_equals_generation_without(config: ModelConfig) -> None:
    decoder = random_decoder(config)
    ids = torch.randint(0, VOCABULARY, (2, 4), generator=torch.Generator().manual_seed(0))
    cache, step, plain = Cache(config, 2, 30), ids, ids
    for _ in range(26):
        cached_logits, plain_logits = decoder(step, cache)[:, -1], decoder(plain)[:, -1]
        assert (cached_logits - plain_logits).abs().max() < 1e-4
        step = cached_logits.argmax(dim=1, keepdim=True)
        plain = torch.cat((plain, plain_logits.argmax(dim=1, keepdim=True)), dim=1)
        assert torch.equal(step, plain[:, -1:])


def test_a_cache_that_is_full_says_so() -> None:
    decoder, cache = random_decoder(LLAMA_CONFIG), Cache(LLAMA_CONFIG, 1, 3)
    with pytest.raises(ValueError, match="holds 3 positions, 4 are needed"):
        decoder(torch.zeros(1, 4, dtype=torch.long), cache)


@CONFIGS
@torch.no_grad()
def test_blocks_work_alone(config: ModelConfig) -> None:
    """As the calibration uses them: filled from a state dict, one after the other."""
    decoder = random_decoder(config)
    ids = torch.randint(0, VOCABULARY, (2, 17))
    x = decoder.embed(ids)
    for layer, whole in zip(config.layers, decoder.blocks, strict=True):
        block = Block(layer, config.hidden, config.norm_epsilon)
        block.load_state_dict(whole.state_dict())
        x = block(x)
    assert torch.equal(decoder.final_norm(x), decoder.hidden_states(ids))


@CONFIGS
def test_gradients_flow_to_every_parameter_and_the_input(config: ModelConfig) -> None:
    decoder = random_decoder(config)
    for layer, block in zip(config.layers, decoder.blocks, strict=True):
        x = torch.randn(2, 40, config.hidden, requires_grad=True)
        block(x).square().sum().backward()
        assert x.grad is not None and x.grad.abs().min() > 0
        missing = [name for name, weight in block.named_parameters() if weight.grad is None or not weight.grad.any()]
        assert not missing, f"{layer}: {missing}"


def test_gradients_are_right() -> None:
    """Finite differences through a block with windows, caps, norms and grouped heads, in float64."""
    layer = replace(MIXED_CONFIG.layers[1], post_norms=True)
    torch.manual_seed(0)
    block = Block(layer, 6, 1e-6)
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.5
    x, direction = torch.randn(1, 7, 6, requires_grad=True), torch.randn(1, 7, 6)
    (slope,) = torch.autograd.grad(block(x).sum(), x)
    step = 1e-2
    measured = (block(x + step * direction).sum() - block(x - step * direction).sum()) / (2 * step)
    assert measured.item() == pytest.approx((slope * direction).sum().item(), rel=2e-2)


@CONFIGS
@torch.no_grad()
def test_no_token_sees_the_future_or_beyond_its_window(config: ModelConfig) -> None:
    layer = config.layers[0]
    block = random_decoder(config).blocks[0]
    x = torch.randn(1, 20, config.hidden)
    changed = x.clone()
    changed[:, 8] += 1
    moved = (block(changed) - block(x)).abs().amax(dim=(0, 2)) > 0
    last = 20 if layer.window is None else 8 + layer.window
    assert moved.nonzero().flatten().tolist() == list(range(8, last))


def test_visible() -> None:
    mask = visible(2, 4, 2, torch.device("cpu"))
    assert mask.tolist() == [[False, True, True, False], [False, False, True, True]]


def test_building_a_model_draws_no_random_numbers() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Decoder(GEMMA3_CONFIG)
    assert torch.equal(before, torch.get_rng_state())
