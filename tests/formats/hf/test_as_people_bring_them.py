"""Folders as savers and trainers leave them: read as transformers reads them, or said."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import smidgen
from smidgen.engines.llama_cpp.engine import Facts, LlamaCppEngine
from smidgen.errors import Unsupported
from smidgen.formats.gguf.writer import TensorPlan, gguf_types, write_gguf
from smidgen.formats.hf.checkpoint import _say_own_head
from smidgen.formats.opening import open_checkpoint
from tests.family_models import save_folder

IDS = torch.tensor([[5, 9, 2, 7, 3, 8, 11, 40, 41, 300]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """SmolLM2's shape: tied embeddings, rotary positions without scaling."""
    save_folder("smollm2", tmp_path)
    return tmp_path


def rewrite(folder: Path, change: dict[str, torch.Tensor | None], metadata: dict[str, str] | None = None) -> None:
    """Tensors added, or removed where they are None."""
    weights = load_file(folder / "model.safetensors") | change
    kept = {name: value.contiguous() for name, value in weights.items() if value is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt", **(metadata or {})})


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def ours(folder: Path) -> torch.Tensor:
    with smidgen.load(folder) as model:
        return model.decoder(IDS)


def theirs(folder: Path) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(IDS).logits


def test_a_head_trained_apart_is_a_head_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    rewrite(folder, {"lm_head.weight": torch.randn_like(embedding) / 8})
    _say_own_head.cache_clear()
    assert torch.allclose(ours(folder), theirs(folder), atol=1e-4)
    assert "another head is stored, and used" in capsys.readouterr().err
    smidgen.export(folder, "gguf", folder / "own.gguf")
    with smidgen.load(folder / "own.gguf") as model:
        assert not model.config.tied_head and torch.allclose(model.decoder(IDS), theirs(folder), atol=1e-4)


def test_the_same_matrix_twice_is_tied(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = ours(folder)
    rewrite(folder, {"lm_head.weight": load_file(folder / "model.safetensors")["model.embed_tokens.weight"].clone()})
    with smidgen.load(folder) as model:
        assert model.config.tied_head and torch.equal(model.decoder(IDS), before)
    assert "head" not in capsys.readouterr().err


def test_the_shared_matrix_under_the_heads_name(folder: Path) -> None:
    before = ours(folder)
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    shared = {"model.embed_tokens.weight": "lm_head.weight"}
    rewrite(folder, {"lm_head.weight": embedding, "model.embed_tokens.weight": None}, shared)
    assert torch.equal(ours(folder), before)


def test_a_model_saved_without_its_head(folder: Path) -> None:
    before = ours(folder)
    weights = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("model."): value for name, value in weights.items()}
    rewrite(folder, dict.fromkeys(weights) | bare)
    edit(folder / "config.json", architectures=["LlamaModel"])
    assert torch.equal(ours(folder), before) and torch.allclose(theirs(folder), before, atol=1e-4)


def test_an_empty_table_of_scaling_is_none(folder: Path) -> None:
    llama3 = {
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 24,
    }  # fmt: skip
    edit(folder / "config.json", rope_parameters=llama3)
    config = json.loads((folder / "config.json").read_text())
    for old in ("rope_scaling", "rope_theta"):
        config.pop(old, None)
    (folder / "config.json").write_text(json.dumps(config))
    expected = ours(folder)
    edit(folder / "config.json", rope_scaling={})
    assert torch.equal(ours(folder), expected)
    with smidgen.load(folder) as model:
        assert model.config.layers[0].rotary is not None and model.config.layers[0].rotary.scaling is not None


def test_what_libraries_leave_is_passed_over_and_what_may_matter_is_not(folder: Path) -> None:
    before = ours(folder)
    edit(folder / "config.json", _attn_implementation_autoset=True, num_labels=2, tokenizer_class="X", do_sample=True)
    assert torch.equal(ours(folder), before)
    edit(folder / "config.json", attention_is_inverted=True)
    with pytest.raises(Unsupported, match="unknown config.json: attention_is_inverted"):
        smidgen.load(folder)


def test_keys_of_a_gguf_file_that_change_nothing_here(folder: Path) -> None:
    """Of a newer converter, with the value that means nothing; of windows, in a model without one."""
    with open_checkpoint(folder) as checkpoint:
        view, path = checkpoint.file, folder / "more.gguf"
        tensors = [TensorPlan(tensor.name, tensor.shape, tensor.kind) for tensor in view.tensors.values()]
        write_gguf(path, view.metadata, view.metadata_types, tensors, view.packed)
        plain = smidgen.load(path).config
        for key, value, fine in (("scaling.yarn_attn_factor", 1.0, True), ("freq_base_swa", 1e4, True),
                                 ("scaling.yarn_attn_factor", 2.0, False), ("of_tomorrow", 1.0, False)):  # fmt: skip
            metadata = {**view.metadata, f"llama.rope.{key}": value}
            types = {**view.metadata_types, f"llama.rope.{key}": gguf_types(value)}
            write_gguf(path, metadata, types, tensors, view.packed)
            if fine:
                assert smidgen.load(path).config == plain
            else:
                with pytest.raises(Unsupported, match=key):
                    smidgen.load(path)


def test_no_eos_behind_a_prompt(folder: Path, smollm_path: Path) -> None:
    """A trainer left `add_eos_token` on, in a folder or in a GGUF file."""
    edit(folder / "tokenizer_config.json", add_eos_token=True)
    with smidgen.load(folder) as model:
        assert model.checkpoint.file.metadata["tokenizer.ggml.add_eos_token"] is False
    with LlamaCppEngine(smollm_path, 128, threads=1) as engine:
        ids = engine.tokenize("Once upon a time")
        engine.facts = Facts(8192, engine.facts.bos_id, ids[-1], True)
        assert engine.tokenize("Once upon a time") == ids[:-1]  # what the file appended is taken away, and no more


def test_bos_where_the_post_processor_puts_it(folder: Path) -> None:
    """`add_bos_token: false` beside a post-processor that adds it: what the tokenizer really does counts."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    with smidgen.load(folder) as model:
        bos = model.tokenizer.bos_id
        assert bos is not None
        text = model.tokenizer.token_text(bos)
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {text: {"id": text, "ids": [bos], "tokens": [text]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    edit(folder / "tokenizer_config.json", add_bos_token=False)
    with smidgen.load(folder) as model:
        assert model.tokenizer.adds_bos
    assert transformers.AutoTokenizer.from_pretrained(folder)("a").input_ids[0] == bos
