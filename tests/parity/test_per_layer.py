"""What llama.cpp and transformers read for each layer by itself: files of models whose layers were chosen freely."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from smidgen.errors import Unsupported
from smidgen.formats.derived import Changed, Derived, Kept, Part, write_derived
from smidgen.formats.hf.writer import write_hf
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.workspace import Workspace
from smidgen.model.config import ModelConfig
from smidgen.pruning import depth
from tests.family_models import FAMILY_MODELS, VOCABULARY, save_folder
from tests.parity.test_decoder_llama_cpp import LlamaCpp, log_probabilities
from tests.parity.test_families import decoder_of

LENGTHS = (1, 6, 8, 30)
NO_WINDOWS = torch.zeros(0, 8, dtype=torch.long)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            # Not named after the family: llama.cpp wants certain tokens in models whose name has "phi3" in it.
            made[family] = tmp_path_factory.mktemp("model")
            save_folder(family, made[family])
        return made[family]

    return get


def without_layers(folder: Path, kept: tuple[int, ...], path: Path) -> None:
    with open_checkpoint(folder) as checkpoint:
        plan = depth.DepthPlan(kept, (), (), (), {})
        derived = depth.apply(checkpoint, plan, NO_WINDOWS, Workspace(path.parent), compensate=False)
        write_derived(checkpoint, derived, path, {"step": "depth"})


# Gemma 2 alternates by a window, the Gemma 3 here has its only layer without one as the second.
KEPT = [
    *((family, (0, 2)) for family in FAMILY_MODELS if family not in ("smollm3",)),
    ("gemma2", (0, 2, 3)),
    ("gemma3", (1, 3)),
    ("gemma3", (1,)),
    ("smollm3", (0, 1, 2)),
]


@pytest.mark.parametrize(("family", "kept"), KEPT)
@torch.no_grad()
def test_any_layers_kept(
    family: str, kept: tuple[int, ...], saved: Callable[[str], Path], tmp_path: Path, llama_cpp_gelu: None
) -> None:
    """The file without the other layers predicts the same in llama.cpp, transformers, and the decoder without them."""
    path = tmp_path / "model.gguf"
    without_layers(saved(family), kept, path)
    longest = FAMILY_MODELS[family].longest
    generator = torch.Generator().manual_seed(3)
    prompts = [
        torch.randint(4, 250, (length,), generator=generator).tolist() for length in LENGTHS if length <= longest
    ]
    with open_checkpoint(saved(family)) as before, open_checkpoint(path) as after:
        whole, ours = decoder_of(before), decoder_of(after)
        whole.blocks = torch.nn.ModuleList(whole.blocks[layer] for layer in kept)
        ids = torch.tensor([prompts[-1]])
        assert torch.equal(whole(ids), ours(ids))
        write_hf(after, tmp_path / "again", "float32")
        gelu = after.config.layers[0].activation == "gelu_tanh"
    theirs = LlamaCpp(path, context=128)
    for prompt, expected in zip(prompts, log_probabilities(path, prompts), strict=True):
        tokens, scores = theirs.likeliest(prompt, VOCABULARY)
        assert scores.std() > 0.3
        assert (expected[tokens] - scores).abs().max() < (1e-3 if gelu else 1e-4), len(prompt)
    if family != "openelm":  # transformers has no class for it
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", attn_implementation="eager")
        assert (model(input_ids=ids).logits - ours(ids)).abs().max() < (1e-3 if gelu else 1e-4)


def with_layer(config: ModelConfig, **changes: Any) -> ModelConfig:
    """The last layer another one than the others."""
    return replace(config, layers=(*config.layers[:-1], replace(config.layers[-1], **changes)))


@pytest.mark.parametrize("family", FAMILY_MODELS)
def test_layers_of_their_own_sizes_are_refused_where_they_are_not_read(
    family: str, saved: Callable[[str], Path]
) -> None:
    """Only llama.cpp's OpenELM takes sizes layer by layer; transformers has none that does, and none of OpenELM."""
    with open_checkpoint(saved(family)) as checkpoint:
        config, maps = checkpoint.config, checkpoint.family
    other = {"feed_forward_length": {"ffn_width": 64}, "attention.head_count": {"heads": 2, "kv_heads": 2}}
    for key, changes in other.items():
        if family == "openelm":
            maps.to_gguf(with_layer(config, **changes))
            maps.to_hf(with_layer(config, **changes))
            continue
        with pytest.raises(Unsupported, match=f"one {key} for all layers of {maps.gguf.architecture}"):
            maps.to_gguf(with_layer(config, **changes))
        with pytest.raises(Unsupported, match="layer .* cannot say that"):
            maps.to_hf(with_layer(config, **changes))


@pytest.mark.parametrize("family", FAMILY_MODELS)
def test_what_llama_cpp_says_to_them(family: str, saved: Callable[[str], Path], tmp_path: Path) -> None:
    """It reads the arrays and then wants the first layer's sizes of every layer, but for OpenELM."""
    with open_checkpoint(saved(family)) as checkpoint:
        config = checkpoint.config
        last = len(config.layers) - 1
        narrow = with_layer(config, ffn_width=64)
        networks = [f"experts.{e}" for e in range(config.layers[0].experts)] or ["feed_forward"]
        parts: dict[str, Part] = {}
        for name in (f"blocks.{last}.{network}" for network in networks):
            parts |= {f"{name}.{part}.weight": Kept(f"{name}.{part}.weight", np.arange(64)) for part in ("gate", "up")}
            down = checkpoint.tensor(f"{name}.down.weight")[:, :64]
            parts[f"{name}.down.weight"] = Changed(lambda down=down: down)
        forced = replace(checkpoint.family.gguf, features=checkpoint.family.gguf.features | {"layer_widths"})
        checkpoint.family = replace(checkpoint.family, gguf=forced)
        write_derived(checkpoint, Derived(narrow, parts), tmp_path / "model.gguf", {"step": "width"})
    if family == "openelm":
        # Asked something, because a server that ends before its loop has begun can wait for itself forever.
        LlamaCpp(tmp_path / "model.gguf", context=128).likeliest([2, 5], 1)
    else:
        with pytest.raises(RuntimeError):
            LlamaCpp(tmp_path / "model.gguf", context=128)


@pytest.mark.parametrize("family", ["qwen2", "phi3"])
def test_heads_as_wide_as_the_hidden_states(family: str, saved: Callable[[str], Path]) -> None:
    with open_checkpoint(saved(family)) as checkpoint:
        layers = tuple(replace(layer, heads=2, kv_heads=2) for layer in checkpoint.config.layers)
        with pytest.raises(Unsupported, match="2 times 16 for 64"):
            checkpoint.family.to_gguf(replace(checkpoint.config, layers=layers))


def test_patterns_that_no_file_carries(saved: Callable[[str], Path]) -> None:
    """SmolLM3's layers without positions go by their number; Gemma 2 without any window crashes llama.cpp."""
    for family, kept in (("smollm3", (0, 2, 3)), ("gemma2", (1, 3))):
        with open_checkpoint(saved(family)) as checkpoint:
            config = replace(checkpoint.config, layers=tuple(checkpoint.config.layers[layer] for layer in kept))
            with pytest.raises(Unsupported, match="cannot say that"):
                checkpoint.family.to_gguf(config)
            checkpoint.family.to_hf(config)
