"""The block-by-block backward pass against ordinary back-propagation through the whole model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smidgen.calibration import gradients
from smidgen.calibration.gradients import BlockSurvey, costs, survey_blocks
from smidgen.calibration.moments import linear_of
from smidgen.calibration.row_gradients import RowGradients
from smidgen.calibration.sample import judging
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
    monkeypatch.setattr(
        "smidgen.calibration.gradients._draw_labels", lambda labels, *_: labels.copy_(windows[:, 1:].flatten())
    )
    with open_checkpoint(path) as checkpoint:
        ends = survey_blocks(checkpoint, windows, lambda survey: seen.update({survey.index: survey}), shelf, task)
        assert task.done == len(costs(checkpoint, windows))
    whole = WholeModel(decoder, windows)
    judges = judging(*windows.shape)
    for index, survey in seen.items():
        for name in block_linears(config.layers[index]):
            x, g = whole.inputs[index, name], whole.gradients[index, name]
            w = g.square().mean(1)
            assert close(survey.linears[name].importance, g.square().mean(0)), name
            assert close(survey.linears[name].token_weights(), w), name
            assert survey.linears[name].rows is not None
            assert close_enough(survey.linears[name].rows, x, g, windows.shape[1]), name
            sample, fits = survey.linears[name].inputs.sample(), ~judges.flatten()
            assert close(sample.moment, (x * w[:, None])[fits].T @ x[fits] / w[fits].sum()), name
            kept = (x * (w / w[~fits].sum()).sqrt()[:, None])[~fits]
            assert close(sample.judges, kept), name
    assert close(ends.embedded, whole.at_entry)
    assert close(ends.head_input, whole.head_input)
    assert torch.equal(ends.judging[0], judges.flatten()) and torch.equal(ends.judging[1], judges[:, :-1].flatten())
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.gguf"]


def close_enough(gradients: RowGradients, x: Tensor, g: Tensor, length: int) -> bool:
    """What a random error of the rows would cost; the gradients are kept in bfloat16."""
    rows, share = gradients.drawn
    error = torch.randn(len(rows), x.shape[1], generator=torch.Generator().manual_seed(3))
    felt = (g[:, rows] * (x @ error.T)).view(-1, length, len(rows)).sum(1)
    return gradients.cost(error) == pytest.approx(float(felt.square().sum(0) @ share) / len(x), rel=0.01)


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
        self.at_entry = gradient_of(embedded)
        cap = decoder.config.logit_cap
        slopes = 1.0 if cap is None else 1 - (logits.detach() / cap).square()
        p = logits.detach().softmax(-1)
        curvature = (p * (1 - p) * slopes**2).sum(-1, keepdim=True)
        self.head_input = hidden[:, :-1].flatten(0, 1).detach() * curvature.sqrt()


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
    first, second = (ends.head_input.T @ ends.head_input for ends in found)
    assert (first - second).norm() <= 0.05 * first.norm()
    assert precision.fast_product_dtype() in (torch.float32, torch.bfloat16)


def test_labels_are_drawn_from_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From chunk to chunk of the vocabulary: shares of many draws are the probabilities."""
    compute_in(monkeypatch, torch.float32)
    monkeypatch.setattr("smidgen.calibration.gradients._HEAD_ROWS", 100)
    decoder = random_decoder(GEMMA3_CONFIG)
    path = write_model(tmp_path / "tiny.gguf", "gemma3", GEMMA3_KEYS, gguf_tensors(decoder))
    hidden = torch.randn(1, GEMMA3_CONFIG.hidden, generator=torch.Generator().manual_seed(5))
    drawn: list[Tensor] = []
    plain = gradients._draw_labels

    def watched(labels: Tensor, *rest: Any) -> None:
        plain(labels, *rest)
        drawn.append(labels)

    monkeypatch.setattr(gradients, "_draw_labels", watched)
    with open_checkpoint(path) as checkpoint, torch.no_grad():
        gradients._softmax_gradient(checkpoint, hidden.expand(20_000, -1), torch.Generator().manual_seed(6))
        p = decoder.logits(hidden)[0].softmax(-1)
    shares = drawn[-1].bincount(minlength=GEMMA3_CONFIG.vocabulary) / 20_000
    assert (shares - p).abs().sum() < 0.15 and shares[p.argmax()] == pytest.approx(float(p.max()), abs=0.02)
