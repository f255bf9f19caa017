"""Linear and embedding layers whose weights are left uninitialised, because a file is about to fill them."""

from torch import Tensor, nn

from smidgen.numerics.products import product
from smidgen.shapes import Float


class BlankLinear(nn.Linear):
    """A linear layer, weight [outputs, inputs], bias [outputs] if any; no time goes into random numbers."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self) -> None:
        """Leaves the parameters as they were allocated."""

    def whole(self) -> Float[Tensor, "outputs inputs"]:
        """What it multiplies with. Other layers in its place have no `weight` that is all of it."""
        return self.weight

    def forward(self, input: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """The library that multiplies is chosen for this processor."""
        return product(input, self.weight, self.bias)


class BlankEmbedding(nn.Embedding):
    """An embedding, weight [rows, width], filled later in the same way."""

    def reset_parameters(self) -> None:
        """Leaves the weight as it was allocated."""

    def whole(self) -> Float[Tensor, "rows width"]:
        """The matrix that rows are taken from."""
        return self.weight
