"""The decoder of every family: cached and uncached agree, and no feature could be left out unnoticed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smidgen.formats.opening import open_checkpoint
from smidgen.model.config import LayerConfig
from smidgen.model.decoder import Cache, Decoder
from tests.family_models import FAMILY_MODELS, VOCABULARY, save_folder

LENGTH, BOUND = 41, 1e-4
_DECODERS: dict[str, Decoder] = {}


@pytest.fixture
def decoder(family: str, tmp_path: Path) -> Decoder:
    if family not in _DECODERS:
        save_folder(family, tmp_path)
        with open_checkpoint(tmp_path) as checkpoint:
            _DECODERS[family] = Decoder(checkpoint.config)
            weights = {name: checkpoint.tensor(name) for name in checkpoint.names()}
            _DECODERS[family].load_state_dict(weights)
    return _DECODERS[family]


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(0, VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(1))


def changed(decoder: Decoder, **change: Any) -> Decoder:
    """The same weights with other settings in every layer; a callable gets the layer."""
    layers = tuple(
        replace(one, **{name: value(one) if callable(value) else value for name, value in change.items()})
        for one in decoder.config.layers
    )
    other = Decoder(replace(decoder.config, layers=layers))
    other.load_state_dict(decoder.state_dict(), strict=False)
    return other


@torch.no_grad()
@pytest.mark.parametrize("family", [name for name in FAMILY_MODELS if name != "phi4"])
@pytest.mark.parametrize("steps", [[1] * LENGTH, [11, 1, 1, 9, 19]], ids=["one by one", "in pieces"])
def test_cached_equals_uncached(decoder: Decoder, ids: Tensor, steps: list[int]) -> None:
    """Also pieces longer and shorter than the window, after it has filled. (Phi-4's long context turns keys otherwise
    once a text is longer than the original one, and keys that are cached stay as they were, as in transformers.)"""
    cache = Cache(decoder.config, len(ids), LENGTH)
    pieces = [decoder(piece, cache) for piece in ids.split(steps, dim=1)]
    assert (torch.cat(pieces, dim=1) - decoder(ids)).abs().max() < BOUND


def unscaled(layer: LayerConfig) -> Any:
    return layer.rotary and replace(layer.rotary, scaling=None)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("gemma2", {"attention_cap": None}),
        ("gemma2", {"attention_scale": 0.3}),
        ("gemma2", {"window": lambda layer: layer.window and layer.window - 1}),
        ("gemma3", {"window": lambda layer: layer.window and layer.window + 1}),
        ("gemma3", {"rotary": unscaled}),
        ("llama2", {"rotary": unscaled}),
        ("llama3", {"rotary": unscaled}),
        ("qwen2", {"rotary": unscaled}),
        ("phi3", {"rotary": unscaled}),
        ("phi4", {"rotary": lambda layer: replace(layer.rotary, width=16, scaling=None)}),
        ("smollm3", {"rotary": lambda layer: None}),
        ("mistral", {"window": None}),
        ("mixtral", {"experts_used": 1}),
        ("qwen2", {"qkv_bias": False}),
        ("smollm2", {"output_bias": False}),
        ("qwen3", {"qk_norm": False}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_features_bite(decoder: Decoder, change: dict[str, Any], ids: Tensor) -> None:
    """The parity tests would notice a feature left out."""
    assert (changed(decoder, **change)(ids) - decoder(ids)).abs().max() > 100 * BOUND
