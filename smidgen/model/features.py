"""What a model has beyond the plain decoder, for those who only know that one. Torch-free."""

from smidgen.errors import Unsupported
from smidgen.model.config import ModelConfig


def features(config: ModelConfig) -> list[str]:
    """In the words of messages; empty for a plain decoder, which Gemma 1 to 3, Llama, Qwen and Mistral are."""
    layers = config.layers
    found = {
        "embeddings per layer": any(layer.layer_input for layer in layers),
        "keys and values that layers share": any(layer.borrows is not None for layer in layers),
        "keys that are values": any(layer.keys_are_values for layer in layers),
        "values divided by their root mean square": any(layer.value_norm for layer in layers),
        "experts beside a feed-forward network": any(layer.expert_width for layer in layers),
        "several residual streams": config.streams > 1,
        "low-rank residuals": any(layer.low_rank for layer in layers),
        "sparse activations": any(layer.sparsity for layer in layers),
        "a factor for each layer's output": any(layer.output_scale for layer in layers),
    }
    return [name for name, has in found.items() if has]


def refuse_features(config: ModelConfig, what: str, instead: str) -> None:
    """Raises Unsupported for a model with any of them.

    what: that does not know them, "--layers" or "smidgen's ONNX".  instead: what to do, a clause.
    """
    if found := features(config):
        raise Unsupported(f"{what} does not know {', '.join(found)} yet, and this model has that; {instead}.")
