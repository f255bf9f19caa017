"""How many floating point operations a token takes, straight from a configuration; torch-free."""

from math import prod

from smidgen.model.config import LayerConfig, ModelConfig
from smidgen.model.parameters import block_shapes, is_matrix


def layer_operations(layer: LayerConfig, hidden: int, context: int) -> float:
    """Per token in one block, over rows of `context` tokens. Of experts, those that are used."""
    shapes = {name: shape for name, shape in block_shapes(layer, hidden).items() if is_matrix(name)}
    weights = sum(prod(shape) for name, shape in shapes.items() if not name.startswith("experts."))
    if layer.experts:
        each = sum(prod(shape) for name, shape in shapes.items() if name.startswith("experts.0."))
        weights += each * layer.experts_used
    attention = 2 * layer.heads * layer.head_dim * min(context / 2, layer.window or context)
    return 2.0 * (weights + attention)


def forward_operations(config: ModelConfig, context: int) -> float:
    """Per token of a forward pass over rows of `context` tokens, output head included."""
    layers = sum(layer_operations(layer, config.hidden, context) for layer in config.layers)
    return layers + 2.0 * config.vocabulary * config.hidden
