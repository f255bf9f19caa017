"""Adapters as PEFT and llama.cpp load them: with them, both compute what our decoder does with the same matrices."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
import transformers

from smidgen.distillation.students.lora import ATTENTION, TARGETS, Adapted
from smidgen.formats.adapters import read_adapter, write_gguf_lora, write_peft
from smidgen.formats.convert import write_as_gguf
from smidgen.formats.hf.writer import write_hf
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from tests.family_models import VOCABULARY, save_folder
from tests.parity.test_decoder_llama_cpp import LlamaCpp
from tests.tiny_adapters import with_adapter

# SmolLM2: rows of queries and keys move in GGUF. Phi-4: stacked tensors. Mixtral: experts beside what is adapted.
FAMILIES = {"gemma3": TARGETS, "smollm2": TARGETS, "phi4": TARGETS, "qwen2": ("attention.query",), "mixtral": ATTENTION}

pytestmark = pytest.mark.parametrize("family", FAMILIES)


@torch.no_grad()
def test_peft(family: str, tmp_path: Path) -> None:
    """Into transformers' model by PEFT's own loader, and from what PEFT writes back into ours."""
    peft = import_module("peft")
    (tmp_path / "model").mkdir()
    save_folder(family, tmp_path / "model")
    ids = torch.randint(0, VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(1))
    with open_checkpoint(tmp_path / "model") as checkpoint:
        write_hf(checkpoint, tmp_path / "again")
        plain = load_decoder(checkpoint)(ids)
        decoder, adapter = with_adapter(checkpoint, FAMILIES[family])
        ours = decoder(ids)
        write_peft(adapter, checkpoint, tmp_path, str(tmp_path / "again"), dropout=0.1)
        base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)
        theirs = peft.PeftModel.from_pretrained(base, tmp_path)
        assert (ours - plain).abs().max() > 0.3
        assert (theirs(input_ids=ids).logits - ours).abs().max() < 1e-4
        theirs.save_pretrained(tmp_path / "theirs")
        again = Adapted.continued(load_decoder(checkpoint), read_adapter(tmp_path / "theirs", checkpoint))
        assert (again.decoder(ids) - ours).abs().max() < 1e-4


@torch.no_grad()
def test_llama_cpp(family: str, tmp_path: Path, llama_cpp_gelu: None) -> None:
    """llama.cpp takes adapter.gguf for model.gguf and predicts as our decoder does; and it reads back as it was."""
    (tmp_path / "folder").mkdir()
    save_folder(family, tmp_path / "folder")
    with open_checkpoint(tmp_path / "folder") as checkpoint:
        write_as_gguf(checkpoint, tmp_path / "model.gguf")
    ids = torch.randint(4, 250, (1, 40), generator=torch.Generator().manual_seed(3))
    with open_checkpoint(tmp_path / "model.gguf") as checkpoint:
        plain = load_decoder(checkpoint)(ids)[0, -1].log_softmax(0)
        decoder, adapter = with_adapter(checkpoint, FAMILIES[family])
        ours = decoder(ids)[0, -1].log_softmax(0)
        write_gguf_lora(adapter, checkpoint, tmp_path / "adapter.gguf", "test")
        again = Adapted.continued(load_decoder(checkpoint), read_adapter(tmp_path / "adapter.gguf", checkpoint))
        assert (again.decoder(ids)[0, -1].log_softmax(0) - ours).abs().max() < 1e-5
        gelu = checkpoint.config.layers[0].activation == "gelu_tanh"
    tokens, scores = LlamaCpp(tmp_path / "model.gguf", 128, tmp_path / "adapter.gguf").likeliest(
        ids[0].tolist(), VOCABULARY
    )
    assert (ours - plain).abs().max() > 0.3
    assert (ours[tokens] - scores).abs().max() < (1e-3 if gelu else 1e-4)
