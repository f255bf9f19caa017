"""Narrower layers: feed-forward channels, heads (with or without their key/value heads) and the residual stream.

Which channels and heads go is settled layer by layer (`calibration.channels`), how many is the same for all layers,
since engines want it so; where a model's layers differ already (OpenELM) all shrink in the same ratio. What remains is
then refitted to the original (`pruning.refit`). Rows of matrices that stay move as packed bytes; matrices that lose
columns, or are refitted, are stored in 16 bits.

Widths stay multiples of the blocks that quantized formats are made of: of 256 where the original's are, else of 32.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from smidgen.calibration.channels import LayerRanking, Method, Removal, rank
from smidgen.errors import SmidgenError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Changed, Derived, Kept, Part
from smidgen.formats.workspace import Workspace
from smidgen.model.config import LayerConfig, ModelConfig
from smidgen.model.decoder import Block
from smidgen.model.parameters import block_shapes
from smidgen.progress import track
from smidgen.pruning.hidden import Stream, choose_channels, narrow_ends, norm_factors
from smidgen.pruning.refit import refit
from smidgen.shapes import Int


@dataclass(frozen=True)
class LayerCut:
    """What stays of one layer: numbers in the original, ascending.

    heads come in groups of neighbours that share a key/value head.
    loss: what the layer's channels and heads are expected to cost, in nats per token; NaN where it was not estimated.
    """

    ffn: tuple[int, ...]
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    loss: float


@dataclass(frozen=True)
class WidthPlan:
    """What stays of each layer, and of the residual stream (None: all)."""

    layers: tuple[LayerCut, ...]
    channels: tuple[int, ...] | None
    method: str

    def config(self, original: ModelConfig) -> ModelConfig:
        """The configuration of the narrow model."""
        layers = tuple(
            replace(layer, ffn_width=len(cut.ffn), heads=len(cut.heads), kv_heads=len(cut.kv_heads))
            for layer, cut in zip(original.layers, self.layers, strict=True)
        )
        if self.channels is None:
            return replace(original, layers=layers)
        hidden = len(self.channels)
        scale = original.embedding_scale
        scale = scale if scale == 1 else scale * (hidden / original.hidden) ** 0.5
        return replace(original, layers=layers, hidden=hidden, embedding_scale=scale)

    def report(self) -> dict[str, Any]:
        """For the card: sizes that stay, which heads, and the expected loss, layer by layer."""
        layers = [
            {
                "ffn": len(cut.ffn),
                "heads": list(cut.heads),
                "kv_heads": list(cut.kv_heads),
                "expected_loss": None if cut.loss != cut.loss else cut.loss,
            }
            for cut in self.layers
        ]
        hidden = None if self.channels is None else len(self.channels)
        return {"method": self.method, "hidden": hidden, "layers": layers}


# -- plan ----------------------------------------------------------------------------------------------------------


def plan(
    checkpoint: Checkpoint,
    ffn: int | None,
    kv_heads: int | None,
    hidden: int | None,
    windows: Int[Tensor, "windows position"],
    workspace: Workspace,
    heads: int | None = None,
    method: Method = "obs",
) -> WidthPlan:
    """Which channels and heads stay. None leaves a size as it is.

    ffn, kv_heads: of each layer; of the widest where they differ.  heads: query heads for each key/value head that
    stays.  windows: calibration text.
    Raises SmidgenError for sizes that a model or file format cannot have, before any work is done.
    """
    config = checkpoint.config
    sizes = _sizes(config, ffn, kv_heads, heads, hidden)
    cuts = tuple(_first_of(size) for size in sizes)
    stream = None if hidden is None else tuple(range(hidden))
    checkpoint.family.to_gguf(WidthPlan(cuts, stream, method).config(config))
    if ffn is not None or kv_heads is not None or heads is not None:
        ranked = zip(config.layers, rank(checkpoint, windows, workspace, method), sizes, strict=True)
        cuts = tuple(_cut(*one) for one in ranked)
    if hidden is not None:
        stream = choose_channels(checkpoint, windows, hidden, workspace)
    return WidthPlan(cuts, stream, method)


def _first_of(sizes: tuple[int, int, int]) -> LayerCut:
    """The first of everything: right where nothing goes, and in size where something does."""
    ffn, heads, kv_heads = (tuple(range(size)) for size in sizes)
    return LayerCut(ffn, heads, kv_heads, 0.0)


def _sizes(
    config: ModelConfig, ffn: int | None, kv_heads: int | None, heads: int | None, hidden: int | None
) -> list[tuple[int, int, int]]:
    """Feed-forward width, query heads and key/value heads of every layer."""
    layers = config.layers
    if ffn is not None:
        if any(layer.experts for layer in layers):
            raise SmidgenError("Feed-forward networks of experts are not narrowed; remove whole experts instead.")
        _refuse_width("The feed-forward width", ffn, max(layer.ffn_width for layer in layers))
    if hidden is not None:
        _refuse_width("The hidden size", hidden, config.hidden)
    return [_layer_sizes(layers, layer, ffn, kv_heads, heads) for layer in layers]


def _layer_sizes(
    layers: Sequence[LayerConfig], layer: LayerConfig, ffn: int | None, kv_heads: int | None, heads: int | None
) -> tuple[int, int, int]:
    most_kv, group = max(one.kv_heads for one in layers), layer.heads // layer.kv_heads
    new_ffn, new_kv, new_group = layer.ffn_width, layer.kv_heads, group
    if ffn is not None:
        new_ffn = _in_ratio(ffn, max(one.ffn_width for one in layers), layer.ffn_width, _multiple(layer.ffn_width))
    if kv_heads is not None:
        _refuse_count("key/value heads", kv_heads, most_kv)
        new_kv = _in_ratio(kv_heads, most_kv, layer.kv_heads, 1)
    if heads is not None:
        most = max(one.heads // one.kv_heads for one in layers)
        _refuse_count("query heads for each key/value head", heads, most)
        new_group = _in_ratio(heads, most, group, 1)
    multiple = _multiple(layer.heads * layer.head_dim)
    if new_kv * new_group < layer.heads and new_kv * new_group * layer.head_dim % multiple:
        possible = [n for n in range(1, layer.heads + 1) if n * layer.head_dim % multiple == 0]
        raise SmidgenError(
            f"{new_kv * new_group} query heads, each {layer.head_dim} wide, are not a multiple of {multiple} together, "
            f"as the block formats need. Keep key/value heads and query heads for each that make {_listed(possible)}."
        )
    return new_ffn, new_kv * new_group, new_kv


def _refuse_count(what: str, asked: int, most: int) -> None:
    if not 1 <= asked <= most:
        raise SmidgenError(f"{asked} {what}: the model has {most}. Keep 1 to {most}.")


def _listed(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


def _in_ratio(asked: int, most: int, own: int, multiple: int) -> int:
    """A layer's share of a size that is asked for of the largest layer."""
    if own == most:
        return asked
    return min(own, max(multiple, round(own * asked / most / multiple) * multiple))


def _multiple(width: int) -> int:
    """What a width must stay a multiple of, for the blocks of quantized formats."""
    return 256 if width % 256 == 0 else 32


def _refuse_width(what: str, asked: int, original: int) -> None:
    multiple = _multiple(original)
    if 1 <= asked <= original and (asked % multiple == 0 or asked == original):
        return
    below = max(multiple, min(asked, original) // multiple * multiple)
    above = min(below + multiple, original)
    nearest = str(below) if asked in range(below) or above <= below or asked > original else f"{below} or {above}"
    raise SmidgenError(
        f"{what} is {original}, and {asked} is not a multiple of {multiple} between {multiple} and {original}, as the "
        f"block formats need. Take {nearest}."
    )


def _cut(layer: LayerConfig, ranking: LayerRanking, sizes: tuple[int, int, int]) -> LayerCut:
    """What stays of one layer, by its ranking."""
    ffn, heads, kv_heads = sizes
    channels, loss = tuple(range(layer.ffn_width)), 0.0
    if ranking.ffn is not None and ffn < layer.ffn_width:
        channels, loss = _without(layer.ffn_width, ranking.ffn, layer.ffn_width - ffn, "feed-forward channels")
    groups, group_loss = _without(layer.kv_heads, ranking.groups, layer.kv_heads - kv_heads, "key/value heads")
    size = layer.heads // layer.kv_heads
    members = [range(group * size, (group + 1) * size) for group in groups]
    kept = [head for group in members for head in _last(ranking.heads, group, heads // kv_heads)]
    head_loss = _loss_of(ranking.heads, {head for group in members for head in group} - set(kept))
    return LayerCut(channels, tuple(kept), groups, loss + group_loss + head_loss)


def _without(units: int, removal: Removal, count: int, what: str) -> tuple[tuple[int, ...], float]:
    """The units that stay once so many are removed, and what that costs."""
    if count == 0:
        return tuple(range(units)), 0.0
    if count > len(removal.order):
        raise SmidgenError(f"At most {len(removal.order)} of {units} {what} can go, not {count}. Keep more.")
    gone = set(removal.order[:count].tolist())
    return tuple(unit for unit in range(units) if unit not in gone), float(removal.loss[count - 1])


def _last(removal: Removal, units: Sequence[int], count: int) -> list[int]:
    """Those of `units` that would be removed last, ascending; a unit that never is comes after all others."""
    place = {unit: place for place, unit in enumerate(removal.order.tolist())}
    return sorted(sorted(units, key=lambda unit: place.get(unit, len(place)))[len(units) - count :])


def _loss_of(removal: Removal, units: Collection[int]) -> float:
    """What removing these adds to the loss, each where its turn is."""
    steps = removal.loss.diff(prepend=torch.zeros(1)).tolist()
    return sum((step for unit, step in zip(removal.order.tolist(), steps, strict=True) if unit in units), 0.0)


# -- apply ---------------------------------------------------------------------------------------------------------


def apply(
    checkpoint: Checkpoint,
    plan: WidthPlan,
    windows: Int[Tensor, "windows position"],
    workspace: Workspace,
    compensate: bool = True,
) -> Derived:
    """The narrow model. compensate: refit what remains to the original; otherwise channels are only left out."""
    config, layers = plan.config(checkpoint.config), len(checkpoint.config.layers)
    stream = None
    if plan.channels is not None:
        stream = Stream(torch.tensor(plan.channels), norm_factors(checkpoint, windows, plan.channels, workspace))
    narrower = _Narrower(checkpoint, plan, stream)
    parts = narrower.parts()
    if stream is not None:
        parts |= narrow_ends(checkpoint, config, stream)
    if compensate:
        with track("Refitting", layers) as task:
            channels = None if stream is None else stream.channels
            parts |= refit(checkpoint, range(layers), narrower.block, windows, workspace, task, channels)
    return Derived(config, parts)


class _Narrower:
    """Leaves out what a plan leaves out."""

    def __init__(self, checkpoint: Checkpoint, plan: WidthPlan, stream: Stream | None) -> None:
        self._checkpoint, self._plan, self._stream = checkpoint, plan, stream
        self._config = plan.config(checkpoint.config)

    def block(self, index: int, block: Block) -> Block:
        """A block's narrow form. What it keeps whole it shares with the original."""
        narrow = Block(self._config.layers[index], self._config.hidden, self._config.norm_epsilon)
        values = {name: self._values(index, name, tensor) for name, tensor in block.state_dict().items()}
        narrow.load_state_dict(values, assign=True)
        return narrow

    def parts(self) -> dict[str, Part]:
        """Parts of all blocks; what is not in it stays whole."""
        parts: dict[str, Part] = {}
        for index, layer in enumerate(self._checkpoint.config.layers):
            for name, shape in block_shapes(layer, self._checkpoint.config.hidden).items():
                rows, columns = self._selection(index, name)
                full = f"blocks.{index}.{name}"
                if rows is not None and columns is None and len(shape) > 1:
                    parts[full] = Kept(full, rows.numpy())
                elif rows is not None or columns is not None:
                    parts[full] = Changed(lambda index=index, name=name, full=full: self._read(index, name, full))
        return parts

    def _read(self, index: int, name: str, full: str) -> Tensor:
        return self._values(index, name, self._checkpoint.tensor(full))

    def _values(self, index: int, name: str, tensor: Tensor) -> Tensor:
        rows, columns = self._selection(index, name)
        tensor = tensor if rows is None else tensor[rows]
        tensor = tensor if columns is None else tensor[:, columns]
        factor = None if self._stream is None else self._stream.factors.get(f"blocks.{index}.{name}")
        return tensor if factor is None else tensor * factor

    def _selection(self, index: int, name: str) -> tuple[Tensor | None, Tensor | None]:
        """Rows and columns that stay of a parameter; None for all."""
        layer, cut = self._checkpoint.config.layers[index], self._plan.layers[index]
        stream = None if self._stream is None else self._stream.channels
        inside: Mapping[str, Tensor | None] = {
            "query": _features(cut.heads, layer.heads, layer.head_dim),
            "key": _features(cut.kv_heads, layer.kv_heads, layer.head_dim),
            "value": _features(cut.kv_heads, layer.kv_heads, layer.head_dim),
            "gate": _features(cut.ffn, layer.ffn_width, 1),
            "up": _features(cut.ffn, layer.ffn_width, 1),
            "router": None,
        }
        part = name.split(".")[-2]
        if part in ("query_norm", "key_norm"):
            return None, None
        if part in inside:
            return inside[part], None if name.endswith("bias") else stream
        if part in ("output", "down") and not name.endswith("bias"):
            return stream, inside["query" if part == "output" else "gate"]
        return stream, None


def _features(units: Sequence[int], of: int, width: int) -> Int[Tensor, " features"] | None:
    """The features of some units that are `width` wide each; None for all."""
    if len(units) == of:
        return None
    return (torch.tensor(units)[:, None] * width + torch.arange(width)).flatten()
