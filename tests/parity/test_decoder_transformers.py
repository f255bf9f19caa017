"""Our decoder against transformers: tiny random models with every feature turned up, logits within 1e-4 in float32.

Windows are shorter than the text, several query heads share a key/value head, layers alternate, rotary scaling is on,
weights are large enough for soft caps to bite and for a wrong mask to show. The text is long enough that an off-by-one
in the window changes the logits by far more than the bound (a test below makes sure).
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import Tensor

from smidgen.model.config import LayerConfig, ModelConfig
from smidgen.model.decoder import Cache, Decoder

transformers = import_module("transformers")

LENGTH = 41
BOUND = 1e-4

HF_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}
LLAMA_NAMES = HF_NAMES | {"feed_forward_norm": "post_attention_layernorm"}
GEMMA_NAMES = HF_NAMES | {
    "attention_post_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_post_norm": "post_feedforward_layernorm",
}


def loaded(config: ModelConfig, weights: Mapping[str, Tensor], names: Mapping[str, str], norm_shift: float) -> Decoder:
    """A decoder with a Hugging Face state dict; `norm_shift` turns Gemma's "1 + w" into the plain multiplier."""
    decoder = Decoder(config)
    state = {}
    for name, parameter in decoder.state_dict().items():
        parts = name.removesuffix(".weight").split(".", 2)
        if parts[0] == "blocks":
            theirs = f"model.layers.{parts[1]}.{names[parts[2]]}.weight"
        else:
            theirs = {"embedding.weight": "model.embed_tokens.weight", "final_norm.weight": "model.norm.weight"}.get(
                name, "lm_head.weight"
            )
        state[name] = weights[theirs] + (norm_shift if parameter.dim() == 1 else 0.0)
    decoder.load_state_dict(state)
    return decoder


def strong_weights(model: torch.nn.Module) -> None:
    """Random weights that keep the residual stream of order one but make attention sharp."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            parameter.data = 0.3 * noise + (0.0 if "Gemma" in type(model).__name__ else 1.0)
        else:
            strength = 3.0 if "q_proj" in name or "k_proj" in name else 1.0
            parameter.data = noise * strength * parameter.shape[1] ** -0.5


def gemma3() -> tuple[torch.nn.Module, Decoder]:
    theirs = transformers.Gemma3TextConfig(
        vocab_size=131,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=24,
        sliding_window=7,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        final_logit_softcapping=3.0,
        attn_implementation="eager",
    )
    model = transformers.Gemma3ForCausalLM(theirs).eval()
    strong_weights(model)
    wide = LayerConfig(6, 2, 16, 80, 1e6, 24**-0.5, "gelu_tanh", rope_scale=8.0, qk_norm=True, post_norms=True)
    local = replace(wide, rope_base=1e4, rope_scale=1.0, window=7)
    config = ModelConfig("gemma3", 131, 48, (local, wide, local, local, wide), 1e-6, 1024, True, 48**0.5, 3.0)
    return model, loaded(config, model.state_dict(), GEMMA_NAMES, norm_shift=1.0)


def gemma2() -> tuple[torch.nn.Module, Decoder]:
    theirs = transformers.Gemma2Config(
        vocab_size=131,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=6,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=2.0,
        attn_implementation="eager",
    )
    model = transformers.Gemma2ForCausalLM(theirs).eval()
    strong_weights(model)
    wide = LayerConfig(4, 2, 16, 80, 1e4, 0.25, "gelu_tanh", attention_cap=2.0, post_norms=True)
    local = replace(wide, window=6)
    layers = tuple(local if kind == "sliding_attention" else wide for kind in theirs.layer_types)
    config = ModelConfig("gemma2", 131, 48, layers, 1e-6, 1024, True, 48**0.5, 2.0)
    return model, loaded(config, model.state_dict(), GEMMA_NAMES, norm_shift=1.0)


def llama() -> tuple[torch.nn.Module, Decoder]:
    theirs = transformers.LlamaConfig(
        vocab_size=131,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    model = transformers.LlamaForCausalLM(theirs).eval()
    strong_weights(model)
    layer = LayerConfig(6, 2, 16, 80, 5000.0, 0.25, "silu", rope_scale=4.0)
    config = ModelConfig("llama", 131, 48, (layer,) * 3, 1e-5, 1024, False)
    return model, loaded(config, model.state_dict(), LLAMA_NAMES, norm_shift=0.0)


@pytest.fixture(scope="module", params=[gemma3, gemma2, llama], ids=lambda make: make.__name__)
def pair(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, Decoder]:
    return request.param()


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(0, 131, (3, LENGTH), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_logits_equal(pair: tuple[torch.nn.Module, Decoder], ids: Tensor) -> None:
    theirs, ours = pair[0](input_ids=ids).logits, pair[1](ids)
    assert theirs.std() > 0.3
    assert (ours - theirs).abs().max() < BOUND


@torch.no_grad()
@pytest.mark.parametrize("steps", [[1] * LENGTH, [11, 1, 1, 9, 19]], ids=["one by one", "in pieces"])
def test_cached_equals_uncached(pair: tuple[torch.nn.Module, Decoder], ids: Tensor, steps: list[int]) -> None:
    """Also pieces longer and shorter than the window, after it has filled."""
    decoder = pair[1]
    cache = Cache(decoder.config, len(ids), LENGTH)
    pieces = [decoder(piece, cache) for piece in ids.split(steps, dim=1)]
    assert (torch.cat(pieces, dim=1) - decoder(ids)).abs().max() < BOUND


@torch.no_grad()
@pytest.mark.parametrize("make", [gemma3, gemma2], ids=lambda make: make.__name__)
@pytest.mark.parametrize("off_by", [-1, 1])
def test_a_wrong_window_would_show(make, off_by: int, ids: Tensor) -> None:
    model, right = make()
    layers = tuple(replace(one, window=one.window and one.window + off_by) for one in right.config.layers)
    wrong = Decoder(replace(right.config, layers=layers))
    wrong.load_state_dict(right.state_dict())
    assert (wrong(ids) - model(input_ids=ids).logits).abs().max() > 100 * BOUND


@torch.no_grad()
@pytest.mark.parametrize("change", [{"attention_cap": None}, {"rope_scale": 2.0}, {"attention_scale": 0.2}])
def test_features_bite(change: dict, ids: Tensor) -> None:
    """The tests above would notice a feature left out."""
    right = gemma2()[1]
    wrong = Decoder(replace(right.config, layers=tuple(replace(one, **change) for one in right.config.layers)))
    wrong.load_state_dict(right.state_dict())
    assert (wrong(ids) - right(ids)).abs().max() > 100 * BOUND
