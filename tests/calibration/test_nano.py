"""Gemma 3n and Gemma 4 block by block: states, gradients and inputs are those of the whole model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from smidgen.calibration import gradients
from smidgen.calibration.gradients import BlockSurvey, scored_positions, survey_blocks
from smidgen.calibration.sequence import Inputs, advance_replacing
from smidgen.calibration.walk import StateShelf, Walk
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_block, load_decoder, load_exit
from smidgen.model.parameters import block_linears
from smidgen.progress import track
from tests.family_models import VOCABULARY
from tests.nano_models import NANO_MODELS, save_nano

WINDOWS = torch.randint(0, VOCABULARY, (3, 40), generator=torch.Generator().manual_seed(4))


@pytest.fixture(params=NANO_MODELS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Checkpoint]:
    save_nano(request.param, tmp_path)
    with open_checkpoint(tmp_path) as found:
        yield found


def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts of the windows, so that what is lent is kept apart."""
    monkeypatch.setattr("smidgen.calibration.walk.TOKENS_AT_ONCE", 80)


@torch.no_grad()
def test_states_are_those_of_the_whole_model(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    in_small_parts(monkeypatch)
    walk = Walk(checkpoint, WINDOWS)
    for index in range(len(checkpoint.config.layers)):
        walk.advance(load_block(checkpoint, index), index)
        if index == 3:  # a walk that was interrupted goes on from what was kept
            kept = walk.kept()
            walk = Walk(checkpoint, WINDOWS)
            walk.take_up(kept)
    wanted = load_decoder(checkpoint).hidden_states(WINDOWS)
    assert torch.allclose(load_exit(checkpoint)(walk.states), wanted, atol=2e-2)  # products are bfloat16 on some CPUs


@torch.no_grad()
def test_every_matrix_is_met_in_order(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    in_small_parts(monkeypatch)
    walk, other = Walk(checkpoint, WINDOWS), Walk(checkpoint, WINDOWS)
    for index, layer in enumerate(checkpoint.config.layers):
        met: list[str] = []

        def note(names: tuple[str, ...], inputs: Inputs, met: list[str] = met) -> None:
            assert sum(part.flatten(0, -2).shape[0] for part in inputs.batches) <= WINDOWS.numel()
            met.extend(names)

        advance_replacing(load_block(checkpoint, index), walk.states, walk.besides(index), note)
        other.advance(load_block(checkpoint, index), index)
        assert met == list(block_linears(layer))
        assert (walk.states - other.states).norm() <= 0.01 * other.states.norm()
        walk.states.copy_(other.states)  # chaotic models: no errors of earlier blocks


def test_gradients_are_those_of_the_whole_model(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through keys and values that later blocks read, and at what each block looks up."""
    in_small_parts(monkeypatch)
    ends: dict[int, torch.Tensor] = {}
    seen: list[BlockSurvey] = []
    original = gradients._head_gradient

    def remember(*given: object) -> object:
        gradient, head_input = original(*given)
        ends[0] = gradient.clone()
        return gradient, head_input

    monkeypatch.setattr(gradients, "_head_gradient", remember)
    with track("survey", 100) as task:
        shelf = StateShelf(tmp_path, torch.float32)
        found = survey_blocks(checkpoint, WINDOWS, seen.append, shelf, task)
    decoder = load_decoder(checkpoint).requires_grad_(False)
    embedded, looked, leaving = wholly(decoder)
    at_embedded, *at_looked = torch.autograd.grad(leaving, [embedded, *looked], ends[0], allow_unused=True)
    entered = scored_positions(checkpoint, WINDOWS)
    assert relative(found.embedded, at_embedded[entered]) < 0.02
    assert len(at_looked) == (len(seen) if checkpoint.config.layer_input else 0)
    for survey, wanted in zip(reversed(seen), at_looked, strict=bool(at_looked)):
        assert survey.looked_up is not None
        assert relative(survey.looked_up.table, wanted[entered]) < 0.02


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def wholly(decoder: torch.nn.Module) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """What enters the first block, what each block takes from the table, and what leaves the last block."""
    kept: dict[str, torch.Tensor] = {}
    embed, embedding = decoder.embed, decoder.layer_embedding

    def watched(ids: torch.Tensor) -> torch.Tensor:
        kept["embedded"] = embed(ids).requires_grad_()
        return kept["embedded"]

    decoder.embed = watched  # type: ignore[method-assign]
    looked: list[torch.Tensor] = []
    if embedding is not None:
        rows = embedding(WINDOWS.where(WINDOWS < decoder.config.layer_input_rows, 0))
        looked = [one.clone().requires_grad_() for one in rows.split(decoder.config.layer_input, dim=-1)]
        embedding.forward = lambda _: torch.cat(looked, dim=-1)
    decoder.blocks[-1].register_forward_hook(lambda *given: kept.__setitem__("left", given[2]))
    decoder.hidden_states(WINDOWS)
    return kept["embedded"], looked, kept["left"]
