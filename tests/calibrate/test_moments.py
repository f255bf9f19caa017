"""Second moments against the definition, on a tiny model."""

import torch

from smidgen.calibrate.moments import LINEARS, SecondMoment, watch_inputs
from smidgen.calibrate.walk import run
from smidgen.model.decoder import Block
from tests.tiny_models import GEMMA3_CONFIG, random_decoder


def test_second_moment_is_the_weighted_mean_outer_product() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(15, 8, generator=generator), torch.rand(15, generator=generator)
    moment = SecondMoment(8)
    moment.add(x[:4], weights[:4])
    moment.add(x[4:], weights[4:])
    outer = torch.stack([w * torch.outer(v, v) for v, w in zip(x, weights, strict=True)])
    assert torch.allclose(moment.mean(), outer.sum(0) / weights.sum(), atol=1e-6)


def test_watching_weights_each_token_where_it_passes() -> None:
    block = random_decoder(GEMMA3_CONFIG).blocks[0]
    assert isinstance(block, Block)
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(4, 11, GEMMA3_CONFIG.hidden, generator=generator)
    before = states.clone()
    weights = {name: torch.rand(44, generator=generator) for name in LINEARS}
    with watch_inputs(block, weights) as moments:
        run(block, states[:3])
        run(block, states[3:])
    assert torch.equal(states, before)
    assert set(moments) == set(LINEARS)
    normed = block.attention_norm(states).flatten(0, 1).detach()
    for name in ("attention.query", "attention.value"):
        w = weights[name]
        assert torch.allclose(moments[name].mean(), (normed * w[:, None]).T @ normed / w.sum(), atol=1e-5)


def test_watching_ends_with_the_context() -> None:
    block = random_decoder(GEMMA3_CONFIG).blocks[0]
    assert isinstance(block, Block)
    states = torch.randn(1, 3, GEMMA3_CONFIG.hidden)
    with watch_inputs(block, {name: torch.ones(3) for name in LINEARS}) as moments:
        run(block, states)
    run(block, states)
    assert moments["attention.query"].weight == 3
