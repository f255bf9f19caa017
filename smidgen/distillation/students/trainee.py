"""What is trained: a decoder, and the tensors that its weights are made from.

Often these are the weights themselves (`Plain`). A model that will be stored in few bits is trained through its lattice
(`distillation.students.lattice`), a frozen model through two thin matrices beside each of its own
(`distillation.students.lora`).
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from torch import Tensor

from smidgen.distillation.text.batch import Batch
from smidgen.formats.derived import Changed, Part
from smidgen.model.decoder import Decoder


class Trainee(Protocol):
    """A model in training."""

    @property
    def decoder(self) -> Decoder:
        """The model. Its parameters hold what `prepare` made of the trained tensors."""
        ...

    @property
    def movable(self) -> bool:
        """Whether training can be on an accelerator: the trained tensors go where the decoder is moved."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The leaf tensors to optimise, by name, always the same ones in the same order."""
        ...

    def prepare(self) -> None:
        """Make the decoder's weights from the trained tensors: before the first forward pass of a step."""
        ...

    def collect(self) -> None:
        """Put the gradients of the trained tensors into their `grad`: after the last backward pass of a step."""
        ...

    def parts(self) -> dict[str, Part]:
        """What to write (`formats.derived`), by canonical name; what is absent stays as it was."""
        ...


class Objective(Protocol):
    """What training makes small."""

    def __call__(self, decoder: Decoder, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The *sum* over all positions of weight · loss, with its graph, and sums of the same kind to be reported."""
        ...


class Plain:
    """A decoder trained as it is.

    trained: which parameters, by canonical name; None for all.
    """

    movable = True

    def __init__(self, decoder: Decoder, trained: Callable[[str], bool] | None = None) -> None:
        self.decoder = decoder
        for name, parameter in decoder.named_parameters():
            parameter.requires_grad_(trained is None or trained(name))

    def tensors(self) -> dict[str, Tensor]:
        """The parameters that are trained."""
        return {name: value for name, value in self.decoder.named_parameters() if value.requires_grad}

    def prepare(self) -> None:
        """Nothing to do: the weights are the tensors."""

    def collect(self) -> None:
        """Nothing to do: the gradients are where they belong."""

    def parts(self) -> dict[str, Part]:
        """All trained parameters."""
        return {name: Changed(partial(_on_cpu, value)) for name, value in self.tensors().items()}


def _on_cpu(value: Tensor) -> Tensor:
    return value.detach().cpu()
