"""A derived model: what is kept stays to the bit, what is changed is what was given, and the history grows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from smidgen.errors import SmidgenError
from smidgen.formats.derived import Changed, Derived, Kept, Tokens, write_derived
from smidgen.formats.history import HISTORY, history
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from tests.family_models import FAMILY_MODELS, save_folder
from tests.tiny_models import write_gemma3, write_llama

STEP = {"step": "nothing", "parameters": {}}


@pytest.mark.parametrize("write", [write_gemma3, write_llama])
def test_nothing_changed_is_the_same_model(write, tmp_path: Path) -> None:
    with open_checkpoint(write(tmp_path / "a.gguf")) as before:
        write_derived(before, Derived(before.config), tmp_path / "b.gguf", STEP)
        with open_checkpoint(tmp_path / "b.gguf") as after:
            assert after.config == before.config
            for name, tensor in before.file.tensors.items():
                assert after.file.tensors[name].kind is tensor.kind
                assert bytes(after.file.packed(name)) == bytes(before.file.packed(name))
            same = {key for key in before.file.metadata if not key.startswith(f"{before.family.gguf.architecture}.")}
            for key in same:
                assert np.array_equal(np.array(after.file.metadata[key]), np.array(before.file.metadata[key])), key


@pytest.mark.parametrize("family", [name for name, model in FAMILY_MODELS.items() if model is not None])
def test_folders_of_every_family(family: str, tmp_path: Path) -> None:
    """Weights from a folder come through the writer unchanged, stacked and permuted ones too."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_folder(family, folder)
    with open_checkpoint(folder) as before:
        half = Changed(lambda: before.tensor("blocks.1.attention.query.weight") / 2)
        parts = {"blocks.1.attention.query.weight": half, "blocks.0.attention_norm.weight": Changed(lambda: norm)}
        norm = before.tensor("blocks.2.attention_norm.weight")
        write_derived(before, Derived(before.config, parts), tmp_path / "b.gguf", STEP)
        with open_checkpoint(tmp_path / "b.gguf") as after:
            for name in before.names():
                wanted = parts[name].values() if name in parts else before.tensor(name)
                assert torch.equal(after.tensor(name), wanted), name


def test_rows_renames_and_a_tokenizer(tmp_path: Path) -> None:
    with open_checkpoint(write_gemma3(tmp_path / "a.gguf")) as before:
        rows = np.arange(0, before.config.vocabulary, 2)
        metadata = {key: value for key, value in before.file.metadata.items() if key.startswith("tokenizer.")}
        kinds = {key: before.file.metadata_types[key] for key in metadata}
        for key in ("tokens", "scores", "token_type"):
            values = metadata[f"tokenizer.ggml.{key}"]
            metadata[f"tokenizer.ggml.{key}"] = values[::2]
        config = replace(before.config, vocabulary=len(rows), layers=before.config.layers[:1])
        parts = {"embedding.weight": Kept("embedding.weight", rows)}
        parts |= {name: Kept(name.replace("blocks.0", "blocks.1")) for name in before.names() if "blocks.0." in name}
        derived = Derived(config, parts, Tokens(metadata, kinds))
        write_derived(before, derived, tmp_path / "b.gguf", {"step": "half"})
        with open_checkpoint(tmp_path / "b.gguf") as after:
            assert after.config == config
            assert torch.equal(after.tensor("embedding.weight"), before.tensor("embedding.weight")[::2])
            for name in before.names():
                if name.startswith("blocks.1."):
                    assert torch.equal(after.tensor(name.replace("blocks.1", "blocks.0")), before.tensor(name))
            write_derived(after, Derived(config), tmp_path / "c.gguf", {"step": "second"})
        with open_checkpoint(tmp_path / "c.gguf") as last:
            assert [step["step"] for step in history(last.file.metadata)] == ["half", "second"]


def test_history_of_strangers_is_bounded() -> None:
    for text in ("", "{}", "nonsense", "[" * 100_000, "[1, 2]", 5, "[" + " " * 2**21 + "]"):
        assert history({HISTORY: text}) == []
    assert history({HISTORY: '[{"step": "depth"}, 3]'}) == [{"step": "depth"}]


def test_wrong_shapes_and_huge_values_leave_nothing(tmp_path: Path) -> None:
    with open_checkpoint(write_gemma3(tmp_path / "a.gguf")) as before:
        name = "blocks.0.attention.query.weight"
        wide = before.tensor(name).half().float()
        assert before.kind(name) in (types.F32, types.F16)
        wrong = Derived(before.config, {name: Changed(lambda: wide[1:])})
        with pytest.raises(ValueError, match="is needed"):
            write_derived(before, wrong, tmp_path / "b.gguf", STEP)
        if before.kind("embedding.weight") is not types.F32:
            huge = Derived(before.config, {name: Changed(lambda: wide * 1e9)})
            with pytest.raises(SmidgenError, match="beyond float16"):
                write_derived(before, huge, tmp_path / "b.gguf", STEP)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]
