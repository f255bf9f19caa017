"""Linear and embedding layers whose weights are left uninitialised, because a file is about to fill them."""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from smidgen.numerics.products import product
from smidgen.shapes import Float


@runtime_checkable
class Composed(Protocol):
    """A layer whose matrix is not its `weight` alone (`distillation.students.lora`)."""

    def whole(self) -> Float[Tensor, "rows cols"]:
        """What it multiplies with, all taken together, with its graph."""
        ...


class BlankLinear(nn.Linear):
    """A linear layer, weight [outputs, inputs], bias [outputs] if any; no time goes into random numbers."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self) -> None:
        """Leaves the parameters as they were allocated."""

    def forward(self, input: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """The library that multiplies is chosen for this processor."""
        return product(input, self.weight, self.bias)


class BlankEmbedding(nn.Embedding):
    """An embedding, weight [rows, width], filled later in the same way."""

    def reset_parameters(self) -> None:
        """Leaves the weight as it was allocated."""
