"""Adapters on disk: there and back, and what strangers may put into them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.adapters import Adapter, Pair, read_adapter, write_gguf_lora, write_peft
from smidgen.formats.gguf.adapter import (
    GGUFPair,
    adapter_file,
    check_gguf_adapter,
    refuse_other_adapter,
    write_gguf_adapter,
)
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.writer import TensorPlan, gguf_types, write_gguf
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from tests.family_models import save_folder
from tests.tiny_adapters import with_adapter
from tests.tiny_models import write_gemma3, write_llama

QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("model") / "llama.gguf")


@pytest.fixture
def written(model: Path, tmp_path: Path) -> Path:
    """A folder with a sound adapter."""
    with open_checkpoint(model) as checkpoint:
        _, adapter = with_adapter(checkpoint)
        write_peft(adapter, checkpoint, tmp_path, "tiny")
        write_gguf_lora(adapter, checkpoint, tmp_path / "adapter.gguf", "tiny")
    return tmp_path


def products(adapter: Adapter) -> dict[str, Tensor]:
    """What is added to each weight."""
    found = {name: adapter.scale * pair.b @ pair.a for name, pair in adapter.pairs.items()}
    return {name: product for name, product in found.items() if product.any()}


def assert_same(one: Adapter, other: Adapter) -> None:
    ours, theirs = products(one), products(other)
    assert ours.keys() == theirs.keys()
    for name, product in ours.items():
        assert torch.allclose(product, theirs[name], atol=1e-5), name


@pytest.mark.parametrize("family", ["llama3", "gemma2", "phi3", "openelm", "smollm3"])
@pytest.mark.parametrize("targets", [("attention.key",), ("attention.query", "feed_forward.up", "feed_forward.down")])
def test_there_and_back(family: str, targets: tuple[str, ...], tmp_path: Path) -> None:
    """Both formats; stacked tensors, permuted rows, and layers that differ."""
    save_folder(family, tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        _, adapter = with_adapter(checkpoint, targets)
        (tmp_path / "out").mkdir()
        write_peft(adapter, checkpoint, tmp_path / "out", "tiny")
        write_gguf_lora(adapter, checkpoint, tmp_path / "out.gguf", "tiny")
        assert_same(adapter, read_adapter(tmp_path / "out", checkpoint))
        assert_same(adapter, read_adapter(tmp_path / "out.gguf", checkpoint))


def test_ranks_may_differ(model: Path, tmp_path: Path) -> None:
    with open_checkpoint(model) as checkpoint:
        _, adapter = with_adapter(checkpoint)
        pairs = dict(adapter.pairs)
        name = "blocks.1.attention.value.weight"
        pairs[name] = Pair(torch.randn(5, 64), torch.randn(32, 5))
        mixed = Adapter(pairs, adapter.scale)
        write_peft(mixed, checkpoint, tmp_path, "tiny")
        write_gguf_lora(mixed, checkpoint, tmp_path / "adapter.gguf", "tiny")
        settings = json.loads((tmp_path / "adapter_config.json").read_text())
        assert settings["r"] == 3 and list(settings["rank_pattern"].values()) == [5]
        assert_same(mixed, read_adapter(tmp_path, checkpoint))
        assert_same(mixed, read_adapter(tmp_path / "adapter.gguf", checkpoint))


def test_the_configuration_names_modules_as_peft_does(model: Path, tmp_path: Path) -> None:
    with open_checkpoint(model) as checkpoint:
        _, adapter = with_adapter(checkpoint)
        write_peft(adapter, checkpoint, tmp_path, "a/model", dropout=0.25)
        settings = json.loads((tmp_path / "adapter_config.json").read_text())
        assert settings["target_modules"] == sorted("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split())
        assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (3, 6, 0.25)
        assert settings["base_model_name_or_path"] == "a/model"
        some = {name: pair for name, pair in adapter.pairs.items() if not name.startswith("blocks.2")}
        write_peft(Adapter(some, adapter.scale), checkpoint, tmp_path, "a/model")
        settings = json.loads((tmp_path / "adapter_config.json").read_text())
        assert "model.layers.0.self_attn.q_proj" in settings["target_modules"] and len(settings["target_modules"]) == 14


def test_rank_stabilized_and_own_alphas_are_read(written: Path, model: Path) -> None:
    with open_checkpoint(model) as checkpoint:
        before = read_adapter(written, checkpoint)
        change(written, use_rslora=True, lora_alpha=6 / 3**0.5, alpha_pattern={"q_proj": 12 / 3**0.5})
        after = products(read_adapter(written, checkpoint))
        for name, product in products(before).items():
            times = 2 if "query" in name else 1
            assert torch.allclose(after[name], times * product, atol=1e-5), name


def change(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"peft_type": "IA3"}, "peft_type is IA3"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa_niter_16"}, "is a PiSSA adapter.*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "olora"}, "is a OLoRA adapter.*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "corda"}, "is a CorDA adapter.*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "lora_ga"}, "is a LoRA-GA adapter.*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "loftq"}, "is a LoftQ adapter.*merge_and_unload"),
        ({"init_lora_weights": "of_tomorrow"}, "init_lora_weights is of_tomorrow, which smidgen does not know"),
        ({"lora_alpha": "8"}, "alpha of lora_alpha is 8"),
        ({"lora_alpha": -1}, "makes no sense"),
        ({"lora_alpha": True}, "makes no sense"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "regular expressions"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha of q_proj"),
        ({"alpha_pattern": [3]}, "regular expressions"),
    ],
)
def test_configurations_that_are_refused(written: Path, model: Path, settings: dict[str, Any], reason: str) -> None:
    change(written, **settings)
    refused(written, model, reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop(f"{QUERY}.lora_A.weight"), "needs both lora_A and lora_B"),
        (lambda t: t.update({f"{QUERY}.lora_A.weight": torch.zeros(3, 63)}), "do not fit"),
        (lambda t: t.update({f"{QUERY}.lora_B.weight": torch.zeros(64, 4)}), "do not fit"),
        (lambda t: t.update({f"{QUERY}.lora_A.weight": torch.zeros(3)}), "do not fit"),
        (lambda t: t.update({f"{QUERY}.lora_A.weight": torch.full((3, 64), float("nan"))}), "not finite"),
        (lambda t: t.update({f"{QUERY}.lora_A.weight": torch.zeros(3, 64, dtype=torch.int64)}), "has type I64"),
        (lambda t: t.update({"model.embed.weight": torch.zeros(2)}), "not a tensor of a LoRA adapter"),
        (lambda t: t.update({"base_model.model.nothing.lora_A.weight": torch.zeros(2, 2)}), "no layer of the model"),
        (
            lambda t: t.update({"base_model.model.model.norm.lora_A.weight": torch.zeros(2, 2)}),
            "no layer of the model",
        ),
        (lambda t: t.clear(), "no tensors"),
    ],
)
def test_tensors_that_are_refused(written: Path, model: Path, change: Callable[..., Any], reason: str) -> None:
    change_tensors(written, change)
    refused(written, model, reason)


def refused(path: Path, model: Path, reason: str) -> None:
    with open_checkpoint(model) as checkpoint, pytest.raises(SmidgenError, match=reason) as caught:
        read_adapter(path, checkpoint)
    assert isinstance(caught.value, BadFile | Unsupported) and "\n" not in str(caught.value)


def test_pickles_and_missing_files_are_refused(written: Path, model: Path) -> None:
    (written / "adapter_model.safetensors").rename(written / "adapter_model.bin")
    refused(written, model, "pickled")
    refused(written / "adapter_model.bin", model, "pickled")
    (written / "adapter_model.bin").unlink()
    refused(written, model, "has no adapter_model.safetensors")
    refused(written / "nothing.gguf", model, "nothing.gguf")
    (written / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (written / "adapter_config.json").unlink()
    refused(written, model, "adapter_config.json does not exist")


@pytest.mark.parametrize("cut", [10, 100, 2000, -1])
def test_cut_off_files_are_refused(written: Path, model: Path, cut: int) -> None:
    for name in ("adapter.gguf", "adapter_model.safetensors"):
        path = written / name
        path.write_bytes(path.read_bytes()[:cut])
    refused(written, model, "adapter_model.safetensors")
    refused(written / "adapter.gguf", model, "adapter.gguf")


def test_adapters_of_other_models_are_refused(written: Path, tmp_path: Path) -> None:
    gemma = write_gemma3(tmp_path / "gemma.gguf")
    refused(written / "adapter.gguf", gemma, "is an adapter for llama models, this one is gemma3")
    refused(written, gemma, "do not fit")
    refused(gemma, gemma, "is not a LoRA adapter")


SHAPES = {"q": (64, 32), "e": (4, 64, 32), "v": (64,)}


@pytest.mark.parametrize(
    ("metadata", "shapes", "reason"),
    [
        ({"general.type": "model"}, {}, "is not a LoRA adapter"),
        ({"adapter.type": 3}, {}, "is not a LoRA adapter"),
        ({"general.architecture": 5}, {}, "is an adapter for 5 models"),
        ({"adapter.lora.alpha": "x"}, {}, "alpha is x"),
        ({"adapter.lora.alpha": float("nan")}, {}, "alpha is nan"),
        ({"adapter.lora.alpha": True}, {}, "alpha is True"),
        ({}, {}, "has no tensors"),
        ({}, {"q.lora_a": (2, 32)}, "q needs both"),
        ({}, {"q": (2, 32)}, "q needs both"),
        ({}, {"x.lora_a": (2, 32), "x.lora_b": (64, 2)}, "x is not a tensor of the model"),
        ({}, {"q.lora_a": (2, 32), "q.lora_b": (64, 3)}, "do not fit"),
        ({}, {"q.lora_a": (32,), "q.lora_b": (64, 1)}, "do not fit"),
        ({}, {"q.lora_a": (2, 33), "q.lora_b": (64, 2)}, "do not fit"),
        ({}, {"q.lora_a": (5000, 32), "q.lora_b": (64, 5000)}, "rank 5000"),
        ({}, {"e.lora_a": (3, 2, 32), "e.lora_b": (3, 64, 2)}, "do not fit"),
        ({}, {"v.lora_a": (2, 2), "v.lora_b": (64, 2)}, "do not fit"),
    ],
)
def test_gguf_adapters_that_are_refused(
    metadata: dict[str, Any], shapes: dict[str, tuple[int, ...]], reason: str, tmp_path: Path
) -> None:
    sound = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    values = sound | {"adapter.lora.alpha": 4.0} | metadata
    plans = [TensorPlan(name, shape, types.F32) for name, shape in shapes.items()]
    path = tmp_path / "adapter.gguf"
    write_gguf(
        path, values, {key: gguf_types(value) for key, value in values.items()}, plans,
        lambda name: np.zeros(4 * int(np.prod(shapes[name])), np.uint8),
    )  # fmt: skip
    with GGUFFile.open(path) as file, pytest.raises(BadFile, match=reason) as caught:
        check_gguf_adapter(file, "llama", SHAPES)
    assert "\n" not in str(caught.value)


def test_gguf_adapters_of_embeddings_are_refused(model: Path, tmp_path: Path) -> None:
    with open_checkpoint(model) as checkpoint:
        rows, columns = checkpoint.shape("embedding.weight")
    pairs = {"token_embd.weight": GGUFPair(np.zeros((2, columns)), np.zeros((rows, 2)))}
    write_gguf_adapter(tmp_path / "a.gguf", "llama", "x", 4.0, pairs)
    refused(tmp_path / "a.gguf", model, "no adapters for token_embd.weight")


def test_adapters_of_experts_pass_for_llama_cpp(tmp_path: Path) -> None:
    pairs = {
        "e": GGUFPair(np.zeros((4, 2, 32)), np.zeros((4, 64, 2))),
        "q": GGUFPair(np.zeros((2, 32)), np.zeros((64, 2))),
    }
    write_gguf_adapter(tmp_path / "a.gguf", "llama", "x", 4.0, pairs)
    with GGUFFile.open(tmp_path / "a.gguf") as file:
        assert check_gguf_adapter(file, "llama", SHAPES) == (4.0, ["e", "q"])


def test_what_an_engine_asks(written: Path, model: Path, tmp_path: Path) -> None:
    assert adapter_file(written) == adapter_file(written / "adapter.gguf") == written / "adapter.gguf"
    refuse_other_adapter(model, written / "adapter.gguf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadFile, match="has no adapter.gguf"):
        adapter_file(tmp_path / "empty")
