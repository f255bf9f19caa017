"""The optimizer and the schedule of its learning rate.

AdamW: Loshchilov & Hutter 2019, arXiv:1711.05101; decay on matrices only, as GPT-2's successors have it. Muon: Jordan
et al. 2024, https://kellerjordan.github.io/posts/muon/; each matrix of the blocks moves along the nearest orthogonal
matrix to its momentum, scaled to the size of AdamW's steps so that one learning rate serves both (Liu et al. 2025,
arXiv:2502.16982, equation 4). Embeddings, heads and vectors stay with AdamW. Both are PyTorch's own.

Schedules, as a factor on the learning rate at the share s of the training, after a linear warm-up:

    cosine    floor + (1 - floor) · (1 + cos πs') / 2,  s' the share of what comes after the warm-up
    wsd       1, and over the last fifth 1 - (1 - floor) √s'  (MiniCPM, arXiv:2404.06395; Hägele et al. 2024,
              arXiv:2405.18392, section 4.2)
    constant  1
"""

import math
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from smidgen.errors import SmidgenError

OptimizerKind = Literal["adamw", "muon"]
Schedule = Literal["cosine", "wsd", "constant"]

_BETAS = (0.9, 0.95)
_DECAYING = 0.2  # the last part of a "wsd" schedule


def schedule_factor(schedule: Schedule, share: float, warmup: float, floor: float) -> float:
    """What the learning rate is multiplied by. share: of the training that is done when this step is, 0 to 1."""
    if share < warmup:
        return share / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "wsd":
        late = (share - (1 - _DECAYING)) / _DECAYING
        return 1.0 if late <= 0 else 1 - (1 - floor) * math.sqrt(min(late, 1.0))
    late = min((share - warmup) / max(1 - warmup, 1e-9), 1.0)
    return floor + (1 - floor) * (1 + math.cos(math.pi * late)) / 2


class Optimizer:
    """Moves named tensors against their gradients.

    rates: factors on the learning rate by name; 1 where absent.
    Raises SmidgenError for a kind that does not exist.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], kind: OptimizerKind, weight_decay: float, rates: Mapping[str, float]
    ) -> None:
        if kind not in get_args(OptimizerKind):
            raise SmidgenError(f"There is no optimizer {kind!r}. Choose {' or '.join(get_args(OptimizerKind))}.")
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        muon = [name for name, tensor in tensors.items() if kind == "muon" and takes_muon(name, tensor)]
        adamw = [name for name in tensors if name not in set(muon)]
        self._parts: list[torch.optim.Optimizer] = []
        if adamw:
            groups = _groups(adamw, tensors, weight_decay, rates)
            self._parts.append(torch.optim.AdamW(groups, betas=_BETAS, fused=True))  # one pass over the memory
        if muon:
            groups = _groups(muon, tensors, weight_decay, rates)
            self._parts.append(torch.optim.Muon(groups, adjust_lr_fn="match_rms_adamw"))

    def step(self, learning_rate: float) -> None:
        """One update, then no gradients are left."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = learning_rate * group["factor"]
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """All that the next update depends on beside the tensors: `NAME/exp_avg` and the like."""
        return {
            f"{self._names[id(tensor)]}/{key}": value
            for part in self._parts
            for tensor, state in part.state.items()
            for key, value in state.items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        by_tensor: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            tensor, _, key = name.rpartition("/")
            by_tensor.setdefault(tensor, {})[key] = value
        for part, tensor in self._tensors():
            found = by_tensor.get(self._names[id(tensor)])
            if found is not None:
                part.state[tensor] = {key: value.to(tensor.device) for key, value in found.items()}

    def _tensors(self) -> Iterator[tuple[torch.optim.Optimizer, Tensor]]:
        for part in self._parts:
            for group in part.param_groups:
                for tensor in group["params"]:
                    yield part, tensor


def takes_muon(name: str, tensor: Tensor) -> bool:
    """Whether Muon is made for a tensor: a matrix inside the blocks that mixes features."""
    return name.startswith("blocks.") and tensor.ndim == 2 and min(tensor.shape) > 1 and "router" not in name


def _groups(
    names: list[str], tensors: Mapping[str, Tensor], weight_decay: float, rates: Mapping[str, float]
) -> list[dict]:
    """Tensors that share their settings, in order. Vectors (norms, biases) do not decay."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name in names:
        decay = weight_decay if tensors[name].ndim > 1 else 0.0
        groups.setdefault((rates.get(name, 1.0), decay), []).append(tensors[name])
    return [{"params": members, "factor": factor, "weight_decay": decay} for (factor, decay), members in groups.items()]
