"""genai_config.json: what onnxruntime-genai must know of a model beside its graph.

Keys: `src/config.h` of https://github.com/microsoft/onnxruntime-genai. The type is "decoder", its name for a model of
no particular family. Heads of keys and values and their width stand here once; where layers differ it goes by the
shapes of the graph's inputs. A window is not stated: the graph's attention keeps to it, and the cache holds all.
"""

from collections.abc import Mapping
from typing import Any

from smidgen.exporting.onnx.names import MODEL
from smidgen.model.config import ModelConfig

_MOST_TOKENS = 4096  # of a text, unless the program asks for more: memory for all of them is taken at the beginning


def genai_settings(config: ModelConfig, token_ids: Mapping[str, Any]) -> dict[str, Any]:
    """token_ids: as `token_ids` of the Hugging Face writer gives them."""
    ends, first = token_ids["eos_token_id"] or [], config.layers[0]
    padding = token_ids["pad_token_id"]
    if padding is None:
        padding = ends[0] if ends else 0
    begins = token_ids["bos_token_id"]
    parts = ("key", "value")
    return {
        "model": {
            "type": "decoder",
            "vocab_size": config.vocabulary,
            "context_length": config.context_length,
            **({} if begins is None else {"bos_token_id": begins}),
            "eos_token_id": ends or padding,
            "pad_token_id": padding,
            "decoder": {
                "filename": MODEL,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "hidden_size": config.hidden,
                "num_hidden_layers": len(config.layers),
                "num_attention_heads": first.heads,
                "num_key_value_heads": first.kv_heads,
                "head_size": first.head_dim,
                "inputs": {
                    **{name: name for name in ("input_ids", "attention_mask", "position_ids")},
                    **{f"past_{part}_names": f"past_key_values.%d.{part}" for part in parts},
                },
                "outputs": {
                    "logits": "logits",
                    **{f"present_{part}_names": f"present.%d.{part}" for part in parts},
                },
            },
        },
        "search": {
            "max_length": min(config.context_length, _MOST_TOKENS),
            "do_sample": False,
            "past_present_share_buffer": True,
        },
    }
