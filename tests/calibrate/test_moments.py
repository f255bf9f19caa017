"""Second moments against the definition, on a tiny model."""

import torch

from smidgen.calibrate.moments import INPUT_OF, SecondMoment, linear_of, watch_inputs
from smidgen.calibrate.walk import run
from tests.tiny_models import GEMMA3_CONFIG, random_decoder


def test_second_moment_is_the_mean_outer_product() -> None:
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    moment = SecondMoment(8)
    moment.add(x[:1])
    moment.add(x[1:])
    expected = torch.stack([torch.outer(v, v) for v in x.flatten(0, 1)]).mean(0)
    assert torch.allclose(moment.mean(), expected, atol=1e-6)


def test_watching_sees_each_distinct_input_once_per_token() -> None:
    block = random_decoder(GEMMA3_CONFIG).blocks[0]
    states = torch.randn(4, 11, GEMMA3_CONFIG.hidden, generator=torch.Generator().manual_seed(1))
    before = states.clone()
    with watch_inputs(block) as moments:
        run(block, states)
    assert torch.equal(states, before)
    assert set(moments) == set(INPUT_OF.values())
    assert all(moment.tokens == 44 for moment in moments.values())
    normed = block.attention_norm(states).flatten(0, 1).detach()
    assert torch.allclose(moments["attention.query"].mean(), normed.T @ normed / 44, atol=1e-5)
    gate_input = block.get_submodule("feed_forward.gate")
    assert linear_of(block, "feed_forward.gate") is gate_input


def test_watching_ends_with_the_context() -> None:
    block = random_decoder(GEMMA3_CONFIG).blocks[0]
    states = torch.randn(1, 3, GEMMA3_CONFIG.hidden)
    with watch_inputs(block) as moments:
        run(block, states)
    run(block, states)
    assert moments["attention.query"].tokens == 3
