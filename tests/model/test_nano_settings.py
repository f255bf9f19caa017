"""Gemma 3n and Gemma 4 at their published sizes: config.json and the header of a converted GGUF say the same model."""

from typing import Any

import numpy as np

from smidgen.model.config import ModelConfig
from smidgen.model.families import Family, Tensors, family_of_config
from smidgen.model.families.family import refuse_misreading
from smidgen.model.families.gemma_nano import GEMMA3N, GEMMA4
from smidgen.model.features import features
from smidgen.model.parameters import parameter_shapes

_ROWS = 262_144


def kinds(layers: int, period: int) -> list[str]:
    return ["full_attention" if (layer + 1) % period == 0 else "sliding_attention" for layer in range(layers)]


#: Keys of config.json as far as known (no hub can be reached here); what is not there is the class's default.
E2B_3N = {
    "model_type": "gemma3n_text", "hidden_size": 2048, "num_hidden_layers": 30, "intermediate_size": [8192] * 30,
    "num_attention_heads": 8, "num_key_value_heads": 2, "num_kv_shared_layers": 10, "vocab_size": _ROWS,
    "layer_types": kinds(30, 5), "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 20, "altup_coef_clip": 120.0,
    "hidden_activation": "gelu_pytorch_tanh", "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0,
}  # fmt: skip
E2B_4 = {
    "model_type": "gemma4_text", "hidden_size": 1536, "num_hidden_layers": 35, "intermediate_size": 6144,
    "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "global_head_dim": 512,
    "num_kv_shared_layers": 20, "use_double_wide_mlp": True, "layer_types": kinds(35, 5), "sliding_window": 512,
    "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh", "attention_k_eq_v": False,
}  # fmt: skip


def read_config(settings: dict[str, Any]) -> ModelConfig:
    family, written = family_of_config(settings)
    return family.config_from_hf(settings, written)


def read_header(family: Family, keys: dict[str, Any], like: ModelConfig, vectors: dict[str, Any]) -> ModelConfig:
    """Of a file with the tensors of this configuration."""
    metadata = {f"{family.gguf.architecture}.{key}": value for key, value in keys.items()}
    shapes = dict(family.gguf_layout(like).shapes) | {name: (len(vector),) for name, vector in vectors.items()}
    return family.config_from_gguf(metadata, Tensors(shapes, lambda name: tuple(vectors[name])))


def header(config: ModelConfig, **more: Any) -> dict[str, Any]:
    """The keys that converters write for all models, numbers as they come back from a file."""
    layer = config.layers[-1]  # sees everything
    widths = [one.ffn_width for one in config.layers]
    return {
        "block_count": len(config.layers), "embedding_length": config.hidden, "context_length": config.context_length,
        "feed_forward_length": np.array(widths, np.int32), "attention.head_count": layer.heads,
        "attention.head_count_kv": layer.kv_heads, "attention.key_length": layer.head_dim,
        "attention.value_length": layer.head_dim, "attention.layer_norm_rms_epsilon": float(np.float32(1e-6)),
        "attention.sliding_window": config.layers[0].window, "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4,
        "attention.sliding_window_pattern": np.array([one.window is not None for one in config.layers]),
        "final_logit_softcapping": 30.0, "embedding_length_per_layer_input": 256,
        "attention.shared_kv_layers": sum(one.borrows is not None for one in config.layers), **more,
    }  # fmt: skip


def test_gemma_3n_e2b() -> None:
    config = read_config(E2B_3N)
    bounds = np.array([1.6448535919] * 10 + [-np.inf] * 20, np.float32)
    keys = header(config, **{
        "activation_sparsity_scale": bounds, "altup.num_inputs": 4, "altup.active_idx": 0,
    })  # fmt: skip
    refuse_misreading(config, read_header(GEMMA3N, keys, config, {}), "GGUF")
    assert [layer.borrows for layer in config.layers[20:]] == [18, 18, 18, 18, 19] * 2
    assert (config.streams, config.layers[0].low_rank, config.layers[9].sparsity) == (4, 64, 0.95)


def test_gemma_4_e2b() -> None:
    config = read_config(E2B_4)
    still = {"rope_freqs.weight": [1.0] * 64 + [1e30] * 192}
    keys = header(config, **{
        "attention.key_length_swa": 256, "attention.value_length_swa": 256, "rope.dimension_count": 512,
        "rope.dimension_count_swa": 256,
    })  # fmt: skip
    refuse_misreading(config, read_header(GEMMA4, keys, config, still), "GGUF")
    assert [layer.borrows for layer in config.layers[15:20]] == [13, 13, 13, 13, 14]
    assert {layer.ffn_width for layer in config.layers[:15]} == {6144}
    assert {layer.ffn_width for layer in config.layers[15:]} == {12_288}
    assert parameter_shapes(config)["layer_embedding.weight"] == (_ROWS, 35 * 256)
    assert "embeddings per layer" in features(config)
