"""Folders as savers and trainers leave them: read as transformers reads them, or said."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import smidgen
from smidgen.engines.llama_cpp.engine import LlamaCppEngine
from smidgen.errors import BadFile, Unsupported
from smidgen.formats.gguf.writer import TensorPlan, gguf_types, write_gguf
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.summary import summarise
from tests.family_models import save_folder

IDS = torch.tensor([[5, 9, 2, 7, 3, 8, 11, 40, 41, 300]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """SmolLM2's shape: tied embeddings, rotary positions without scaling."""
    save_folder("smollm2", tmp_path)
    return tmp_path


def rewrite(folder: Path, change: Mapping[str, torch.Tensor | None], metadata: dict[str, str] | None = None) -> None:
    """Tensors added, or removed where they are None."""
    weights = {**load_file(folder / "model.safetensors"), **change}
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
        metadata = {**engine.facts.metadata, "tokenizer.ggml.eos_token_id": ids[-1]}
        engine.facts = replace(engine.facts, tokenizer=None, appends_eos=True, metadata=metadata)
        assert engine.tokenize("Once upon a time") == ids[:-1]  # what the file appended is taken away, and no more


@pytest.mark.parametrize("asked", [True, False, None])
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("named", ["PreTrainedTokenizerFast", "LlamaTokenizer", "GPT2Tokenizer", "GemmaTokenizer"])
def test_bos_where_the_post_processor_puts_it(
    named: str, added: bool, asked: bool | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nowhere else, whatever the class and its `add_bos_token`: what the tokenizer really does counts."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    with smidgen.load(folder) as model:
        bos = model.tokenizer.bos_id
        assert bos is not None
        text = model.tokenizer.token_text(bos)
    capsys.readouterr()
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {text: {"id": text, "ids": [bos], "tokens": [text]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": template if added else None}))
    edit(folder / "tokenizer_config.json", add_bos_token=asked, tokenizer_class=named, bos_token=text)
    with smidgen.load(folder) as model:
        assert model.tokenizer.adds_bos is added
    assert ("add_bos_token" in capsys.readouterr().err) is (asked not in (None, added))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if asked is None:  # not there at all, as transformers sees it
        del config["add_bos_token"]
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert (transformers.AutoTokenizer.from_pretrained(folder)("a").input_ids[0] == bos) is added


@pytest.mark.parametrize(
    ("before", "instead", "words"),
    [
        ("base_model.model.model.", "model.", "merge the adapter"),
        ("module.model.", "model.", "save the model alone"),
        ("_orig_mod.model.", "model.", "save the model alone"),
        ("transformer.", "model.", "rename its tensors"),
        ("language_model.model.", "model.", "rename its tensors"),
    ],
)
def test_a_model_saved_inside_a_wrapper(before: str, instead: str, words: str, folder: Path) -> None:
    """transformers would draw its weights at random; the line says what is before the names."""
    weights = load_file(folder / "model.safetensors")
    rewrite(
        folder, dict.fromkeys(weights) | {before + name.removeprefix("model."): one for name, one in weights.items()}
    )
    with pytest.raises(Unsupported, match=f"begin with '{before}' instead of '{instead}'.*{words}"):
        smidgen.load(folder)
    summary = summarise(folder)
    assert summary.parameters == sum(one.numel() for one in weights.values()) and before in (summary.cannot_run or "")
    drawn = transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()
    query = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(drawn[query], weights[query])


def test_layers_that_are_missing_are_no_wrapper(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    rewrite(folder, {name: None for name in weights if ".layers.1." in name})
    with pytest.raises(BadFile, match=r"model\.layers\.1\..* missing; get the complete files"):
        smidgen.load(folder)


def test_tokens_that_swallow_white_space_in_another_vocabulary(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """llama.cpp does that for a model called Phi-3 alone, and cannot load one that lacks the tokens of Phi-3."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["rstrip"] = True
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    smidgen.export(folder, "gguf", folder / "strips.gguf")
    assert "keeps that white space" in capsys.readouterr().err
    with (
        smidgen.load(folder / "strips.gguf") as model,
        LlamaCppEngine(folder / "strips.gguf", 128, threads=1) as engine,
    ):
        text = f"{tokenizer['added_tokens'][0]['content']} a"
        ids = model.tokenizer.encode(text, parse_special=True)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)(text).input_ids
        assert engine.tokenize(text) == ids == theirs


def test_weights_of_64_bits(folder: Path) -> None:
    """As transformers has them in float32; a GGUF file cannot hold more either."""
    weights = load_file(folder / "model.safetensors")
    rewrite(folder, {name: value.double() + 1e-12 for name, value in weights.items()})
    assert torch.allclose(ours(folder), theirs(folder), atol=1e-4)
    with smidgen.load(folder) as model:
        assert model.checkpoint.kind("embedding.weight").name == "F32"
        rows = model.checkpoint.rows("embedding.weight", 3, 9)
        assert torch.equal(rows, model.checkpoint.tensor("embedding.weight")[3:9])
    smidgen.export(folder, "gguf", folder / "wide.gguf")
    smidgen.export(folder, "hf", folder / "again")
    for written in (folder / "wide.gguf", folder / "again"):
        assert torch.equal(ours(written), ours(folder))


def test_buffers_of_old_savers_and_what_the_model_has_no_use_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ours(folder)
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8, dtype=torch.float64),
        "model.layers.1.self_attn.masked_bias": torch.tensor(-1e4),
        "model.layers.1.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool),
        "model.embeddings.position_ids": torch.arange(9),
    }
    rewrite(folder, buffers)
    assert torch.equal(ours(folder), before) and "use" not in capsys.readouterr().err
    others = {
        "v_head.summary.weight": torch.ones(1, 64),
        "score.weight": torch.ones(2, 64, dtype=torch.int8),
        "model.layers.4.self_attn.q_proj.weight": torch.ones(64, 64),
    }
    rewrite(folder, others)
    assert torch.equal(ours(folder), before)
    assert "the model has no use for" in (said := capsys.readouterr().err) and "(and 2 more); passed over" in said
    assert torch.allclose(theirs(folder), before, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp.up_proj.bias", "self_attn.q_norm.weight", "mlp.up_proj.lora_A.weight"])
def test_a_part_of_a_layer_that_the_settings_do_not_know(name: str, folder: Path) -> None:
    """It would change what the model computes; whether it is meant, the folder does not say."""
    rewrite(folder, {f"model.layers.0.{name}": torch.ones(64)})
    with pytest.raises(Unsupported, match=f"{name} is not used"):
        smidgen.load(folder)


def test_an_index_beside_the_shards_that_is_not_theirs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It names a tensor that nobody needs, and lacks one that is there; read as transformers reads it."""
    before = ours(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for shard, part in zip(shards, (names[:9], names[9:]), strict=True):
        save_file({name: weights[name] for name in part}, folder / shard, metadata={"format": "pt"})
    assert torch.equal(ours(folder), before) and "there is no model.safetensors.index.json" in capsys.readouterr().err
    where = {name: shards[place >= 9] for place, name in enumerate(names)} | {"lm_head.weight": shards[1]}
    del where[names[0]]
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(ours(folder), before) and torch.allclose(theirs(folder), before, atol=1e-4)
    said = capsys.readouterr().err
    assert "the index names lm_head.weight, which is in no file; passed over" in said
    assert f"{names[0]} is in {shards[0]}, but not in the index; read" in said
    where[names[0]] = "model-00003-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadFile, match="lacks 1 of its 3 weight files"):
        smidgen.load(folder)


def test_a_tensor_in_two_shards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last file counts, whatever the index says, as in transformers; and it is said."""
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / first, metadata={"format": "pt"})
    save_file({name: weights[name] * 2}, folder / second, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {**dict.fromkeys(weights, first), "more": second}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.allclose(ours(folder), theirs(folder), atol=1e-4)
    assert f"{name} is in {first} and in {second}; the last one is used" in capsys.readouterr().err


def test_five_tokens_that_end_generation(folder: Path) -> None:
    """All of them end it, in the folder that is written from the GGUF file too."""
    edit(folder / "generation_config.json", eos_token_id=[257, 7, 40, 41, 300])
    smidgen.export(folder, "gguf", folder / "five.gguf")
    smidgen.export(folder / "five.gguf", "hf", folder / "again")
    for path in (folder, folder / "five.gguf", folder / "again"):
        with smidgen.load(path) as model:
            assert model.tokenizer.eos_ids >= {257, 7, 40, 41, 300}
    written = transformers.GenerationConfig.from_pretrained(folder / "again").eos_token_id
    assert isinstance(written, list) and set(written) >= {257, 7, 40, 41, 300}


def test_an_adapter_beside_the_weights_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "adapter_config.json").write_text("{}")
    ours(folder)
    assert "the adapter beside the weights (adapter_config.json) is not applied" in capsys.readouterr().err
