"""Training in several processes, on one machine or many: each takes its rows of every batch and a share of the weights.

A model that is trained as it is (`trainee.Plain`) is divided with PyTorch's FSDP2 (`fully_shard`; Zhao et al. 2023,
arXiv:2304.11277, after ZeRO stage 3): weights, gradients and the optimizer's state lie in equal parts on all processes,
a block's weights are put together when it is computed and let go again. Embedding, output head and final norm form the
root group, which stays together from the beginning of `Decoder.hidden_states` to the end of the backward pass, because
the loss is fused with the head (`distillation.objectives.losses`) and needs all of it after the model's own forward
pass. Whatever makes its weights from other tensors (`distillation.students.lattice`, `distillation.students.lora`) is
held whole by each process, and the gradients of its tensors are added up.

Gradients are *added*, not averaged: the trainer has divided each row's loss by the weight of the whole batch. So the
loss curve is that of one process, but for the order in which numbers are added up. A batch that the processes cannot
share evenly is filled up with rows of weight 0, or they would not meet at the same exchanges.

`launch` runs a function in processes of this machine; under torchrun, on any number of hosts, the same function runs as
it is; `distillation.team.cluster` has Ray start it. Either way `team.joined` finds the others.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from smidgen.distillation.students.trainee import Plain, Trainee
from smidgen.distillation.text.batch import NO_TARGET, Batch
from smidgen.model.decoder import Decoder
from smidgen.model.feed_forward import Experts
from smidgen.progress import set_quiet

BACKEND_OF_ACCELERATORS = "cpu:gloo,cuda:nccl"  # some tensors of a training stay on the CPU
#: How long a process waits for the others before it gives up: as long as one of them may cache a teacher.
PATIENCE = timedelta(hours=24)


def backend() -> str:
    """How processes talk: about tensors on accelerators in their own way."""
    return BACKEND_OF_ACCELERATORS if torch.cuda.is_available() else "gloo"


@contextmanager
def group_of_torchrun() -> Iterator["Together"]:
    """Join the processes that torchrun has started, and leave them in the end."""
    dist.init_process_group(backend(), timeout=PATIENCE)
    try:
        yield Together()
    finally:
        dist.destroy_process_group()


class Together:
    """The processes of torch's default group. Every one of them has to make the same calls in the same order."""

    def __init__(self) -> None:
        self.size, self._rank = dist.get_world_size(), dist.get_rank()
        self.writes = self._rank == 0
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(self.device)
        self._mesh: DeviceMesh = init_device_mesh(self.device.type, (self.size,))
        if not self.writes:
            set_quiet(True)

    def begin(self, trainee: Trainee) -> None:
        """Divide a plain decoder; all others stay whole."""
        decoder = trainee.decoder.to(self.device) if trainee.movable else trainee.decoder
        if not isinstance(trainee, Plain):
            return
        parts: list[Any] = [*decoder.blocks, decoder]
        for part in parts:
            fully_shard(part, mesh=self._mesh)
        for part in parts:
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        register_fsdp_forward_method(decoder, "hidden_states")
        for module in decoder.modules():
            if isinstance(module, Experts):
                module.register_forward_hook(_all_take_part)

    def end(self, trainee: Trainee) -> None:
        """Give the trainee a whole decoder again, on the CPU; on processes that do not write, one without weights."""
        if not (isinstance(trainee, Plain) and isinstance(trainee.decoder, FSDPModule)):
            trainee.decoder.to("cpu")
            return
        divided = trainee.decoder
        for module in divided.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        with torch.device("meta"):
            whole = Decoder(trainee.decoder.config)
        trained = set(trainee.tensors())
        weights = {}
        for name, parameter in trainee.decoder.named_parameters():
            gathered = self.whole(parameter)
            weights[name] = gathered.cpu() if self.writes else torch.empty_like(gathered, device="meta")
        whole.load_state_dict(weights, assign=True)
        for name, parameter in whole.named_parameters():
            parameter.requires_grad_(name in trained)
        trainee.decoder = whole

    def share(self, batch: Batch) -> Batch:
        """As many rows as every other process takes, those missing at the end filled up with rows of weight 0."""
        return share_of(batch, self._rank, self.size)

    def total(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum of each value over all processes."""
        names = sorted(values)
        sums = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return dict(zip(names, sums.tolist(), strict=True))

    def same(self, value: float) -> float:
        """The value of the process that writes: clocks differ, and so may the last bits of an evaluation."""
        return self.total({"value": value if self.writes else 0.0})["value"]

    def add_up(self, tensors: Mapping[str, Tensor]) -> None:
        """Sum up the gradients of what each process holds whole. FSDP has done so for what is divided."""
        for tensor in tensors.values():
            if not isinstance(tensor, DTensor):
                if tensor.grad is None:  # nothing that this process read concerns it
                    tensor.grad = torch.zeros_like(tensor)
                dist.all_reduce(tensor.grad)

    def whole(self, tensor: Tensor) -> Tensor:
        """The parts put together, on every process."""
        return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()

    def part(self, whole: Tensor, like: Tensor) -> Tensor:
        """What this process holds of a tensor that is divided as `like` is. Every process has the whole one."""
        if not isinstance(like, DTensor):
            return whole
        there = whole.to(like.device)
        return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)


def _all_take_part(experts: nn.Module, _: object, mixed: Tensor) -> Tensor:
    """Experts that no token here was sent to get a gradient of zero: other processes wait for it."""
    return mixed + 0 * sum(parameter.sum() for parameter in experts.parameters())


def share_of(batch: Batch, rank: int, size: int) -> Batch:
    """As many rows as every other of `size` processes takes, those missing at the end filled up."""
    rows = -(-len(batch.ids) // size)
    missing = rows * size - len(batch.ids)
    batch = filled_up(batch, missing) if missing else batch
    return batch.rows(slice(rank * rows, (rank + 1) * rows))


def filled_up(batch: Batch, missing: int) -> Batch:
    """With copies of its first row that count for nothing."""

    def more(field: Tensor | None, value: int | None = None) -> Tensor | None:
        if field is None:
            return None
        copies = field[:1].expand(missing, *field.shape[1:])
        return torch.cat([field, copies if value is None else torch.full_like(copies, value)])

    return replace(
        batch, ids=more(batch.ids), targets=more(batch.targets, NO_TARGET), weights=more(batch.weights, 0),
        documents=more(batch.documents), teacher_ids=more(batch.teacher_ids),
        teacher_positions=more(batch.teacher_positions, -1),
    )  # fmt: skip
