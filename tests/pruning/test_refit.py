"""Refitting what remains: it lowers the error, never raises it, and an interrupted one ends in the same bits."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Changed
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.workspace import Workspace
from smidgen.model.decoder import Decoder
from smidgen.progress import Task
from smidgen.pruning import refit as module
from smidgen.pruning.least_squares import Tokens, fit, fit_normed
from smidgen.pruning.refit import refit
from tests.tiny_models import VOCABULARY, write_gemma3, write_llama

WRITERS = {"gemma3": write_gemma3, "llama": write_llama}
WINDOWS = torch.randint(4, VOCABULARY, (40, 30), generator=torch.Generator().manual_seed(1))
OTHERS = torch.randint(4, VOCABULARY, (10, 30), generator=torch.Generator().manual_seed(2))
KEPT = {"gemma3": [0, 1, 3, 4], "llama": [1, 2]}


@pytest.fixture(params=list(WRITERS))
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    return open_checkpoint(WRITERS[request.param](tmp_path / "model.gguf"))


def refitted(checkpoint: Checkpoint, place: Workspace) -> dict[str, Tensor]:
    found = refit(checkpoint, KEPT[checkpoint.config.family], None, WINDOWS, place, Task("", 0))
    assert all(isinstance(one, Changed) for one in found.values())
    return {name: one.values() for name, one in found.items()}


@torch.no_grad()
def last_states(checkpoint: Checkpoint, layers: list[int], changed: Mapping[str, Tensor]) -> Tensor:
    """Behind the last block of a model that has only these layers."""
    decoder = Decoder(checkpoint.config)
    decoder.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()})
    x = decoder.embed(OTHERS)
    for new, layer in enumerate(layers):
        block, prefix = decoder.blocks[layer], f"blocks.{new}."
        mine = {name.removeprefix(prefix): value for name, value in changed.items() if name.startswith(prefix)}
        block.load_state_dict(mine, strict=False)
        x = block(x)
    return x


def test_makes_good_a_layer_that_is_gone(checkpoint: Checkpoint, tmp_path: Path) -> None:
    kept = KEPT[checkpoint.config.family]
    wanted = last_states(checkpoint, list(range(len(checkpoint.config.layers))), {})
    plain = (last_states(checkpoint, kept, {}) - wanted).square().mean()
    better = (
        last_states(checkpoint, kept, refitted(checkpoint, Workspace.start(tmp_path / "a", {}))) - wanted
    ).square()
    assert better.mean() < 0.95 * plain


def test_resumed_gives_the_same_bits(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = refitted(checkpoint, Workspace.start(tmp_path / "whole", {}))
    place, calls, original = Workspace.start(tmp_path / "parts", {}), 0, module._refit_half

    def interrupted(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return original(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(module, "_refit_half", interrupted)
    with pytest.raises(KeyboardInterrupt):
        refitted(checkpoint, place)
    resumed = refitted(checkpoint, place)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    monkeypatch.setattr(module, "_refit_half", None)  # all is there: nothing is computed again
    assert refitted(checkpoint, place).keys() == whole.keys()


def test_a_model_that_is_whole_stays_as_it_is(checkpoint: Checkpoint, tmp_path: Path) -> None:
    everything = range(len(checkpoint.config.layers))
    assert not refit(checkpoint, everything, None, WINDOWS, Workspace.start(tmp_path / "w", {}), Task("", 0))


def drawn(count: int, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 16, generator=generator) @ torch.randn(16, 16, generator=generator)
    return x, torch.randn(8, 16, generator=generator), torch.randn(8, 16, generator=generator)


def aside_of(count: int) -> Tensor:
    return torch.arange(count) % 5 == 4


def test_noise_is_not_fitted() -> None:
    x, weight, _ = drawn(30)
    tokens = Tokens(x, x @ weight.T + torch.randn(30, 8, generator=torch.Generator().manual_seed(4)), torch.ones(30))
    found = fit(weight, lambda: [(tokens, aside_of(30))])
    error = lambda matrix: float((tokens.targets - x @ matrix.T)[aside_of(30)].square().sum())  # noqa: E731
    assert found is None or error(found) < error(weight)


def test_finds_the_matrix_behind_a_norm() -> None:
    """Targets made by another matrix and gain: far nearer than at the start, by both of them together."""
    x, weight, change = drawn(4000)
    generator = torch.Generator().manual_seed(5)
    gain, true_gain = torch.rand(8, generator=generator) + 0.5, torch.rand(8, generator=generator) + 0.5
    true = weight + 0.3 * change
    targets = true_gain * torch.nn.functional.rms_norm(x @ true.T, (8,))
    tokens = Tokens(x, targets, torch.ones(4000))
    found = fit_normed(weight, gain, 1e-6, lambda: [(tokens, aside_of(4000))])
    assert found is not None

    def error(matrix: Tensor, factor: Tensor) -> float:
        return float((factor * torch.nn.functional.rms_norm(x @ matrix.T, (8,)) - targets).square().mean())

    assert error(*found) < 0.3 * error(weight, gain)
    assert error(*found) < error(found[0], gain)
