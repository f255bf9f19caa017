"""The reckoning of memory, against what torch keeps; and what is chosen by it."""

from dataclasses import replace

import pytest
import torch

from smidgen.distillation.loop.memory import fitted, kept_by_block
from smidgen.distillation.students.lora import Adapted, LoraOptions
from smidgen.errors import SmidgenError
from smidgen.model.config import LayerConfig, ModelConfig, Rotary
from tests.tiny_models import random_decoder

PLAIN = LayerConfig(4, 2, 32, 256, Rotary(1e4, 32), 32**-0.5, "silu")
GEMMA4 = replace(PLAIN, post_norms=True, qk_norm=True, activation="gelu_tanh", value_norm=True, output_scale=True)
LAYERS = {
    "plain": PLAIN,
    "norms": replace(PLAIN, post_norms=True, qk_norm=True, activation="gelu_tanh"),
    "capped": replace(PLAIN, attention_cap=50.0, post_norms=True, activation="gelu_tanh"),
    "grouped": replace(PLAIN, heads=8, kv_heads=1, ffn_width=512),
    "experts": replace(PLAIN, experts=4, experts_used=2),
    "many experts": replace(PLAIN, experts=16, experts_used=8, ffn_width=32),
    "gemma 4": replace(GEMMA4, layer_input=32),
    "gemma 4 with experts": replace(GEMMA4, experts=4, experts_used=2, expert_width=64),
    "gemma 3n": replace(
        GEMMA4, output_scale=False, layer_input=32, streams=4, low_rank=16, sparsity=0.9, activation="gelu_tanh"
    ),
}
TOKENS = 128


def config(layer: LayerConfig, layers: int, hidden: int = 64) -> ModelConfig:
    rows = 60 if layer.layer_input else 0
    return ModelConfig("llama", 60, hidden, (layer,) * layers, 1e-5, 4096, True, layer_input_rows=rows)


def kept(layer: LayerConfig, layers: int, adapted: bool) -> int:
    """Numbers that are saved for the backward pass, each once."""
    decoder = random_decoder(config(layer, layers))
    if adapted:
        Adapted(decoder, LoraOptions(rank=2, targets=("attention",)))
    weights = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}
    found: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        decoder.hidden_states(torch.randint(60, (1, TOKENS)))
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values()) // 4


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_block_keeps_no_more_than_is_reckoned_and_not_much_less(name: str, adapted: bool) -> None:
    layer = LAYERS[name]
    found = (kept(layer, 3, adapted) - kept(layer, 1, adapted)) / 2 / TOKENS
    assert 0.5 * kept_by_block(layer, 64, TOKENS) < found <= kept_by_block(layer, 64, TOKENS)


def test_fewer_rows_and_then_checkpointing_make_it_fit() -> None:
    shape, sizes = config(PLAIN, 12, 512), range(5000, 800, -10)
    chosen = []
    for size in sizes:
        try:
            chosen.append(fitted(shape, 0, 1024, 8, most=size * 10**6))
        except SmidgenError:
            break
    kinds = list(dict.fromkeys((fit.rows, fit.checkpointing) for fit in chosen))
    assert kinds[:4] == [(8, False), (4, False), (2, False), (1, False)]
    assert kinds[4:] and all(again for _, again in kinds[4:])
    assert all(fit.needed <= size * 10**6 for fit, size in zip(chosen, sizes, strict=False))
    with pytest.raises(SmidgenError, match=r"takes .* with 1024 tokens at a time and checkpointing, .* allows 500.0"):
        fitted(shape, 0, 1024, 8, most=500 * 10**6)


def test_what_is_wanted_is_kept_and_said() -> None:
    fit = fitted(config(PLAIN, 2), 10**6, 64, 3, most=10**10, checkpointing=True)
    assert (fit.rows, fit.checkpointing) == (3, True)
    assert "3 rows at a time, each block computed again" in fit.describe()
    assert fitted(config(PLAIN, 2), 10**6, 64, 1, most=10**10).describe().endswith("1 row at a time.")


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = config(PLAIN, 12, 512)
    needed = fitted(shape, 0, 1024, 8, most=10**12).needed
    monkeypatch.setattr("smidgen.distillation.loop.memory.available_memory", lambda: int(needed / 0.9) + 10)
    assert fitted(shape, 0, 1024, 8).rows == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert fitted(shape, 0, 1024, 8).rows == 2
