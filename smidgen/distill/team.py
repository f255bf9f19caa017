"""Who trains together: one process, or several that each take a share of every batch.

The trainer asks its team wherever a number or a tensor concerns all of them. `Alone` is one process;
`distill.parallel` is several.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from smidgen.distill.batch import Batch
from smidgen.distill.trainee import Trainee
from smidgen.shapes import Float


class Team(Protocol):
    """The processes of one training."""

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        ...

    def begin(self, trainee: Trainee) -> None:
        """Divide the model among the processes, before its tensors are asked for."""
        ...

    def end(self, trainee: Trainee) -> None:
        """Give the trainee a whole model again."""
        ...

    def share(self, batch: Batch) -> Batch:
        """The rows of a batch that this process takes."""
        ...

    def total(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum of each value over all processes; every process gets it."""
        ...

    def same(self, value: float) -> float:
        """The value that the process which writes has, for all: clocks differ."""
        ...

    def add_up(self, tensors: Mapping[str, Tensor]) -> None:
        """Sum up the gradients of all processes, where that is not done yet."""
        ...

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor of which each process may hold a part, put together. Every process has to ask."""
        ...

    def fill(self, tensor: Tensor, whole: Tensor) -> None:
        """Give a tensor, or the part of it that this process holds, its values."""
        ...


class Alone:
    """A team of one."""

    writes = True

    def begin(self, trainee: Trainee) -> None:
        """Nothing to divide."""

    def end(self, trainee: Trainee) -> None:
        """Nothing to put together."""

    def share(self, batch: Batch) -> Batch:
        """All of it."""
        return batch

    def total(self, values: Mapping[str, float]) -> dict[str, float]:
        """The values as they are."""
        return dict(values)

    def same(self, value: float) -> float:
        """The value itself."""
        return value

    def add_up(self, tensors: Mapping[str, Tensor]) -> None:
        """The gradients are whole."""

    def whole(self, tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The tensor itself."""
        return tensor.detach()

    def fill(self, tensor: Float[Tensor, "..."], whole: Float[Tensor, "..."]) -> None:
        """Copy the values."""
        tensor.detach().copy_(whole)
