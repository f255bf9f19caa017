"""Embeddings per layer: each layer looks up every token in a table of its own (Gemma 3n and Gemma 4, "PLE").

Layer l reads, for a token t with scaled embedding x,

    (√width · table[t, l] + norm(projection_l · x / √hidden)) / √2

and adds to the residual stream norm(output(activation(gate · stream) ⊙ that)). The table has a row for every token and
in it one slice for every layer, so it is large (2.3 of the 5.1 billion weights of Gemma 4 E2B), but no matrix product
ever reads it. There is no paper; the facts are those of transformers' classes.
"""

from math import sqrt

from torch import Tensor, nn

from smidgen.model.config import Activation, LayerConfig
from smidgen.model.feed_forward import activated
from smidgen.model.linear import BlankLinear
from smidgen.model.norms import RMSNorm
from smidgen.shapes import Float, Int


class LayerInput(nn.Module):
    """How one layer takes in what it has looked up. Created uninitialised."""

    def __init__(self, layer: LayerConfig, hidden: int) -> None:
        super().__init__()
        self.gate = BlankLinear(hidden, layer.layer_input)
        self.output = BlankLinear(layer.layer_input, hidden)
        self.activation: Activation = layer.activation

    def forward(
        self, x: Float[Tensor, "batch position hidden"], found: Float[Tensor, "batch position width"]
    ) -> Float[Tensor, "batch position hidden"]:
        """found: of each position, as `combined` has it."""
        return self.output(self.taken(x, found))

    def taken(
        self, x: Float[Tensor, "batch position hidden"], found: Float[Tensor, "batch position width"]
    ) -> Float[Tensor, "batch position width"]:
        """What the last matrix reads."""
        return activated(self.gate(x), self.activation) * found


def rows_of(ids: Int[Tensor, "batch position"], rows: int) -> Int[Tensor, "batch position"]:
    """Which rows of the table tokens read: their own; those beyond it (pictures, sounds) the first."""
    return ids.where(ids < rows, 0)


def combined(
    looked_up: Float[Tensor, "... width"], projected: Float[Tensor, "... width"], hidden: int, norm: RMSNorm
) -> Float[Tensor, "... width"]:
    """What a layer reads.  looked_up: from the table.  projected: from the scaled embedding, `hidden` wide."""
    return (looked_up * sqrt(looked_up.shape[-1]) + norm(projected / sqrt(hidden))) / sqrt(2)
