"""Low-rank adaptation: a frozen model with two thin trained matrices beside each of its own.

Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1: a linear layer W·x becomes W·x + s·B(A·x) with
A [rank in], B [out rank] and s = alpha / rank. A starts random (uniform within ±1/√in, as PEFT draws it), B at zero, so
the model starts as it was. Rank-stabilized (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732): s = alpha / √rank,
with which the size of the update does not fall as the rank grows.

W gets no gradient, so of the three products of each layer (output, gradient of x, gradient of W) the third is never
computed, and W may stay in any quantized file and be decoded where it is used (`formats.frozen`; QLoRA, Dettmers et al.
2023, https://arxiv.org/abs/2305.14314).
Adapted are linear layers of the blocks; those of experts are not, since transformers has no names for them any more.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from smidgen.bounds import several, within
from smidgen.distillation.students.lattice import stored_rows
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.adapters import Adapter, Pair
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Changed, Packed, Part
from smidgen.formats.frozen import FrozenLinear
from smidgen.model.decoder import Decoder
from smidgen.model.linear import BlankLinear
from smidgen.model.parameters import block_linears
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.lattice import Lattice
from smidgen.shapes import Float

ATTENTION = ("attention.query", "attention.key", "attention.value", "attention.output")
FEED_FORWARD = ("feed_forward.gate", "feed_forward.up", "feed_forward.down")
TARGETS = ATTENTION + FEED_FORWARD
_A, _B = "lora_a", "lora_b"


@dataclass(frozen=True)
class LoraOptions:
    """rank: columns of B.  alpha: strength; None for twice the rank.  dropout: share of a layer's inputs that A does
    not see in training.  targets: of `TARGETS`.  stabilized: s = alpha / √rank.  seed: of the random start.
    """

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = TARGETS
    stabilized: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises SmidgenError for options that mean nothing. Groups of targets become what is in them."""
        within("rank", self.rank, 1, 4096)
        within("alpha", self.alpha, 0.01, 1e6, whole=False)
        within("dropout", self.dropout, 0, 0.9, whole=False)
        object.__setattr__(self, "targets", parse_targets(several("targets", self.targets)))

    @property
    def scale(self) -> float:
        """What B·A is multiplied by."""
        alpha = 2.0 * self.rank if self.alpha is None else self.alpha
        return alpha / (self.rank**0.5 if self.stabilized else self.rank)


def parse_targets(words: Sequence[str]) -> tuple[str, ...]:
    """Layers to adapt, from their names: `attention.query`, `query`, or a group, `attention`, `feed_forward`, `all`.

    Raises SmidgenError for a name that is none.
    """
    groups = {"all": TARGETS, "attention": ATTENTION, "feed_forward": FEED_FORWARD}
    names = groups | {name: (name,) for name in TARGETS} | {name.partition(".")[2]: (name,) for name in TARGETS}
    for word in words:
        if word not in names:
            raise SmidgenError(f"--targets: there is no layer {word[:40]!r}. Choose from {', '.join(names)}.")
    chosen = {name for word in words for name in names[word]}
    return tuple(name for name in TARGETS if name in chosen)


class AdaptedLinear(nn.Module):
    """A linear layer that is kept as it is (`base`), and its two thin matrices."""

    def __init__(
        self,
        base: BlankLinear | FrozenLinear,
        rank: int,
        scale: float,
        dropout: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.base, self.scale, self.dropout = base, scale, dropout
        rows, columns = base.out_features, base.in_features
        start = torch.empty(rank, columns).uniform_(-(columns**-0.5), columns**-0.5, generator=generator)
        self.lora_a = nn.Parameter(start)
        self.lora_b = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """W·x + s·B(A·x), where A sees only part of x in training with dropout."""
        seen = functional.dropout(x, self.dropout, self.training)
        low = functional.linear(functional.linear(seen, self.lora_a), self.lora_b * self.scale)
        return self.base(x) + low

    def whole(self) -> Float[Tensor, "outputs inputs"]:
        """W + s·B·A, with its graph: what a loss that is fused with the head multiplies with, so without dropout."""
        return torch.addmm(self.base.whole(), self.lora_b, self.lora_a, alpha=self.scale)

    def merged(self) -> Float[Tensor, "outputs inputs"]:
        """The same as a plain tensor."""
        return self.whole().detach()


class Adapted:
    """A decoder with adapters: what `distillation.students.trainee.Trainee` asks for.

    decoder: its linear layers are replaced in place.
    Raises Unsupported where a target is not in the model: the feed-forward networks of a mixture of experts.
    """

    movable = True

    def __init__(self, decoder: Decoder, options: LoraOptions) -> None:
        self.decoder = decoder
        self._layers: dict[str, AdaptedLinear] = {}
        self._scale, self._dropout = options.scale, options.dropout
        generator = torch.Generator().manual_seed(options.seed)
        for parameter in decoder.parameters():
            parameter.requires_grad_(False)
        for index, layer in enumerate(decoder.config.layers):
            if layer.experts and not set(options.targets) <= set(ATTENTION):
                raise Unsupported(
                    "the feed-forward networks of a mixture of experts cannot have adapters; use --targets attention."
                )
            own = set(block_linears(layer))  # a layer that reads another's keys and values has no matrices for them
            for target in (target for target in options.targets if target in own):
                self._adapt(f"blocks.{index}.{target}", options.rank, generator)

    def _adapt(self, layer: str, rank: int, generator: torch.Generator) -> None:
        parent, _, attribute = layer.rpartition(".")
        owner = self.decoder.get_submodule(parent)
        base = getattr(owner, attribute)
        assert isinstance(base, BlankLinear | FrozenLinear)
        adapted = AdaptedLinear(base, rank, self._scale, self._dropout, generator)
        setattr(owner, attribute, adapted)
        self._layers[f"{layer}.weight"] = adapted

    @classmethod
    def continued(cls, decoder: Decoder, adapter: Adapter, dropout: float = 0.0) -> "Adapted":
        """Go on from an adapter; it must have been checked against this model (`formats.adapters.read_adapter`)."""
        adapted = cls(decoder, LoraOptions(targets=(), dropout=dropout))
        adapted._scale = adapter.scale
        for name, pair in adapter.pairs.items():
            adapted._adapt(name.removesuffix(".weight"), pair.rank, torch.Generator())
            layer = adapted._layers[name]
            layer.lora_a.data.copy_(pair.a)
            layer.lora_b.data.copy_(pair.b)
        return adapted

    @property
    def names(self) -> Set[str]:
        """Canonical names of the weights that have an adapter."""
        return self._layers.keys()

    def tensors(self) -> dict[str, Tensor]:
        """A and B of every adapted layer."""
        return {
            f"{name}.{part}": getattr(layer, part) for name, layer in self._layers.items() for part in (_A, _B)
        }  # fmt: skip

    def prepare(self) -> None:
        """Nothing to do: the layers read the tensors themselves."""

    def collect(self) -> None:
        """Nothing to do: the gradients are where they belong."""

    def merged(self, name: str) -> Float[Tensor, "rows cols"]:
        """The weight that does alone what weight and adapter do together."""
        return self._layers[name].merged()

    def parts(self) -> dict[str, Part]:
        """All adapted weights, merged. Values are made when they are asked for."""
        return {name: Changed(layer.merged) for name, layer in self._layers.items()}

    def parts_in(self, checkpoint: Checkpoint) -> dict[str, Part]:
        """The same in the types that the model has: quantized weights take the codes nearest to them, scales stay.

        What the adapter changes by less than half a step of a type is lost by that.
        """
        return {name: self._part_in(checkpoint, name) for name in self._layers}

    def _part_in(self, checkpoint: Checkpoint, name: str) -> Part:
        kind, layer = checkpoint.kind(name), self._layers[name]
        if kind not in GRIDS:
            return Changed(layer.merged)
        return Packed(kind, lambda: Lattice.of(stored_rows(checkpoint, name), kind).nearest(layer.merged()).pack())

    def adapter(self) -> Adapter:
        """The adapter alone, as it is now (copies)."""
        pairs = {
            name: Pair(layer.lora_a.detach().clone().cpu(), layer.lora_b.detach().clone().cpu())
            for name, layer in self._layers.items()
        }
        return Adapter(pairs, self._scale)
