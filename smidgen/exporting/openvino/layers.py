"""Linear layers, norms and feed-forward networks in an OpenVINO graph, in the patterns that OpenVINO knows."""

from dataclasses import dataclass

import openvino.opset15 as op

from smidgen.exporting.openvino.graph import Graph, Value, integers, number
from smidgen.exporting.openvino.matrices import Matrices
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.config import LayerConfig


@dataclass(frozen=True)
class Layers:
    """Writes layers of a model into a graph, by their canonical names."""

    graph: Graph
    checkpoint: Checkpoint
    matrices: Matrices

    def linear(self, x: Value, name: str, bias: bool = False) -> Value:
        """weight · x, and a bias if there is one."""
        product = self.matrices.get(f"{name}.weight").times(x)
        return op.add(product, self._vector(f"{name}.bias")) if bias else product

    def norm(self, x: Value, name: str) -> Value:
        """The root mean square norm over the last axis."""
        mean = op.reduce_mean(op.power(x, number(2)), integers(-1), keep_dims=True)
        root = op.sqrt(op.add(mean, number(self.checkpoint.config.norm_epsilon)))
        return op.multiply(self._vector(f"{name}.weight"), op.multiply(x, op.divide(number(1), root)))

    def feed_forward(self, x: Value, index: int, layer: LayerConfig) -> Value:
        """down(activation(gate·x) ⊙ up·x)."""
        gate, up = (self.linear(x, f"blocks.{index}.feed_forward.{part}") for part in ("gate", "up"))
        active = op.swish(gate) if layer.activation == "silu" else op.gelu(gate, "tanh")
        return self.linear(op.multiply(active, up), f"blocks.{index}.feed_forward.down")

    def _vector(self, name: str) -> Value:
        return op.constant(self.checkpoint.tensor(name).numpy())


def soft_cap(x: Value, cap: float) -> Value:
    """cap · tanh(x / cap)."""
    return op.multiply(op.tanh(op.divide(x, number(cap))), number(cap))
