"""A decoder whose matrices stay as their file stores them, and are decoded each time that they are used.

For whoever trains something beside a model, or only reads with it: 2.6 billion weights take 10.5 GB in float32, 5.2 GB
in the 16 bits of their file, 1.6 GB in four bits (QLoRA, Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, keeps
its base so, too). A frozen matrix is read twice in a step of training, for the output and for the slope of the input.
Both times it is decoded anew, so that none is kept from the forward pass for the backward pass; what that costs beside
two products with some thousand tokens is a few hundredths. The numbers are those of a decoder in float32.

Memory: the largest matrix in float32, and pages of the file that were read lately (`_MOST_MAPPED`). They go back to the
system, which keeps them in its cache while nobody else wants the memory.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import load_decoder
from smidgen.memory import usable_memory
from smidgen.model.decoder import Decoder
from smidgen.model.parameters import LAYER_EMBEDDING, is_matrix
from smidgen.numerics.products import product
from smidgen.shapes import Float, Int

_MOST_MAPPED = 2**29  # bytes of the file
_SMALL = 1 / 8  # of the memory: a model that takes less in float32 is quicker so


def is_small(checkpoint: Checkpoint) -> bool:
    """Whether a model is small for this machine in float32."""
    return 4 * checkpoint.parameters <= _SMALL * usable_memory()


def frozen_bytes(checkpoint: Checkpoint) -> int:
    """Memory that `load_frozen` takes, beside what is computed."""
    if is_small(checkpoint):
        return 4 * checkpoint.parameters
    largest = max(math.prod(checkpoint.shape(name)) for name in checkpoint.names() if name != LAYER_EMBEDDING)
    return 4 * largest + min(_MOST_MAPPED, checkpoint.file.size)


def load_frozen(
    checkpoint: Checkpoint, decoded: bool | None = None, learned: Callable[[str], bool] | None = None
) -> Decoder:
    """A model of which most does not learn, without gradients for now. checkpoint: has to stay open.

    decoded: in float32, as a whole; None where it is small for this machine.  learned: whether a parameter is to be
    there in any case, by canonical name.
    """
    if is_small(checkpoint) if decoded is None else decoded:
        return load_decoder(checkpoint).requires_grad_(False)
    with torch.device("meta"):
        decoder = Decoder(checkpoint.config)
    pages = _Pages(checkpoint)
    for name in checkpoint.names():
        if is_matrix(name) and not (learned is not None and learned(name)):
            _replace(decoder, name.removesuffix(".weight"), pages)
    rest = [name for name, _ in decoder.named_parameters()]
    decoder.load_state_dict({name: checkpoint.tensor(name) for name in rest}, assign=True)
    return decoder.requires_grad_(False)


class _Pages:
    """Reads matrices, and gives pages of the file back before they become many."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._mapped = 0

    def matrix(self, name: str) -> Float[Tensor, "rows cols"]:
        """The whole, decoded."""
        found = self.checkpoint.tensor(name)
        self._count(self.checkpoint.packed(name).nbytes)
        return found

    def rows(self, name: str, ids: Int[Tensor, "..."]) -> Float[Tensor, "... cols"]:
        """Some rows, decoded."""
        found = self.checkpoint.gather(name, ids.cpu())
        self._count(self.checkpoint.kind(name).row_bytes(found.shape[-1]) * ids.numel())
        return found

    def _count(self, size: int) -> None:
        self._mapped += size
        if self._mapped > _MOST_MAPPED:
            self.checkpoint.release()
            self._mapped = 0


class FrozenLinear(nn.Module):
    """A linear layer, weight [outputs, inputs] in the file, bias [outputs] if any."""

    def __init__(self, pages: _Pages, name: str, bias: Tensor | None) -> None:
        super().__init__()
        self._pages, self._name = pages, f"{name}.weight"
        self.out_features, self.in_features = pages.checkpoint.shape(self._name)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def whole(self) -> Float[Tensor, "outputs inputs"]:
        """The matrix."""
        return self._pages.matrix(self._name)

    def forward(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """As a linear layer."""
        multiplied = _Product.apply(x, self)
        return multiplied if self.bias is None else multiplied + self.bias


class FrozenEmbedding(nn.Module):
    """An embedding, weight [rows, width] in the file."""

    def __init__(self, pages: _Pages, name: str) -> None:
        super().__init__()
        self._pages, self._name = pages, f"{name}.weight"

    def whole(self) -> Float[Tensor, "rows width"]:
        """The matrix."""
        return self._pages.matrix(self._name)

    def forward(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        """The rows of some tokens."""
        return self._pages.rows(self._name, ids).to(ids.device)


class _Product(torch.autograd.Function):
    """x · Wᵀ, and for the backward pass nothing but the layer, which decodes W again."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "... inputs"], layer: FrozenLinear) -> Float[Tensor, "... outputs"]:
        ctx.layer, ctx.dtype = layer, x.dtype
        return product(x, layer.whole().to(x.device))

    @staticmethod
    def backward(ctx: Any, *slopes: Float[Tensor, "... outputs"]) -> tuple[Float[Tensor, "... inputs"], None]:
        weight = ctx.layer.whole().to(slopes[0])
        return (slopes[0] @ weight).to(ctx.dtype), None


def _replace(decoder: Decoder, name: str, pages: _Pages) -> None:
    """A frozen layer in the place of another."""
    parent, _, attribute = name.rpartition(".")
    owner = decoder.get_submodule(parent)
    layer = getattr(owner, attribute)
    if isinstance(layer, nn.Embedding):
        setattr(owner, attribute, FrozenEmbedding(pages, name))
    else:
        bias = None if layer.bias is None else pages.checkpoint.tensor(f"{name}.bias")
        setattr(owner, attribute, FrozenLinear(pages, name, bias))
