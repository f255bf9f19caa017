"""One block on its way: what is left alone stays, matrices are fitted in order, starved experts are only rounded."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from smidgen.calibration.walk import advance, in_batches
from smidgen.model.decoder import Beside, Block
from smidgen.model.parameters import block_linears
from smidgen.numerics import block_types as types
from smidgen.numerics.decode import decode
from smidgen.progress import Task
from smidgen.quantization.blockwise import _BlockFit, _Known
from tests.tiny_models import GEMMA3_CONFIG, LLAMA_CONFIG

MIXTURE = replace(LLAMA_CONFIG.layers[0], experts=5, experts_used=2)
LAYERS = [GEMMA3_CONFIG.layers[0], LLAMA_CONFIG.layers[0], MIXTURE]
NAMES = ["gemma3", "llama", "mixture"]


def random_block(layer) -> Block:
    block, generator = Block(layer, 64, 1e-6), torch.Generator().manual_seed(5)
    for parameter in block.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.1 * noise if parameter.dim() == 1 else noise * parameter.shape[1] ** -0.5
    return block


def fit(layer, kind: types.BlockType | None) -> tuple[_BlockFit, Block, Tensor, Tensor]:
    """A fit after it advanced, its block, and states before and after. With two experts that no token wants."""
    generator = torch.Generator().manual_seed(6)
    block, mixing = random_block(layer), torch.randn(64, 64, generator=generator)
    states = torch.randn(6, 64, 64, generator=generator) @ mixing / 8
    if block.experts is not None:
        block.experts.router.weight.data[3:] *= 1e-6
        block.experts.router.weight.data[:3, 0] += 1
        states[..., 0] = 8
    names = [f"blocks.2.{name}.weight" for name in block_linears(layer)]
    weights = {name: torch.rand(384, generator=torch.Generator().manual_seed(7)) for name in names}
    known = _Known(weights, lambda name: None)
    task = Task("Quantizing", len(list(block_linears(layer))))
    fit = _BlockFit(block, 2, {} if kind is None else dict.fromkeys(names, kind), known, task)
    after = states.clone()
    fit.advance(after, [Beside()] * len(in_batches(after)))
    return fit, block, states, after


@pytest.mark.parametrize("layer", LAYERS, ids=NAMES)
def test_states_pass_through_the_block_as_it_ends_up(layer) -> None:
    for kind in (None, types.Q4_0):
        _, block, before, after = fit(layer, kind)
        advance(block, before)
        assert (after - before).norm() <= 0.01 * before.norm()


@pytest.mark.parametrize("layer", LAYERS, ids=NAMES)
def test_every_matrix_is_encoded_and_put_in_its_place(layer) -> None:
    done, block, _, _ = fit(layer, types.Q5_0)
    assert list(done.encoded) == [f"blocks.2.{name}.weight" for name in block_linears(layer)]
    for name, encoded in done.encoded.items():
        weight = block.get_parameter(name.removeprefix("blocks.2."))
        assert torch.equal(weight, decode(encoded.packed, types.Q5_0))
    starved = {name for name in done.encoded if "experts.3" in name or "experts.4" in name}
    compensated = {name for name, encoded in done.encoded.items() if encoded.compensated}
    assert bool(starved) == (layer is MIXTURE) and not starved & compensated
    assert 2 * len(compensated) > len(done.encoded.keys() - starved)
