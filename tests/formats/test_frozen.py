"""A frozen model against the same one in memory: values, slopes, what stays in memory."""

from pathlib import Path

import pytest
import torch

from smidgen.distillation.students.lora import TARGETS, Adapted, LoraOptions
from smidgen.formats.frozen import FrozenLinear, frozen_bytes, load_frozen
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from smidgen.model.decoder import Decoder
from smidgen.numerics import block_types as types
from tests.distillation.students.test_lattice import quantized
from tests.family_models import save_folder
from tests.tiny_models import write_gemma3, write_llama

IDS = torch.randint(250, (2, 20), generator=torch.Generator().manual_seed(0))
DOCUMENTS = (torch.arange(20) >= 7).long().expand(2, -1)


def model(kind: str, folder: Path) -> Path:
    if kind in ("mixtral", "qwen2"):  # folders: with experts and a head of its own; with biases
        save_folder(kind, folder)
        return folder
    path = (write_llama if kind == "llama" else write_gemma3)(folder / "model.gguf")
    return quantized(path, types.Q4_0) if kind == "quantized" else path


@pytest.mark.parametrize("kind", ["gemma3", "llama", "quantized", "mixtral", "qwen2"])
def test_it_computes_what_the_model_in_memory_computes(kind: str, tmp_path: Path) -> None:
    with open_checkpoint(model(kind, tmp_path)) as checkpoint:
        whole, frozen = load_decoder(checkpoint), load_frozen(checkpoint, decoded=False)
        with torch.no_grad():
            assert torch.equal(frozen(IDS), whole(IDS))
            read = [decoder.hidden_states(IDS, documents=DOCUMENTS) for decoder in (whole, frozen)]
        assert torch.equal(*read)
        assert torch.equal(frozen.head_weight(), whole.head_weight())
        assert not [name for name, value in frozen.named_parameters() if value.dim() > 1 and "router" not in name]


def slopes(decoder: Decoder, checkpointing: bool) -> dict[str, torch.Tensor]:
    adapted = Adapted(decoder, LoraOptions(rank=2))
    for name, tensor in adapted.tensors().items():
        if name.endswith("lora_b"):
            tensor.data.fill_(0.01)
    decoder.checkpointing = checkpointing
    hidden = decoder.hidden_states(IDS, documents=DOCUMENTS)
    (hidden @ decoder.head_weight().T).square().mean().backward()
    return {name: tensor.grad for name, tensor in adapted.tensors().items() if tensor.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["gemma3", "quantized", "qwen2"])
def test_what_is_beside_it_learns_the_same(kind: str, checkpointing: bool, tmp_path: Path) -> None:
    with open_checkpoint(model(kind, tmp_path)) as checkpoint:
        expected = slopes(load_frozen(checkpoint, decoded=True), checkpointing)
        found = slopes(load_frozen(checkpoint, decoded=False), checkpointing)
        assert found.keys() == expected.keys()
        assert len(found) == 2 * len(TARGETS) * len(checkpoint.config.layers)
        for name, slope in found.items():
            torch.testing.assert_close(slope, expected[name], rtol=1e-4, atol=1e-7)


def test_some_of_it_may_learn(tmp_path: Path) -> None:
    with open_checkpoint(write_gemma3(tmp_path / "model.gguf")) as checkpoint:
        decoder = load_frozen(checkpoint, decoded=False, learned=lambda name: name.startswith("blocks.1."))
        there = {name for name, value in decoder.named_parameters() if value.dim() > 1}
        assert there == {name for name in checkpoint.names() if name.startswith("blocks.1.") and "norm" not in name}
        assert isinstance(decoder.get_submodule("blocks.0.attention.query"), FrozenLinear)


def test_no_decoded_matrix_waits_in_the_graph(tmp_path: Path) -> None:
    """That would be the whole model in float32 again."""
    with open_checkpoint(write_gemma3(tmp_path / "model.gguf")) as checkpoint:
        sizes = {checkpoint.shape(name) for name in checkpoint.names() if len(checkpoint.shape(name)) > 1}
        decoder = load_frozen(checkpoint, decoded=False)
        Adapted(decoder, LoraOptions(rank=2))
        kept = set[tuple[int, ...]]()

        def note(tensor: torch.Tensor) -> torch.Tensor:
            kept.add(tuple(tensor.shape))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            decoder.hidden_states(IDS)
        assert kept and not kept & sizes and not kept & {shape[::-1] for shape in sizes}


def test_pages_go_back_before_they_become_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_checkpoint(write_gemma3(tmp_path / "model.gguf")) as checkpoint:
        given_back = list[int]()
        monkeypatch.setattr(type(checkpoint), "release", lambda _: given_back.append(1))
        monkeypatch.setattr("smidgen.formats.frozen._MOST_MAPPED", 20_000)
        load_frozen(checkpoint, decoded=False)(IDS)
        assert len(given_back) > 3


def test_a_small_model_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_checkpoint(write_gemma3(tmp_path / "model.gguf")) as checkpoint:

        def is_frozen() -> bool:
            return isinstance(load_frozen(checkpoint).get_submodule("blocks.0.attention.query"), FrozenLinear)

        assert not is_frozen() and frozen_bytes(checkpoint) == 4 * checkpoint.parameters
        monkeypatch.setattr("smidgen.formats.frozen.usable_memory", lambda: 8 * 4 * checkpoint.parameters - 8)
        assert is_frozen()
        assert frozen_bytes(checkpoint) >= 4 * checkpoint.shape("embedding.weight")[0] * checkpoint.config.hidden
