"""The block-by-block backward pass against ordinary back-propagation through the whole model."""

from pathlib import Path

import pytest
import torch

from smidgen.calibrate.gradients import BlockSurvey, survey_blocks
from smidgen.calibrate.moments import INPUT_OF, linear_of
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.config import ModelConfig
from smidgen.model.decoder import Decoder
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


@pytest.mark.parametrize(
    "config, keys", [(GEMMA3_CONFIG, GEMMA3_KEYS), (LLAMA_CONFIG, LLAMA_KEYS)], ids=["gemma3", "llama"]
)
def test_importance_equals_whole_model_backward(config: ModelConfig, keys: dict, tmp_path: Path) -> None:
    decoder = random_decoder(config)
    path = write_model(tmp_path / "tiny.gguf", config.family, keys, gguf_tensors(decoder))
    windows = torch.randint(3, config.vocabulary, (3, 20), generator=torch.Generator().manual_seed(2))
    seen: dict[int, BlockSurvey] = {}
    with Checkpoint.open(path) as checkpoint:
        ends = survey_blocks(checkpoint, windows, lambda survey: seen.update({survey.index: survey}), Task("", 1))
    squares, at_entry, head_input = whole_model(decoder, windows)
    for index, survey in seen.items():
        for name in INPUT_OF:
            expected = squares[index, name]
            assert torch.allclose(survey.importance[name], expected, rtol=1e-3, atol=1e-3 * float(expected.mean())), (
                name
            )
    assert torch.allclose(ends.embedded, at_entry, rtol=1e-3, atol=1e-3 * float(at_entry.diagonal().mean()))
    assert torch.allclose(ends.head_input, head_input, rtol=1e-3, atol=1e-3 * float(head_input.diagonal().mean()))


def whole_model(decoder: Decoder, windows: torch.Tensor) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """E[g²] at each linear output, E[g gᵀ] at the first block's input, weighted E[h hᵀ] at the head, by autograd."""
    outputs, entry = {}, []
    for index, block in enumerate(decoder.blocks):
        for name in INPUT_OF:

            def keep(_, __, output, key=(index, name)):
                output.retain_grad()
                outputs[key] = output

            linear_of(block, name).register_forward_hook(keep)
    embedded = decoder.embed(windows).detach().requires_grad_()
    entry.append(embedded)
    x = embedded
    for block in decoder.blocks:
        x = block(x)
    hidden = decoder.final_norm(x)
    logits = decoder.logits(hidden)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten(), reduction="sum")
    loss.backward()
    tokens = windows.numel()
    squares = {key: output.grad.flatten(0, 1).square().sum(0) / tokens for key, output in outputs.items()}
    g = embedded.grad.flatten(0, 1)
    h = hidden[:, :-1].flatten(0, 1).detach()
    curvature = 1 - logits[:, :-1].flatten(0, 1).detach().softmax(-1).square().sum(-1)
    return squares, g.T @ g / tokens, (h * curvature[:, None]).T @ h / len(h)
