"""The effect of a change against a longhand softmax over the whole vocabulary."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from smidgen.calibration.effect import Effect
from smidgen.calibration.walk import advance
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import embed, head_name, load_block, load_final_norm
from smidgen.model.attention import soft_cap
from tests.tiny_models import VOCABULARY, write_gemma3, write_llama

BOS = 2
WITHIN = 0.01  # of the KL: the head's products round their factors to bfloat16


@pytest.fixture(params=[write_llama, write_gemma3], ids=["plain head", "soft cap"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Checkpoint]:
    write: Callable[[Path], Path] = request.param
    with open_checkpoint(write(tmp_path / "model.gguf")) as checkpoint:
        yield checkpoint


@pytest.fixture
def windows() -> Tensor:
    """More positions than are taken at once, the first begins as a text does."""
    windows = torch.randint(4, VOCABULARY, (9, 50), generator=torch.Generator().manual_seed(0))
    windows[0, 0] = BOS
    return windows


def last_states(checkpoint: Checkpoint, windows: Tensor) -> Tensor:
    states = embed(checkpoint, windows)
    for index in range(len(checkpoint.config.layers)):
        advance(load_block(checkpoint, index), states)
    return states


@torch.no_grad()
def longhand(checkpoint: Checkpoint, states: Tensor, changed: Tensor) -> Tensor:
    """KL of every position but BOS, in float64."""
    norm, head = load_final_norm(checkpoint), checkpoint.tensor(head_name(checkpoint.config))
    p, q = (
        soft_cap(norm(one) @ head.T, checkpoint.config.logit_cap).double().log_softmax(2) for one in (states, changed)
    )
    return (p.exp() * (p - q)).sum(2).flatten()[1:]


def noisy(states: Tensor, size: float) -> Tensor:
    return states + size * torch.randn(states.shape, generator=torch.Generator().manual_seed(1))


def test_equals_the_softmax_written_out(checkpoint: Checkpoint, windows: Tensor) -> None:
    """Large and small changes; BOS does not count; nothing is done to the states that are handed in."""
    effect, states = Effect(checkpoint, windows), last_states(checkpoint, windows)
    assert effect.positions == windows.numel() - 1
    assert effect.kl(states) < 1e-6
    for size in (0.2, 1.0, 5.0):
        changed = noisy(states, size)
        before = changed.clone()
        wanted = float(longhand(checkpoint, states, changed).mean())
        assert abs(effect.kl(changed) - wanted) < WITHIN * wanted
        assert torch.equal(changed, before)


def test_a_part_of_the_positions(checkpoint: Checkpoint, windows: Tensor) -> None:
    effect, states = Effect(checkpoint, windows, most=40), last_states(checkpoint, windows)
    assert effect.positions == 40
    changed = noisy(states, 5.0)
    kl = longhand(checkpoint, states, changed)
    wanted = float(kl[torch.linspace(0, len(kl) - 1, 40).round().long()].mean())
    assert abs(effect.kl(changed) - wanted) < WITHIN * wanted


def test_a_head_too_large_to_keep(checkpoint: Checkpoint, windows: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded in chunks again for every answer, the answers are the same."""
    changed = noisy(torch.zeros(*windows.shape, checkpoint.config.hidden), 1.0)
    monkeypatch.setattr("smidgen.calibration.effect._HEAD_ROWS", 64)
    kept = Effect(checkpoint, windows).kl(changed)
    monkeypatch.setattr("smidgen.calibration.effect._KEPT_BYTES", 0)
    assert Effect(checkpoint, windows).kl(changed) == kept
