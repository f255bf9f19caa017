"""Adapters in a decoder: the same as a longhand W + s·B·A, in values and gradients, and nothing else changes."""

from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from smidgen.distillation.students.lora import ATTENTION, FEED_FORWARD, TARGETS, Adapted, LoraOptions, parse_targets
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.derived import Derived, write_derived
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from smidgen.model.decoder import Decoder
from tests.family_models import save_folder
from tests.tiny_adapters import with_adapter
from tests.tiny_models import GEMMA3_CONFIG, LLAMA_CONFIG, random_decoder, write_gemma3, write_llama

IDS = torch.randint(4, 250, (2, 20), generator=torch.Generator().manual_seed(0))


def stirred(adapted: Adapted) -> Adapted:
    """With a B that is not zero any more."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in adapted.tensors().items():
        if name.endswith("lora_b"):
            tensor.data = 0.1 * torch.randn(tensor.shape, generator=generator)
    return adapted


def test_it_starts_as_the_model_was() -> None:
    before = random_decoder(GEMMA3_CONFIG)(IDS)
    adapted = Adapted(random_decoder(GEMMA3_CONFIG), LoraOptions(rank=4))
    assert torch.equal(adapted.decoder(IDS), before)
    assert len(adapted.tensors()) == 2 * len(TARGETS) * len(GEMMA3_CONFIG.layers)
    for name, parameter in adapted.decoder.named_parameters():
        assert parameter.requires_grad == ("lora" in name)


@pytest.mark.parametrize("stabilized", [False, True])
@pytest.mark.parametrize("config", [GEMMA3_CONFIG, LLAMA_CONFIG])
def test_values_and_gradients_are_those_of_the_dense_update(config, stabilized: bool) -> None:
    """Against weights that are made as W + s·B·A, whose gradients autograd knows."""
    options = LoraOptions(rank=4, alpha=6.0, stabilized=stabilized)
    adapted = stirred(Adapted(random_decoder(config), options))
    adapted.decoder(IDS).square().mean().backward()

    plain: Decoder = random_decoder(config)
    scale = 6.0 / (2.0 if stabilized else 4.0)
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in adapted.tensors().items()}
    weights = {}
    for name, weight in plain.named_parameters():
        weights[name] = weight.detach()
        if f"{name}.lora_a" in leaves:
            weights[name] = weight.detach() + scale * leaves[f"{name}.lora_b"] @ leaves[f"{name}.lora_a"]
    logits = functional_call(plain, weights, (IDS,))
    assert torch.allclose(adapted.decoder(IDS), logits, atol=1e-4)
    logits.square().mean().backward()
    for name, tensor in adapted.tensors().items():
        wanted = leaves[name].grad
        assert tensor.grad is not None and wanted is not None
        assert (tensor.grad - wanted).abs().max() < 1e-3 * wanted.abs().max(), name
    for name, weight in weights.items():
        if name in adapted.parts():
            assert torch.allclose(adapted.merged(name), weight, atol=1e-6)
    assert all(parameter.grad is None for name, parameter in adapted.decoder.named_parameters() if "lora" not in name)


def test_only_the_targets_and_the_seed_decide() -> None:
    def start(**options: object) -> dict[str, torch.Tensor]:
        return Adapted(random_decoder(LLAMA_CONFIG), LoraOptions(rank=2, **options)).tensors()  # type: ignore[arg-type]

    chosen = start(targets=("attention.query", "feed_forward.down"))
    assert set(chosen) == {
        f"blocks.{block}.{target}.weight.lora_{part}"
        for block in range(3)
        for target in ("attention.query", "feed_forward.down")
        for part in "ab"
    }
    one, same, other = start(seed=1), start(seed=1), start(seed=2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(
        one["blocks.0.attention.query.weight.lora_a"], other["blocks.0.attention.query.weight.lora_a"]
    )


def test_dropout_is_for_training_alone() -> None:
    adapted = stirred(Adapted(random_decoder(LLAMA_CONFIG), LoraOptions(rank=4, dropout=0.5)))
    plain = stirred(Adapted(random_decoder(LLAMA_CONFIG), LoraOptions(rank=4)))
    torch.manual_seed(0)
    trained = adapted.decoder.train()(IDS)
    assert not torch.allclose(trained, adapted.decoder(IDS))
    assert torch.equal(adapted.decoder.eval()(IDS), plain.decoder(IDS))
    torch.manual_seed(0)
    assert torch.equal(adapted.decoder.train()(IDS), trained)


@torch.no_grad()
@pytest.mark.parametrize("write", [write_gemma3, write_llama])
def test_merged_into_a_file_it_is_the_same_model(write, tmp_path: Path) -> None:
    """Llama's rows of queries and keys stand otherwise in the file: a mix-up would show here."""
    with open_checkpoint(write(tmp_path / "a.gguf")) as before:
        decoder, adapter = with_adapter(before)
        adapted = Adapted.continued(load_decoder(before), adapter)
        assert torch.allclose(adapted.decoder(IDS), decoder(IDS), atol=1e-5)
        write_derived(before, Derived(before.config, adapted.parts()), tmp_path / "b.gguf", {"step": "tune"})
        with open_checkpoint(tmp_path / "b.gguf") as after:
            assert torch.allclose(load_decoder(after)(IDS), decoder(IDS), atol=1e-4)


def test_names_of_targets() -> None:
    assert parse_targets(["all"]) == TARGETS
    assert parse_targets(["down", "attention"]) == (*ATTENTION, "feed_forward.down")
    assert parse_targets(["feed_forward", "feed_forward.up"]) == FEED_FORWARD
    with pytest.raises(SmidgenError, match="no layer 'q_proj'. Choose from all, attention"):
        parse_targets(["query", "q_proj"])


def test_experts_are_not_adapted(tmp_path: Path) -> None:
    save_folder("mixtral", tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        Adapted(load_decoder(checkpoint), LoraOptions(targets=ATTENTION))
        with pytest.raises(Unsupported, match="--targets attention"):
            Adapted(load_decoder(checkpoint), LoraOptions())
