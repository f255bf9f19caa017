"""Linear and embedding layers whose weights are left uninitialised, because a file is about to fill them."""

from torch import nn


class BlankLinear(nn.Linear):
    """A linear layer without bias, weight [outputs, inputs]; no time goes into random numbers."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Leaves the weight as it was allocated."""


class BlankEmbedding(nn.Embedding):
    """An embedding, weight [rows, width], filled later in the same way."""

    def reset_parameters(self) -> None:
        """Leaves the weight as it was allocated."""
