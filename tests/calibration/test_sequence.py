"""One block, matrix by matrix: what each meets has come through all that was replaced before it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from smidgen.calibration.sequence import Inputs, advance_replacing
from smidgen.calibration.walk import advance, in_batches
from smidgen.model.decoder import Beside, Block
from smidgen.model.parameters import block_linears
from tests.tiny_models import GEMMA3_CONFIG, LLAMA_CONFIG


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layer", [GEMMA3_CONFIG.layers[0], replace(LLAMA_CONFIG.layers[0], experts=5, experts_used=2)])
def test_every_matrix_meets_inputs_that_carry_what_was_replaced(layer) -> None:
    """Names in order, each once; inputs equal those that a plain pass through the changed block gives it; an expert
    that no token wants is shown all of them."""
    block = Block(layer, 64, 1e-6)
    for seed, parameter in enumerate(block.parameters()):
        noise = random(*parameter.shape, seed=seed)
        parameter.data = 1 + 0.1 * noise if parameter.dim() == 1 else noise * parameter.shape[1] ** -0.5
    states = random(6, 64, 64, seed=99)
    if block.experts is not None:
        block.experts.router.weight.data[3:] *= 1e-6
        block.experts.router.weight.data[:3, 0] += 1
        states[..., 0] = 8
    met: dict[str, Inputs] = {}

    def replace_all(names: tuple[str, ...], inputs: Inputs) -> None:
        for name in names:
            met[name] = inputs
            block.get_submodule(name).get_parameter("weight").data.mul_(0.5)

    after = states.clone()
    advance_replacing(block, after, [Beside()] * len(in_batches(after)), replace_all)
    assert list(met) == list(block_linears(layer))
    seen: dict[str, Tensor] = {}
    for name in met:
        block.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: seen.__setitem__(name, inputs[0].flatten(0, -2).float())
        )
    advance(block, states)
    assert (after - states).norm() <= 0.01 * states.norm()
    for name, inputs in met.items():
        if inputs.ample:
            found = torch.cat([part.flatten(0, -2).float() for part in inputs.batches])
            assert (found - seen[name]).norm() <= 0.02 * seen[name].norm()
            ones = torch.ones(6 * 64)
            sample = inputs.sample(ones)
            judged = sample.judges.square().sum(0) * len(sample.judges)
            fitted = sample.moment.diagonal() * sample.tokens
            energy = inputs.energy(ones) * (sample.tokens + len(sample.judges))
            assert torch.allclose(energy, fitted + judged, rtol=0.02)
    starved = {name for name, inputs in met.items() if not inputs.ample}
    assert all("experts.3" in name or "experts.4" in name for name in starved) and bool(starved) == bool(layer.experts)
