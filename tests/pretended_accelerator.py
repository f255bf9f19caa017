"""A second device where there is none: tensors say that they are on "cuda", and any that meet must be on the same one.

What is computed is computed by the CPU. Moving a tensor there or making it there gives it a label, what is computed
from it is labelled too, and an operation on tensors here and there fails as it would with a real accelerator. (Numbers
without dimensions, and indices, may be here.) So a test shows that code moves all that it must. What torch's own Python
makes or asks within its functions is not seen: gradient checkpointing cannot be tested so.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

THERE, HERE = torch.device("cuda", 0), torch.device("cpu")
_ABOUT_DEVICES: Any = torch.Tensor.device.__get__  # pyright: ignore[reportAttributeAccessIssue]
_SETTING_DATA: Any = torch.Tensor.data.__set__  # pyright: ignore[reportAttributeAccessIssue]
_INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default,
             torch.ops.aten._index_put_impl_.default}  # fmt: skip


class _Labels:
    """Which tensors are there. A parameter that nothing was heard of is where its memory is."""

    def __init__(self) -> None:
        self._known: Any = WeakTensorKeyDictionary()
        self._memory: dict[int, bool] = {}

    def there(self, tensor: Tensor) -> bool:
        if tensor not in self._known and isinstance(tensor, torch.nn.Parameter):
            return self._memory.get(tensor.untyped_storage().data_ptr(), False)
        return self._known.get(tensor, False)

    def put(self, tensor: Tensor, there: bool) -> Tensor:
        self._known[tensor] = there
        self._memory[tensor.untyped_storage().data_ptr()] = there
        return tensor


class _Move(torch.autograd.Function):
    """A copy on the other device; its gradient comes back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, labels: _Labels, there: bool) -> Tensor:
        ctx.labels, ctx.back = labels, labels.there(tensor)
        return labels.put(tensor.clone(), there)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.labels.put(gradients[0].clone(), ctx.back), None, None


class _Calls(TorchFunctionMode):
    """Tensors that are moved, made, or asked where they are."""

    def __init__(self, labels: _Labels) -> None:
        super().__init__()
        self._labels = labels

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        labels, named = self._labels, dict(kwargs or {})
        if func == _ABOUT_DEVICES:
            return THERE if labels.there(args[0]) else HERE
        if func == _SETTING_DATA:
            labels.put(args[0], labels.there(args[1]))
            return func(*args)
        if func is torch.Tensor.numpy and labels.there(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is torch.Tensor.cpu:
            return self._moved(args[0], HERE)
        if func is torch.Tensor.to:
            return self._to(args, named)
        device = named.pop("device", None)
        result = func(*args, **named)
        if isinstance(result, Tensor) and (device is not None or func is torch.from_numpy):
            labels.put(result, torch.device(device or HERE).type == "cuda")
        return result

    def _moved(self, tensor: Tensor, device: torch.device) -> Tensor:
        there = device.type == "cuda"
        return tensor if self._labels.there(tensor) == there else _Move.apply(tensor, self._labels, there)  # pyright: ignore[reportReturnType]

    def _to(self, args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        tensor, *others = args
        given = [*others, *(named[name] for name in ("device", "other", "dtype") if name in named)]
        for wanted in given:
            if isinstance(wanted, Tensor):
                tensor = self._moved(tensor, THERE if self._labels.there(wanted) else HERE)
            elif isinstance(wanted, str | torch.device):
                tensor = self._moved(tensor, torch.device(wanted))
        dtype = next((wanted for wanted in given if isinstance(wanted, torch.dtype)), tensor.dtype)
        return torch.Tensor.to(tensor, dtype)


class _Operations(TorchDispatchMode):
    """What is computed, forward and backward."""

    def __init__(self, labels: _Labels) -> None:
        super().__init__()
        self._labels = labels

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        met = [args[0]] if func in _INDEXING else given
        where = {self._labels.there(tensor) for tensor in met if tensor.dim()}
        if len(where) > 1 and "copy" not in str(func):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found cuda:0 and cpu")
        there = True in where or (not where and any(self._labels.there(tensor) for tensor in given))
        result = func(*args, **(kwargs or {}))
        mine = {id(tensor) for tensor in given}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf) not in mine:  # what is changed in place stays where it is
                self._labels.put(leaf, there)
        return result


@contextmanager
def pretended_accelerator() -> Iterator[None]:
    """While this is open there is one."""
    labels = _Labels()
    with _Calls(labels), _Operations(labels):
        yield
