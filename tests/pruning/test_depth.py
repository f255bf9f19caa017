"""Which layers go: measured as written out longhand, found as a search without shortcuts finds them, resumed alike."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from smidgen.calibration.effect import Effect
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Changed, Kept, write_derived
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.workspace import Workspace
from smidgen.model.config import LayerConfig, ModelConfig, Rotary
from smidgen.model.decoder import Decoder
from smidgen.model.families import FAMILIES
from smidgen.pruning import depth
from tests.tiny_models import (
    GEMMA3_CONFIG,
    GEMMA3_KEYS,
    LLAMA_CONFIG,
    LLAMA_KEYS,
    VOCABULARY,
    gguf_tensors,
    random_decoder,
    write_model,
)

LAYERS = 7
#: How strongly each layer writes to the residual stream.
STRENGTHS = (1.0, 0.3, 0.8, 0.05, 0.6, 0.15, 0.9)
CLOSE = 0.03  # of a KL: calibration computes in bfloat16


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = replace(LLAMA_CONFIG, layers=LLAMA_CONFIG.layers[:1] * LAYERS)
    decoder = random_decoder(config)
    for block, strength in zip(decoder.blocks, STRENGTHS, strict=True):
        for name, parameter in block.named_parameters():
            if name in ("attention.output.weight", "feed_forward.down.weight"):
                parameter.data *= strength
    target = tmp_path_factory.mktemp("depth") / "model.gguf"
    return write_model(target, "llama", LLAMA_KEYS | {"block_count": LAYERS}, gguf_tensors(decoder))


@pytest.fixture
def windows() -> Tensor:
    return torch.randint(4, VOCABULARY, (8, 64), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def decoder_of(checkpoint: Checkpoint) -> Decoder:
    decoder = Decoder(checkpoint.config)
    decoder.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()})
    return decoder


@torch.no_grad()
def longhand(checkpoint: Checkpoint, windows: Tensor, kept: list[int]) -> float:
    whole, less = decoder_of(checkpoint), decoder_of(checkpoint)
    less.blocks = nn.ModuleList(less.blocks[layer] for layer in kept)
    p, q = (model(windows).double().log_softmax(2) for model in (whole, less))
    return float((p.exp() * (p - q)).sum(2).mean())


def test_damages_written_out(path: Path, windows: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of single layers and of runs, in a model that lacks some already; the same a few at a time."""
    kept, runs = [0, 1, 2, 4, 5, 6], [(1,), (2, 4), (6,), (0,)]
    with open_checkpoint(path) as checkpoint:
        effect = Effect(checkpoint, windows)
        found = depth.damages(checkpoint, windows, effect, kept, runs)
        assert list(found) == runs
        for run, damage in found.items():
            wanted = longhand(checkpoint, windows, [layer for layer in kept if layer not in run])
            assert abs(damage - wanted) < CLOSE * wanted
        monkeypatch.setattr(depth, "_STATE_BYTES", 1)
        assert depth.damages(checkpoint, windows, effect, kept, runs) == found


@torch.no_grad()
def test_influence_written_out(path: Path, windows: Tensor) -> None:
    with open_checkpoint(path) as checkpoint:
        found = depth.block_influence(checkpoint, windows)
        decoder = decoder_of(checkpoint)
        x = decoder.embed(windows)
        for block, influence in zip(decoder.blocks, found, strict=True):
            y = block(x)
            cosines = (x * y).sum(2) / x.norm(dim=2) / y.norm(dim=2)
            assert abs(influence - float(1 - cosines.mean())) < 1e-3
            x = y


def test_finds_what_a_search_without_shortcuts_finds(path: Path, windows: Tensor, workspace: Workspace) -> None:
    """Every candidate measured in every round; and the weakest layers are the first to go."""
    with open_checkpoint(path) as checkpoint:
        plan = depth.search(checkpoint, windows, 3, workspace)
        effect, kept = Effect(checkpoint, windows), list(range(LAYERS))
        for run, damage in zip(plan.removed, plan.damage, strict=True):
            every = depth.damages(checkpoint, windows, effect, kept, [(layer,) for layer in kept])
            assert min(every, key=lambda one: every[one]) == run
            assert every[run] == pytest.approx(damage)  # pyright: ignore[reportArgumentType]
            kept.remove(run[0])
    assert plan.removed[:2] == ((3,), (5,))
    assert plan.kept == tuple(kept)
    assert set(plan.alone) == {(layer,) for layer in range(LAYERS)}


def test_resumed_it_finds_the_same(
    path: Path, windows: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after a round, the search goes on there; finished, it measures nothing again."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with open_checkpoint(path) as checkpoint:
        wanted = depth.search(checkpoint, windows, 4, Workspace(tmp_path / "a"))
        rounds = []

        def stops(*arguments: object) -> object:
            if len(rounds) == 2:
                raise KeyboardInterrupt
            rounds.append(1)
            return remove_one(*arguments)

        remove_one: Callable = depth._remove_one
        monkeypatch.setattr(depth, "_remove_one", stops)
        with pytest.raises(KeyboardInterrupt):
            depth.search(checkpoint, windows, 4, Workspace(tmp_path / "b"))
        rounds.clear()
        assert depth.search(checkpoint, windows, 4, Workspace(tmp_path / "b")) == wanted
        assert len(rounds) == 1
        monkeypatch.setattr(depth, "Effect", None)
        assert depth.search(checkpoint, windows, 4, Workspace(tmp_path / "b")) == wanted


def test_the_report_is_json(path: Path, windows: Tensor, workspace: Workspace) -> None:
    with open_checkpoint(path) as checkpoint:
        report = depth.search(checkpoint, windows, 5, workspace).report()
    assert json.loads(json.dumps(report)) == report
    assert report["summary"] == "7 → 5 layers, without 3, 5"
    assert report["removed"] == [[3], [5]]
    assert len(report["block_influence"]) == len(report["damage_alone"]) == LAYERS


def test_apply_moves_the_blocks(path: Path, windows: Tensor, workspace: Workspace) -> None:
    """Without compensation nothing changes but the numbers; with it, the predictions come closer."""
    plan = depth.DepthPlan((0, 2, 3, 6), ((1,), (4,), (5,)), (), (0.0,) * LAYERS, {})
    with open_checkpoint(path) as checkpoint:
        plain = depth.apply(checkpoint, plan, windows, workspace, compensate=False)
        assert len(plain.config.layers) == 4
        assert plain.parts["blocks.1.attention.query.weight"] == Kept("blocks.2.attention.query.weight")
        refitted = depth.apply(checkpoint, plan, windows, workspace)
        assert any(isinstance(part, Changed) for part in refitted.parts.values())
        other = torch.randint(4, VOCABULARY, (8, 64), generator=torch.Generator().manual_seed(1))
        effect, divergences = Effect(checkpoint, other), []
        for derived in (plain, refitted):
            target = workspace.folder / "smaller.gguf"
            write_derived(checkpoint, derived, target, plan.report())
            with open_checkpoint(target) as smaller, torch.no_grad():
                decoder = decoder_of(smaller)
                x = decoder.embed(other)
                for block in decoder.blocks:
                    x = block(x)
                divergences.append(effect.kl(x))
        wanted = longhand(checkpoint, other, list(plan.kept))
    assert abs(divergences[0] - wanted) < CLOSE * wanted
    assert divergences[1] < divergences[0]


@pytest.mark.parametrize("layers", [0, -1, LAYERS, LAYERS + 1])
def test_numbers_that_cannot_be(layers: int, path: Path, windows: Tensor, workspace: Workspace) -> None:
    with open_checkpoint(path) as checkpoint, pytest.raises(SmidgenError, match=f"of {LAYERS}; ask for 1 to 6"):
        depth.search(checkpoint, windows, layers, workspace)


def smollm3(layers: int) -> ModelConfig:
    one = LayerConfig(4, 2, 16, 96, Rotary(2e6, 16), 0.25, "silu")
    pattern = tuple(replace(one, rotary=None) if (index + 1) % 4 == 0 else one for index in range(layers))
    return ModelConfig("smollm3", VOCABULARY, 64, pattern, 1e-6, 4096, True)


def test_candidates_are_what_files_can_say() -> None:
    """Layers that go by their number go by whole periods, or last; where files carry the pattern, any may go."""
    family, config = FAMILIES["smollm3"], smollm3(8)
    found = depth.candidates(family, config, range(8), 8)
    assert found == [(7,), (6, 7), (5, 6, 7), *(tuple(range(start, start + 4)) for start in range(5))]
    for run in found:
        left = [layer for index, layer in enumerate(config.layers) if index not in run]
        family.to_gguf(replace(config, layers=tuple(left)))
    assert depth.candidates(family, config, range(8), 2) == [(7,), (6, 7)]
    assert depth.candidates(family, config, [0, 1, 6, 7], 4) == [(7,), (6, 7), (1, 6, 7)]
    gemma = FAMILIES["gemma3"], GEMMA3_CONFIG
    assert depth.candidates(*gemma, range(5), 3) == [(layer,) for layer in range(5)]


def test_a_scale_that_goes_by_the_number_of_layers(tmp_path: Path, windows: Tensor, workspace: Workspace) -> None:
    """llama.cpp takes Gemma 3 27B's scale of attention scores for models of 62 layers alone."""
    layers = tuple(replace(layer, attention_scale=(64 // 6) ** -0.5) for layer in GEMMA3_CONFIG.layers[:1] * 62)
    decoder = random_decoder(replace(GEMMA3_CONFIG, layers=layers))
    keys = GEMMA3_KEYS | {"block_count": 62, "attention.sliding_window_pattern": 0}
    target = write_model(tmp_path / "model.gguf", "gemma3", keys, gguf_tensors(decoder))
    with open_checkpoint(target) as checkpoint, pytest.raises(Unsupported, match="attention_scale"):
        depth.search(checkpoint, windows, 60, workspace)
