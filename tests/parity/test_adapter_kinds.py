"""Adapters as PEFT trains and saves them: read, they predict what PEFT predicts; or they are refused in a line."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from smidgen.distillation.objectives.losses import LanguageObjective
from smidgen.distillation.students.lora import Adapted
from smidgen.distillation.text.batch import Batch
from smidgen.errors import Unsupported
from smidgen.formats.adapters import read_adapter
from smidgen.formats.derived import Derived, write_derived
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from tests.family_models import VOCABULARY, save_folder

IDS = torch.randint(0, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(1))
CONVERSION = "path_initial_model_for_weight_conversion"


def peft_model(family: str, folder: Path, **settings: Any) -> Any:
    """A tiny model in a folder, and an adapter that PEFT has begun."""
    peft = import_module("peft")
    (folder / "model").mkdir()
    save_folder(family, folder / "model")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"} | settings
    torch.manual_seed(0)
    return peft.get_peft_model(base, peft.LoraConfig(**settings)).eval()


def learn(model: Any) -> None:
    """Change what is trained, by much."""
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def predictions(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


@torch.no_grad()
def ours(folder: Path, adapter: Path) -> torch.Tensor:
    with open_checkpoint(folder / "model") as checkpoint:
        return Adapted.continued(load_decoder(checkpoint), read_adapter(adapter, checkpoint)).decoder.eval()(IDS)


def refused(folder: Path, adapter: Path, reason: str) -> None:
    with open_checkpoint(folder / "model") as checkpoint, pytest.raises(Unsupported, match=reason) as caught:
        read_adapter(adapter, checkpoint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stabilized", [False, True])
@pytest.mark.parametrize("beginning", ["pissa", "pissa_niter_4", "olora"])
def test_what_took_a_part_of_the_model_out_is_refused_until_it_is_converted(
    beginning: str, stabilized: bool, tmp_path: Path
) -> None:
    model = peft_model("llama3", tmp_path, init_lora_weights=beginning, use_rslora=stabilized)
    model.peft_config["default"].init_lora_weights = True  # or PEFT would take it out twice when it reads it again
    model.save_pretrained(tmp_path / "begun")
    model.peft_config["default"].init_lora_weights = beginning
    learn(model)
    model.save_pretrained(tmp_path / "trained")
    refused(tmp_path, tmp_path / "trained", CONVERSION)
    wanted = predictions(model)
    model.save_pretrained(tmp_path / "converted", **{CONVERSION: str(tmp_path / "begun")})
    assert (ours(tmp_path, tmp_path / "converted") - wanted).abs().max() < 2e-4


@pytest.mark.parametrize("beginning", [True, False, "gaussian", "orthogonal"])
def test_other_beginnings_are_plain_adapters(beginning: bool | str, tmp_path: Path) -> None:
    model = peft_model("llama3", tmp_path, init_lora_weights=beginning)
    learn(model)
    model.save_pretrained(tmp_path / "adapter")
    assert (ours(tmp_path, tmp_path / "adapter") - predictions(model)).abs().max() < 1e-4


@pytest.mark.parametrize("stabilized", [False, True])
def test_patterns_of_ranks_and_alphas_mean_what_they_mean_in_peft(stabilized: bool, tmp_path: Path) -> None:
    """Ends of names, whole names behind ^, and where two fit the first one."""
    model = peft_model(
        "llama3", tmp_path, use_rslora=stabilized,
        rank_pattern={"model.layers.1.self_attn.q_proj": 3, "down_proj": 5},
        alpha_pattern={
            "^layers.0.self_attn.q_proj": 50, "^model.layers.2.mlp.down_proj": 9, "down_proj": 3,
            "layers.3.mlp.down_proj": 70, "self_attn.q_proj": 11,
        },
    )  # fmt: skip
    learn(model)
    model.save_pretrained(tmp_path / "adapter")
    assert (ours(tmp_path, tmp_path / "adapter") - predictions(model)).abs().max() < 1e-4


def test_dora_is_refused(tmp_path: Path) -> None:
    model = peft_model("llama3", tmp_path, use_dora=True)
    learn(model)
    model.save_pretrained(tmp_path / "adapter")
    refused(tmp_path, tmp_path / "adapter", "use_dora is True")


def test_an_adapter_of_the_head_is_measured_trained_and_merged(tmp_path: Path) -> None:
    """The loss reads W + s·B·A, not W; so do its slopes, and the model that it is merged into."""
    model = peft_model("llama3", tmp_path, target_modules=["q_proj", "lm_head"])
    learn(model)
    model.save_pretrained(tmp_path / "adapter")
    logits = model(input_ids=IDS).logits[:, :-1].flatten(0, 1)
    wanted = torch.nn.functional.cross_entropy(logits, IDS[:, 1:].flatten(), reduction="sum")
    wanted.backward()
    with open_checkpoint(tmp_path / "model") as checkpoint:
        adapter = read_adapter(tmp_path / "adapter", checkpoint)
        adapted = Adapted.continued(load_decoder(checkpoint), adapter)
        batch = Batch(IDS[:, :-1], IDS[:, 1:], torch.ones(2, 23), torch.zeros(2, 23, dtype=torch.long))
        loss, _ = LanguageObjective()(adapted.decoder, batch)
        loss.backward()
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
        head = model.base_model.model.lm_head
        for mine, theirs in (("a", head.lora_A), ("b", head.lora_B)):
            slope = adapted.tensors()[f"head.weight.lora_{mine}"].grad
            torch.testing.assert_close(slope, theirs["default"].weight.grad, rtol=1e-3, atol=1e-3)
        write_derived(checkpoint, Derived(checkpoint.config, adapted.parts()), tmp_path / "merged.gguf", {"step": "x"})
    with open_checkpoint(tmp_path / "merged.gguf") as merged:
        assert (load_decoder(merged)(IDS) - predictions(model)).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("family", "target", "reason"),
    [
        ("qwen3", "embed_tokens", "an adapter of the embedding"),
        ("llama3", "embed_tokens", "an adapter of the embedding"),
        ("qwen3", "lm_head", "the output head, which is the embedding in this model"),
    ],
)
def test_adapters_of_embeddings_are_refused(family: str, target: str, reason: str, tmp_path: Path) -> None:
    model = peft_model(family, tmp_path, target_modules=["q_proj", target])
    learn(model)
    model.save_pretrained(tmp_path / "adapter")
    refused(tmp_path, tmp_path / "adapter", f"{reason}.*merge_and_unload")
