"""Memory that a thread uses again and again, for what is gone after a few operations.

Tensors of some hundred kilobytes that are made anew for each operation cost more than the operation: whenever the
memory goes back to the system in between, every page is filled with zeros first.
"""

import math
import threading

import torch
from torch import Tensor

_MOST = 64  # shapes that a thread remembers


class _Kept(threading.local):
    """What one thread has. flat: memory by name and type.  shaped: parts of it, by what was asked for."""

    def __init__(self) -> None:
        self.flat: dict[tuple[str, torch.dtype], Tensor] = {}
        self.shaped: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}


_KEPT = _Kept()


def scratch(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor with any content, this thread's own until it asks for the same name again."""
    found = _KEPT.shaped.get((name, shape, dtype))
    return _shaped(name, shape, dtype) if found is None else found


def _shaped(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    size, flat = math.prod(shape), _KEPT.flat.get((name, dtype))
    grown = flat is None or flat.numel() < size
    if grown or len(_KEPT.shaped) >= _MOST:
        _KEPT.shaped.clear()
    with torch.inference_mode(False):
        if flat is None or grown:
            flat = _KEPT.flat[name, dtype] = torch.empty(size, dtype=dtype)
        found = _KEPT.shaped[name, shape, dtype] = flat[:size].view(shape)
    return found
