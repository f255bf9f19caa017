"""Who trains together: one process, or several that each take a share of every batch.

The trainer asks its team wherever a number or a tensor concerns all of them. `Alone` is one process;
`distillation.team.parallel` is several. Whoever trains finds its team with `joined`.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
import torch.distributed
from torch import Tensor

from smidgen.distillation.students.trainee import Trainee
from smidgen.distillation.text.batch import Batch
from smidgen.shapes import Float

T = TypeVar("T")
_OF_TORCHRUN = {"RANK", "WORLD_SIZE", "MASTER_ADDR"}


class Team(Protocol):
    """The processes of one training."""

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        ...

    @property
    def device(self) -> torch.device:
        """Where this process trains what can be moved; the rest is trained on the CPU."""
        ...

    def begin(self, trainee: Trainee) -> None:
        """Move the model, and divide it among the processes, before its tensors are asked for."""
        ...

    def end(self, trainee: Trainee) -> None:
        """Give the trainee a whole model on the CPU again."""
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

    def part(self, whole: Tensor, like: Tensor) -> Tensor:
        """What this process holds of a whole tensor, if that is divided as `like` is."""
        ...


def accelerator() -> torch.device:
    """The first accelerator that torch can use here, or else the CPU. (`CUDA_VISIBLE_DEVICES=` hides one.)"""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


class Alone:
    """A team of one."""

    size, writes = 1, True

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")

    def begin(self, trainee: Trainee) -> None:
        """Move the model."""
        if trainee.movable:
            trainee.decoder.to(self.device)

    def end(self, trainee: Trainee) -> None:
        """Move it back."""
        if trainee.movable:
            trainee.decoder.to("cpu")

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

    def part(self, whole: Float[Tensor, "..."], like: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The whole tensor."""
        return whole


@contextmanager
def joined() -> Iterator[Team]:
    """The team that this process belongs to, while the block runs: `Alone` where nobody started others with it."""
    if torch.distributed.is_initialized():  # by Ray or by `launch`, who leave the group themselves
        from smidgen.distillation.team.parallel import Together

        yield Together()
    elif os.environ.keys() >= _OF_TORCHRUN:
        from smidgen.distillation.team.parallel import group_of_torchrun

        with group_of_torchrun() as team:
            yield team
    else:
        yield Alone(accelerator())


def started_again() -> bool:
    """Whether torchrun has started this process in the place of one that died: it should go on from a checkpoint."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def is_writer() -> bool:
    """Whether this process is the one that tells people what came out; true for all that torchrun has not started."""
    return os.environ.get("RANK", "0") == "0"


def writer_first(team: Team, work: Callable[[], T]) -> T:
    """Do what leaves something on disk: the process that writes does so before the others find it there."""
    if not team.writes:
        team.same(0)
    result = work()
    if team.writes:
        team.same(0)
    return result
