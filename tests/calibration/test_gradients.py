"""The block-by-block backward pass against ordinary back-propagation through the whole model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smidgen.calibration.gradients import BlockSurvey, steps, survey_blocks
from smidgen.calibration.moments import linear_of
from smidgen.calibration.walk import StateShelf
from smidgen.formats.opening import open_checkpoint
from smidgen.model.config import ModelConfig
from smidgen.model.decoder import Block, Decoder
from smidgen.model.parameters import block_linears
from smidgen.numerics import precision
from smidgen.progress import Task
from tests.tiny_models import (
    GEMMA3_CONFIG,
    GEMMA3_KEYS,
    LLAMA_CONFIG,
    LLAMA_KEYS,
    gguf_tensors,
    random_decoder,
    write_model,
)

FAMILIES = [(GEMMA3_CONFIG, GEMMA3_KEYS), (LLAMA_CONFIG, LLAMA_KEYS)]


def compute_in(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    for module in ("numerics.precision", "calibration.gradients"):
        monkeypatch.setattr(f"smidgen.{module}.fast_product_dtype", lambda: dtype)


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= 1e-3 * expected.norm())


@pytest.mark.parametrize("config, keys", FAMILIES, ids=["gemma3", "llama"])
def test_surveys_equal_whole_model_backward(
    config: ModelConfig, keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_in(monkeypatch, torch.float32)
    decoder = random_decoder(config)
    path = write_model(tmp_path / "tiny.gguf", config.family, keys, gguf_tensors(decoder))
    windows = torch.randint(3, config.vocabulary, (3, 20), generator=torch.Generator().manual_seed(2))
    seen: dict[int, BlockSurvey] = {}
    task, shelf = Task("", 0), StateShelf(tmp_path, torch.float32)
    with open_checkpoint(path) as checkpoint:
        ends = survey_blocks(checkpoint, windows, lambda survey: seen.update({survey.index: survey}), shelf, task)
        assert task.done == steps(checkpoint, windows)
    whole = WholeModel(decoder, windows)
    for index, survey in seen.items():
        for name in block_linears(config.layers[index]):
            x, g = whole.inputs[index, name], whole.gradients[index, name]
            w = g.square().mean(1)
            assert close(survey.linears[name].importance, g.square().mean(0)), name
            assert close(survey.linears[name].token_weights(), w), name
            assert close(survey.linears[name].moments[0].mean(), (x * w[:, None]).T @ x / w.sum()), name
    assert close(ends.embedded, whole.at_entry)
    assert close(ends.head_input, whole.head_input)
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.gguf"]


class WholeModel:
    """Inputs and gradients of every linear layer, flattened over tokens, and the moments of both ends, by autograd."""

    def __init__(self, decoder: Decoder, windows: Tensor) -> None:
        self.inputs: dict[tuple[int, str], Tensor] = {}
        outputs: dict[tuple[int, str], Tensor] = {}

        def keep(key: tuple[int, str]) -> Any:
            def hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                output.retain_grad()
                self.inputs[key], outputs[key] = inputs[0].detach().flatten(0, 1), output

            return hook

        for index, block in enumerate(decoder.blocks):
            assert isinstance(block, Block)
            for name in block_linears(decoder.config.layers[index]):
                linear_of(block, name).register_forward_hook(keep((index, name)))
        embedded = decoder.embed(windows).detach().requires_grad_()
        x = embedded
        for block in decoder.blocks:
            x = block(x)
        hidden = decoder.final_norm(x)
        logits = decoder.logits(hidden)[:, :-1].flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten(), reduction="sum").backward()
        self.gradients = {key: gradient_of(output) for key, output in outputs.items()}
        g, h = gradient_of(embedded), hidden[:, :-1].flatten(0, 1).detach()
        curvature = 1 - logits.detach().softmax(-1).square().sum(-1)
        self.at_entry = g.T @ g / len(g)
        self.head_input = (h * curvature[:, None]).T @ h / len(h)


def gradient_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad.flatten(0, 1)


def test_bfloat16_products_change_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "tiny.gguf", "gemma3", GEMMA3_KEYS, gguf_tensors(random_decoder(GEMMA3_CONFIG)))
    windows = torch.randint(3, GEMMA3_CONFIG.vocabulary, (2, 16), generator=torch.Generator().manual_seed(4))
    found = []
    with open_checkpoint(path) as checkpoint:
        for dtype in (torch.float32, torch.bfloat16):
            compute_in(monkeypatch, dtype)
            found.append(survey_blocks(checkpoint, windows, lambda _: None, StateShelf(tmp_path), Task("", 0)))
    assert (found[0].head_input - found[1].head_input).norm() <= 0.05 * found[0].head_input.norm()
    assert precision.fast_product_dtype() in (torch.float32, torch.bfloat16)
