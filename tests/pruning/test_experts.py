"""Experts dropped and merged on the tiny Mixtral, in llama.cpp too."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import write_derived
from smidgen.formats.opening import open_checkpoint
from smidgen.model.decoder import Block, Decoder
from smidgen.pruning import experts
from tests.family_models import VOCABULARY, save_folder
from tests.parity.test_decoder_llama_cpp import LlamaCpp, log_probabilities
from tests.tiny_models import write_llama


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    """Three layers with four experts each, two of them for each token."""
    folder = tmp_path_factory.mktemp("model")
    save_folder("mixtral", folder)
    with open_checkpoint(folder) as checkpoint:
        yield checkpoint


@pytest.fixture
def windows() -> Tensor:
    return torch.randint(0, VOCABULARY, (6, 40), generator=torch.Generator().manual_seed(5))


def decoder_of(checkpoint: Checkpoint) -> Decoder:
    decoder = Decoder(checkpoint.config)
    decoder.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()})
    return decoder


@torch.no_grad()
def test_mass_is_what_the_router_gives(checkpoint: Checkpoint, windows: Tensor) -> None:
    """Token by token, with the softmax over the chosen written out."""
    plan = experts.plan(checkpoint, 3, windows)
    decoder = decoder_of(checkpoint)
    x = decoder.embed(windows)
    for layer, block in zip(plan.layers, decoder.blocks, strict=True):
        assert isinstance(block, Block)
        assert block.experts is not None
        scores = block.experts.router(block.feed_forward_norm(block.attend(x))).flatten(0, 1)
        mass = torch.zeros(4)
        for token in scores:
            best = token.topk(2).indices
            mass[best] += token[best].exp() / token[best].exp().sum() / len(scores)
        assert torch.allclose(torch.tensor(layer.mass), mass, atol=0.01)
        assert abs(sum(layer.mass) - 1) < 1e-9
        dropped = int(mass.argmin())
        assert layer.kept == tuple(one for one in range(4) if one != dropped)
        assert layer.dropped_mass == layer.mass[dropped]
        correlation = torch.corrcoef(scores.T)[dropped]
        correlation[dropped] = -1
        assert layer.joins == {dropped: int(correlation.argmax())}
        x = block(x)


@pytest.mark.parametrize("merge", [False, True])
@torch.no_grad()
def test_what_is_written(merge: bool, checkpoint: Checkpoint, windows: Tensor, tmp_path: Path) -> None:
    """Weights by their definition; llama.cpp predicts from the file as the decoder does."""
    plan = experts.plan(checkpoint, 2, windows)
    path = tmp_path / "model.gguf"
    write_derived(checkpoint, experts.apply(checkpoint, plan, merge), path, plan.report())
    with open_checkpoint(path) as after:
        assert {(layer.experts, layer.experts_used) for layer in after.config.layers} == {(2, 2)}
        for index, layer in enumerate(plan.layers):
            prefix = f"blocks.{index}.experts"
            router = checkpoint.tensor(f"{prefix}.router.weight")
            assert torch.equal(after.tensor(f"{prefix}.router.weight"), router[list(layer.kept)])
            for new, old in enumerate(layer.kept):
                group = [old, *(one for one, to in layer.joins.items() if to == old and merge)]
                weights = [checkpoint.tensor(f"{prefix}.{one}.down.weight") * layer.mass[one] for one in group]
                wanted = torch.stack(weights).sum(0) / sum(layer.mass[one] for one in group)
                assert torch.allclose(after.tensor(f"{prefix}.{new}.down.weight"), wanted, atol=1e-6)
    prompts = [windows[row, :length].tolist() for row, length in enumerate((1, 7, 30))]
    theirs = LlamaCpp(path, context=128)
    for prompt, ours in zip(prompts, log_probabilities(path, prompts), strict=True):
        tokens, scores = theirs.likeliest(prompt, VOCABULARY)
        assert (ours[tokens] - scores).abs().max() < 1e-4


def test_fewer_than_each_token_takes(checkpoint: Checkpoint, windows: Tensor) -> None:
    """Then each takes fewer, and the report says so."""
    plan = experts.plan(checkpoint, 1, windows)
    config = experts.apply(checkpoint, plan, merge=False).config
    assert {(layer.experts, layer.experts_used) for layer in config.layers} == {(1, 1)}
    assert "1 instead of 2 for each token" in plan.report()["summary"]


@pytest.mark.parametrize("keep", [0, 4, 5, -1])
def test_numbers_that_cannot_be(keep: int, checkpoint: Checkpoint, windows: Tensor) -> None:
    with pytest.raises(SmidgenError, match="ask for 1 to 3"):
        experts.plan(checkpoint, keep, windows)


def test_a_model_without_experts(windows: Tensor, tmp_path: Path) -> None:
    with open_checkpoint(write_llama(tmp_path / "model.gguf")) as dense, pytest.raises(Unsupported, match="no experts"):
        experts.plan(dense, 1, windows)
