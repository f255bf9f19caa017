"""Linear layers, norms and feed-forward networks in an ONNX graph."""

from dataclasses import dataclass
from functools import partial

import onnx_ir as ir
import torch

from smidgen.exporting.onnx.graph import Graph
from smidgen.exporting.onnx.matrices import Matrices
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.safetensors_writer import Stored
from smidgen.model.config import LayerConfig


@dataclass(frozen=True)
class Layers:
    """Writes layers of a model into a graph, by their canonical names."""

    graph: Graph
    checkpoint: Checkpoint
    matrices: Matrices

    def linear(self, x: ir.Value, name: str, bias: bool = False) -> ir.Value:
        """weight · x, and a bias if there is one."""
        product = self.matrices.get(f"{name}.weight").times(x)
        return self.graph.add("Add", product, self._vector(f"{name}.bias")) if bias else product

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        """The root mean square norm over the last axis."""
        epsilon, weight = self.checkpoint.config.norm_epsilon, self._vector(f"{name}.weight")
        return self.graph.add("SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=epsilon, stash_type=1)

    def norm_of_heads(self, x: ir.Value, name: str, heads: int, width: int) -> ir.Value:
        """The same of each head in [batch, position, heads · head]."""
        apart = self.graph.add("Reshape", x, self.graph.integers(0, 0, heads, width))
        return self.graph.add("Reshape", self.norm(apart, name), self.graph.integers(0, 0, heads * width))

    def feed_forward(self, x: ir.Value, index: int, layer: LayerConfig) -> ir.Value:
        """down(activation(gate·x) ⊙ up·x)."""
        gate, up = (self.linear(x, f"blocks.{index}.feed_forward.{part}") for part in ("gate", "up"))
        if layer.activation == "silu":
            active = self.graph.add("Mul", gate, self.graph.add("Sigmoid", gate))
        else:
            active = self.graph.add("Gelu", gate, approximate="tanh")
        return self.linear(self.graph.add("Mul", active, up), f"blocks.{index}.feed_forward.down")

    def soft_cap(self, x: ir.Value, cap: float) -> ir.Value:
        """cap · tanh(x / cap)."""
        limit = self.graph.number(cap)
        return self.graph.add("Mul", self.graph.add("Tanh", self.graph.add("Div", x, limit)), limit)

    def _vector(self, name: str) -> ir.Value:
        numbers = partial(self.checkpoint.pieces, name)
        return self.graph.stored(Stored(name, torch.float32, self.checkpoint.shape(name), numbers))
