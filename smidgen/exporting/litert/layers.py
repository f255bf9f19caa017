"""Linear layers, norms and feed-forward networks in a TFLite graph."""

from dataclasses import dataclass
from functools import partial

import torch

from smidgen.exporting.litert import operators as op
from smidgen.exporting.litert.matrices import Matrices
from smidgen.exporting.litert.model import Graph, Kind, Value
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.safetensors_writer import Stored
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
        return op.add(self.graph, product, self._vector(f"{name}.bias")) if bias else product

    def norm(self, x: Value, name: str) -> Value:
        """The root mean square norm over the last axis."""
        graph, epsilon = self.graph, op.number(self.graph, self.checkpoint.config.norm_epsilon)
        mean = op.add(graph, op.mean(graph, op.multiply(graph, x, x)), epsilon)
        normed = op.multiply(graph, x, op.inverse_root(graph, mean))
        return op.multiply(graph, normed, self._vector(f"{name}.weight"))

    def feed_forward(self, x: Value, index: int, layer: LayerConfig) -> Value:
        """down(activation(gate·x) ⊙ up·x)."""
        graph = self.graph
        gate, up = (self.linear(x, f"blocks.{index}.feed_forward.{part}") for part in ("gate", "up"))
        if layer.activation == "silu":
            active = op.multiply(graph, gate, op.sigmoid(graph, gate))
        else:
            active = op.gelu_tanh(graph, gate)
        return self.linear(op.multiply(graph, active, up), f"blocks.{index}.feed_forward.down")

    def _vector(self, name: str) -> Value:
        shape = self.checkpoint.shape(name)
        return self.graph.stored(
            Stored(name, torch.float32, shape, partial(self.checkpoint.pieces, name)), Kind.FLOAT32, shape
        )
