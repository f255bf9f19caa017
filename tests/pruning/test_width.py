"""Narrow models of every family: written, opened, run here and in llama.cpp; what is impossible is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Changed, Derived, Kept, write_derived
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.workspace import Workspace
from smidgen.model.config import ModelConfig
from smidgen.model.decoder import Decoder
from smidgen.pruning import width
from smidgen.pruning.width import WidthPlan
from tests.family_models import FAMILY_MODELS, VOCABULARY, save_folder
from tests.parity.conftest import half_table_gelu
from tests.parity.test_decoder_llama_cpp import LlamaCpp, log_probabilities
from tests.tiny_models import (
    GEMMA3_CONFIG,
    GEMMA3_KEYS,
    LLAMA_CONFIG,
    LLAMA_KEYS,
    gguf_tensors,
    random_decoder,
    write_model,
)

DENSE = [family for family in FAMILY_MODELS if family != "mixtral"]
WINDOWS = torch.randint(0, VOCABULARY, (6, 24), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """A family's checkpoint; made once."""
    made: dict[str, Checkpoint] = {}

    def get(family: str) -> Checkpoint:
        if family not in made:
            folder = tmp_path_factory.mktemp(family) / "model"
            folder.mkdir()
            save_folder(family, folder)
            made[family] = open_checkpoint(folder)
        return made[family]

    return get


def workspace(folder: Path) -> Workspace:
    return Workspace.start(folder / "work", {})


def values(checkpoint: Checkpoint, derived: Derived, name: str) -> Tensor:
    part = derived.parts.get(name, Kept(name))
    if isinstance(part, Changed):
        return part.values()
    tensor = checkpoint.tensor(part.name)
    return tensor if part.rows is None else tensor[torch.from_numpy(part.rows)]


def decoder_of(checkpoint: Checkpoint) -> Decoder:
    decoder = Decoder(checkpoint.config)
    decoder.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()})
    return decoder


def damage(checkpoint: Checkpoint, narrow: Decoder) -> float:
    """Mean squared change of the logits."""
    with torch.no_grad():
        return float((decoder_of(checkpoint)(WINDOWS) - narrow(WINDOWS)).square().mean())


@pytest.mark.parametrize("family", DENSE)
def test_halves_the_feed_forward_width_of_every_family(family: str, saved: Callable, tmp_path: Path) -> None:
    checkpoint = saved(family)
    widest = max(layer.ffn_width for layer in checkpoint.config.layers)
    wanted = {96: 64, 160: 96}[widest]
    plan = width.plan(checkpoint, wanted, None, None, WINDOWS, workspace(tmp_path), method="magnitude")
    derived = width.apply(checkpoint, plan, WINDOWS, workspace(tmp_path), compensate=False)
    write_derived(checkpoint, derived, tmp_path / "narrow.gguf", {"step": "width", **plan.report()})

    expected = decoder_of(checkpoint)
    for index, cut in enumerate(plan.layers):  # a channel that is not read is a channel that is not there
        network = expected.get_submodule(f"blocks.{index}.feed_forward")
        gone = sorted(set(range(checkpoint.config.layers[index].ffn_width)) - set(cut.ffn))
        network.get_parameter("down.weight").data[:, gone] = 0
    with open_checkpoint(tmp_path / "narrow.gguf") as narrow, torch.no_grad():
        assert [layer.ffn_width for layer in narrow.config.layers] == [len(cut.ffn) for cut in plan.layers]
        found = decoder_of(narrow)(WINDOWS)
    assert torch.allclose(found, expected(WINDOWS), atol=3e-2 if family == "openelm" else 1e-3)


@pytest.mark.parametrize("family", ["gemma3", "llama3", "openelm"])
def test_llama_cpp_runs_it(family: str, saved: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "gelu", half_table_gelu)
    checkpoint = saved(family)
    kv_heads = 1 if family == "llama3" else None
    plan = width.plan(checkpoint, 64, kv_heads, 32, WINDOWS, workspace(tmp_path), method="magnitude")
    path = tmp_path / "narrow.gguf"
    write_derived(checkpoint, width.apply(checkpoint, plan, WINDOWS, workspace(tmp_path)), path, {"step": "width"})
    ids = torch.randint(4, 250, (24,), generator=torch.Generator().manual_seed(4)).tolist()
    tokens, scores = LlamaCpp(path, context=128).likeliest(ids, VOCABULARY)
    assert (log_probabilities(path, [ids])[0][tokens] - scores).abs().max() < 2e-2


def test_heads_go_with_their_key_value_heads(saved: Callable, tmp_path: Path) -> None:
    checkpoint = saved("smollm2")  # four heads, two key/value heads, biases everywhere in the attention
    plan = width.plan(checkpoint, None, 1, None, WINDOWS, workspace(tmp_path))
    derived = width.apply(checkpoint, plan, WINDOWS, workspace(tmp_path), compensate=False)
    expected, narrow = decoder_of(checkpoint), Decoder(derived.config)
    narrow.load_state_dict({name: values(checkpoint, derived, name) for name in narrow.state_dict()})
    for index, cut in enumerate(plan.layers):
        (group,) = cut.kv_heads
        assert cut.heads == (2 * group, 2 * group + 1)
        gone = [feature for feature in range(64) if feature // 16 not in cut.heads]
        expected.get_parameter(f"blocks.{index}.attention.output.weight").data[:, gone] = 0
    assert torch.allclose(narrow(WINDOWS), expected(WINDOWS), atol=1e-4)
    assert all(0 <= cut.loss < 100 for cut in plan.layers)


def test_query_heads_of_a_group_that_stays(saved: Callable, tmp_path: Path) -> None:
    checkpoint = saved("smollm2")
    plan = width.plan(checkpoint, None, None, None, WINDOWS, workspace(tmp_path), heads=1)
    assert all(len(cut.heads) == 2 and cut.kv_heads == (0, 1) for cut in plan.layers)
    assert all(cut.heads[0] in (0, 1) and cut.heads[1] in (2, 3) for cut in plan.layers)


@pytest.mark.parametrize("family", ["gemma3", "llama3"])
def test_nothing_left_out_is_nothing_changed(family: str, saved: Callable, tmp_path: Path) -> None:
    """The residual stream's machinery with all of its channels: factors are 1, nothing is missing, nothing refitted."""
    checkpoint = saved(family)
    plan = WidthPlan(
        width.plan(checkpoint, None, None, None, WINDOWS, workspace(tmp_path)).layers, tuple(range(64)), ""
    )
    derived = width.apply(checkpoint, plan, WINDOWS, workspace(tmp_path))
    assert derived.config == checkpoint.config
    for name in checkpoint.names():
        assert torch.allclose(values(checkpoint, derived, name), checkpoint.tensor(name), rtol=1e-5), name


@pytest.mark.parametrize(
    "config, keys", [(GEMMA3_CONFIG, GEMMA3_KEYS), (LLAMA_CONFIG, LLAMA_KEYS)], ids=["gemma3", "llama"]
)
def test_channels_that_are_dead_are_the_ones_to_go(config: ModelConfig, keys: dict[str, Any], tmp_path: Path) -> None:
    """Half of the residual stream is always 0: without it, everything that follows from its size must follow."""
    decoder = random_decoder(config)
    alive = torch.randperm(64, generator=torch.Generator().manual_seed(6))[:32].sort().values
    dead = torch.ones(64, dtype=torch.bool)
    dead[alive] = False
    for name, parameter in decoder.named_parameters():
        if name == "embedding.weight":
            parameter.data[:, dead] = 0
            parameter.data *= 8 / config.embedding_scale  # so large that the norms' epsilon is nothing
        elif name.endswith(("output.weight", "down.weight")):
            parameter.data[dead] = 0
    path = write_model(tmp_path / "model.gguf", config.family, keys, gguf_tensors(decoder))
    with open_checkpoint(path) as checkpoint, torch.no_grad():
        plan = width.plan(checkpoint, None, None, 32, WINDOWS % 300, workspace(tmp_path))
        assert plan.channels == tuple(alive.tolist())
        derived = width.apply(checkpoint, plan, WINDOWS % 300, workspace(tmp_path), compensate=False)
        assert derived.config.embedding_scale == pytest.approx(1.0 if config.family == "llama" else 32**0.5)
        write_derived(checkpoint, derived, tmp_path / "narrow.gguf", {"step": "width", **plan.report()})
        with open_checkpoint(tmp_path / "narrow.gguf") as narrow:
            assert torch.allclose(decoder_of(narrow)(WINDOWS % 300), decoder(WINDOWS % 300), atol=1e-3)


@pytest.mark.parametrize("family", ["gemma3", "gemma2", "llama3"])
def test_compensation_wins(family: str, saved: Callable, tmp_path: Path) -> None:
    checkpoint = saved(family)
    plan = width.plan(checkpoint, 64, None, None, WINDOWS, workspace(tmp_path))
    windows = torch.randint(0, VOCABULARY, (120, 24), generator=torch.Generator().manual_seed(5))
    lost = {}
    for compensate in (False, True):
        derived = width.apply(checkpoint, plan, windows, workspace(tmp_path), compensate)
        narrow = Decoder(derived.config)
        narrow.load_state_dict({name: values(checkpoint, derived, name) for name in narrow.state_dict()})
        lost[compensate] = damage(checkpoint, narrow)
    assert lost[True] < 0.98 * lost[False]


@pytest.mark.parametrize(
    "family, sizes, message",
    [
        ("llama3", {"ffn": 48}, "Take 32 or 64"),
        ("llama3", {"ffn": 128}, "Take 96"),
        ("llama3", {"ffn": 0}, "Take 32"),
        ("llama3", {"kv_heads": 3}, "Keep 1 to 2"),
        ("llama3", {"kv_heads": 0}, "Keep 1 to 2"),
        ("gemma3", {"kv_heads": 1}, "Keep .* that make 4"),
        ("llama3", {"heads": 3}, "Keep 1 to 2"),
        ("llama3", {"hidden": 40}, "Take 32 or 64"),
        ("mixtral", {"ffn": 64}, "whole experts"),
    ],
)
def test_refuses_what_cannot_be(
    family: str, sizes: dict[str, int], message: str, saved: Callable, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"ffn": None, "kv_heads": None, "hidden": None} | sizes
    with pytest.raises((SmidgenError, Unsupported), match=message) as caught:
        width.plan(saved(family), windows=WINDOWS, workspace=workspace(tmp_path), **asked)
    assert "\n" not in str(caught.value)


def test_the_ranking_is_made_once(saved: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, place = saved("llama3"), workspace(tmp_path)
    first = width.plan(checkpoint, 64, None, None, WINDOWS, place)
    monkeypatch.delattr("smidgen.calibration.channels.survey_blocks")
    assert width.plan(checkpoint, 64, None, None, WINDOWS, place) == first
