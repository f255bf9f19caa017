"""Folders that we write: shards and index, dtypes, refusals that leave nothing, and the real Gemma in transformers."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open

from smidgen import atomic
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats import checkpoint as checkpoint_module
from smidgen.formats.hf import writer as hf_writer
from smidgen.formats.hf.folder import HFFolder
from smidgen.formats.hf.writer import default_dtype, write_hf
from smidgen.formats.opening import open_checkpoint
from smidgen.model.decoder import Decoder
from tests.family_models import save_folder
from tests.tiny_models import write_gemma3, write_llama

FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "llama.gguf")


def written(model: Path, folder: Path, dtype: str | None = None) -> Path:
    with open_checkpoint(model) as checkpoint:
        write_hf(checkpoint, folder, dtype)
    return folder


def refused(model: Path, folder: Path, words: str, dtype: str | None = None) -> SmidgenError:
    with open_checkpoint(model) as checkpoint, pytest.raises(SmidgenError) as caught:
        write_hf(checkpoint, folder, dtype)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    return caught.value


def test_files(llama: Path, tmp_path: Path) -> None:
    folder = written(llama, tmp_path / "new" / "folder")
    assert sorted(os.listdir(folder)) == FILES
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["torch_dtype"]) == ("llama", "float32")
    assert (config["bos_token_id"], config["eos_token_id"]) == (2, [1])
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("limit", [1, 30_000, 100_000])
def test_shards_and_index(llama: Path, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor once, every shard within the limit unless it holds a single tensor; and it reads back the same."""
    monkeypatch.setattr(hf_writer, "_SHARD_BYTES", limit)
    folder = written(llama, tmp_path / "folder")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(folder.glob("*.safetensors"))
    count = len(shards)
    assert [shard.name for shard in shards] == [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    assert count > 1
    seen: dict[str, str] = {}
    total = 0
    for shard in shards:
        with safe_open(shard, "pt") as file:
            sizes = [file.get_tensor(name).nbytes for name in file.keys()]  # noqa: SIM118 - it is no dictionary
            seen |= dict.fromkeys(file.keys(), shard.name)
        assert sum(sizes) <= limit or len(sizes) == 1
        total += sum(sizes)
    assert index == {"metadata": {"total_size": total}, "weight_map": seen}
    with open_checkpoint(llama) as one, open_checkpoint(folder) as other:
        for name in one.names():
            assert torch.equal(one.tensor(name), other.tensor(name))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(loaded.lm_head.weight, open_checkpoint(llama).tensor("head.weight"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("write", [write_llama, write_gemma3], ids=["llama", "gemma3"])
def test_dtypes(write: Callable[[Path], Path], dtype: str, tmp_path: Path) -> None:
    """Every weight rounded once, Gemma's norms around 0 as they are stored there."""
    model = write(tmp_path / "model.gguf")
    folder = written(model, tmp_path / "folder", dtype)
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == dtype
    with open_checkpoint(model) as one, open_checkpoint(folder) as other:
        assert default_dtype(one) == "float32"
        assert default_dtype(other) == dtype
        for name in one.names():
            offset = other.transform(name).offset
            stored = (one.tensor(name) - offset).to(getattr(torch, dtype)).float()
            assert torch.equal(other.tensor(name), stored + offset), name


def test_default_dtype_of_quantized_weights(gemma_path: Path) -> None:
    with open_checkpoint(gemma_path) as checkpoint:
        assert default_dtype(checkpoint) == "float16"


def test_pieces(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights written a few rows at a time are the same file."""
    whole = written(llama, tmp_path / "whole") / "model.safetensors"
    monkeypatch.setattr(checkpoint_module, "_PIECE_VALUES", 200)
    assert (written(llama, tmp_path / "pieces") / "model.safetensors").read_bytes() == whole.read_bytes()


def test_files_of_a_folder_are_kept(tmp_path: Path) -> None:
    """The tokenizer is copied, to the byte, and not made anew."""
    save_folder("qwen3", tmp_path)
    folder = written(tmp_path, tmp_path / "again", "bfloat16")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
    with HFFolder.open(folder) as again:
        assert {tensor.kind.name for tensor in again.weights.values()} == {"BF16"}


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_what_float16_cannot_hold(tmp_path: Path) -> None:
    save_folder("llama2", tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[3, 5] = 70_000.0
    model.save_pretrained(tmp_path)
    error = refused(tmp_path, tmp_path / "new", "blocks.2.feed_forward.up.weight has values that float16", "float16")
    assert isinstance(error, Unsupported) and not (tmp_path / "new").exists()
    written(tmp_path, tmp_path / "new", "bfloat16")


def test_unknown_dtype(llama: Path, tmp_path: Path) -> None:
    refused(llama, tmp_path / "new", "'int8' is no dtype for weights. Choose from float32", "int8")
    assert not (tmp_path / "new").exists()


def test_folders_that_cannot_be_used(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    refused(llama, tmp_path / "full", "is not empty")
    assert os.listdir(tmp_path / "full") == ["note.txt"]
    refused(llama, tmp_path / "full" / "note.txt", "cannot be written")
    refused(llama, tmp_path / "full" / "note.txt" / "below", "cannot be written")


def test_a_model_that_transformers_cannot_have(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise Unsupported("config.json (llama) cannot say that kv_heads is 4")

    monkeypatch.setattr("smidgen.model.families.Family.to_hf", refuse)
    refused(llama, tmp_path / "new", "cannot say that kv_heads is 4")
    assert not (tmp_path / "new").exists()


def test_too_little_room(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = atomic.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refused(llama, tmp_path / "new" / "below", "but its disk has 1000 free")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()  # what was there before stays, as it was
    refused(llama, tmp_path / "mine", "but its disk has 1000 free")
    assert os.listdir(tmp_path / "mine") == []


@pytest.mark.parametrize("limit", [5_000, 200_000])
def test_a_disk_that_fills_up(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first shard and in a later one: nothing is left.

    A limit on file sizes stands for the full disk: the system refuses the same write in the same way.
    """
    save_folder("llama3", tmp_path)
    monkeypatch.setattr(hf_writer, "_SHARD_BYTES", 10_000)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_checkpoint(tmp_path) as checkpoint:
        largest = max(checkpoint.tensor(name).nbytes for name in checkpoint.names())
        resource.setrlimit(resource.RLIMIT_FSIZE, (min(limit, largest - 1), old[1]))
        try:
            with pytest.raises(SmidgenError, match="cannot be written") as caught:
                write_hf(checkpoint, tmp_path / "new")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"])
def test_small_files_that_cannot_be_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are there by then; they go too."""
    save_folder("llama2", tmp_path)
    (tmp_path / "generation_config.json").unlink()
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target).name == name:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    refused(tmp_path, tmp_path / "new", f"{name} cannot be written (No space left on device)")
    assert not (tmp_path / "new").exists()


# -- the real model ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_real_gemma_in_transformers(gemma_path: Path, tmp_path: Path) -> None:
    """Quantized weights as float16: transformers loads them all, and its logits are our decoder's of the GGUF file."""
    ids = torch.tensor([[2, *range(1000, 1040)]])
    with open_checkpoint(gemma_path) as checkpoint:
        decoder = Decoder(checkpoint.config)
        decoder.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()})
        ours = decoder(ids)
        del decoder
        write_hf(checkpoint, tmp_path / "gemma")
    model, info = transformers.Gemma3ForCausalLM.from_pretrained(  # type: ignore[misc] - a pair with this option
        tmp_path / "gemma", output_loading_info=True, dtype=torch.float32
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    theirs = model(input_ids=ids).logits
    assert (ours - theirs).std() < 1e-3 * ours.std()
