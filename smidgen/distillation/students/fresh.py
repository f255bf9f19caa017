"""Fresh students: a smaller model of the teacher's family and vocabulary, from slices of the teacher or at random.

From slices: evenly chosen layers, of which the channels, heads and feed-forward neurons with the most energy stay (the
sum of squares of all weights that write to or read from them). Where a matrix loses inputs, its sums have fewer terms:
what is left is multiplied by √(energy before / after), which keeps their size if inputs are alike and independent, and
so the scale that nonlinearities and norms were trained for. Slices of a trained model as a beginning: Xu et al. 2023,
"Initializing models with larger ones", arXiv:2311.18823; Sreenivas et al. 2024, arXiv:2408.11796.

At random: a normal distribution of standard deviation 0.02, for the matrices that write to the residual stream divided
by √(2 · layers), as in GPT-2 (Radford et al. 2019, section 2.3); norms are 1, biases 0.

What is cut from where is decided by weights alone; `prune` finds better cuts with text, but nearer to the original.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from smidgen.bounds import within
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.config import LayerConfig, ModelConfig
from smidgen.model.decoder import Decoder
from smidgen.model.families import Family
from smidgen.model.features import refuse_features
from smidgen.model.parameters import parameter_shapes, split_block_name
from smidgen.numerics.block_types import Q4_0, Q4_K
from smidgen.shapes import Float, Int

Beginning = Literal["slices", "random"]

_SPREAD = 0.02
_MOST = 2**20  # layers, channels: what a file can hold is checked in its own place
_PROBE = 64  # tokens
_SMALL_BLOCK, _LARGE_BLOCK = Q4_0.block, Q4_K.block  # weights; every quantized type has one of the two
_READS_HIDDEN = ("query", "key", "value", "gate", "up", "router")


@dataclass(frozen=True)
class FreshShape:
    """How large the student is; None as the teacher.

    width: of the residual stream.  ffn: of each expert, if any.  kv_heads: None for as many of the heads as there.
    """

    layers: int | None = None
    width: int | None = None
    ffn: int | None = None
    heads: int | None = None
    kv_heads: int | None = None

    def __post_init__(self) -> None:
        """Raises SmidgenError for what is no size."""
        for name in ("layers", "width", "ffn", "heads", "kv_heads"):
            within(name, getattr(self, name), 1, _MOST)


@dataclass(frozen=True)
class FreshPlan:
    """The student's configuration, and which of the teacher's layers each of its own resembles."""

    config: ModelConfig
    layers: tuple[int, ...]


def plan_fresh(teacher: ModelConfig, family: Family, shape: FreshShape) -> FreshPlan:
    """The student's configuration.

    Layers are chosen evenly, the first and the last among them. Where a GGUF file of the family cannot say which of
    those have a window or positions, each layer is chosen from those that have what its place demands.
    Raises SmidgenError for a shape that cannot be, Unsupported for one that a GGUF file cannot hold.
    """
    refuse_features(teacher, "a new student of another shape", "teach a cut of the model instead")
    count = len(teacher.layers) if shape.layers is None else shape.layers
    chosen = _evenly(range(len(teacher.layers)), count)
    evenly = FreshPlan(_configured(teacher, family, shape, chosen), tuple(chosen))
    try:
        family.to_gguf(evenly.config)
        return evenly
    except Unsupported:
        chosen = _by_place(teacher, family, count)
    by_place = FreshPlan(_configured(teacher, family, shape, chosen), tuple(chosen))
    family.to_gguf(by_place.config)
    return by_place


def misfits(plan: FreshPlan, teacher: ModelConfig) -> list[str]:
    """For people: widths of the student that blocks of weights do not divide, so that `cut` can do less with it.

    Where blocks of 32 fit, only widths are named that the teacher has not: of these a person has the choice.
    """
    rows, known = _row_widths(plan.config), _row_widths(teacher)
    lines = []
    if none := sorted(width for width in rows if width % _SMALL_BLOCK):
        lines.append(
            f"Rows of {_listed(none)} weights fit no block of a quantized type ({_SMALL_BLOCK} or {_LARGE_BLOCK} "
            f"weights): `cut` can store them in 16 bits only. Take widths that {_LARGE_BLOCK}, or at least "
            f"{_SMALL_BLOCK}, divides."
        )
    if some := sorted(width for width in rows - known if width % _LARGE_BLOCK and not width % _SMALL_BLOCK):
        lines.append(
            f"Rows of {_listed(some)} weights do not fit blocks of {_LARGE_BLOCK}: `cut` has only the types with "
            f"blocks of {_SMALL_BLOCK} for them, and none of the k-quants. Take widths that {_LARGE_BLOCK} divides to "
            "have all."
        )
    return lines


def _row_widths(config: ModelConfig) -> set[int]:
    """Of all matrices: how many weights a row has."""
    return {shape[-1] for shape in parameter_shapes(config).values() if len(shape) > 1}


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def fresh_student(teacher: Checkpoint, plan: FreshPlan, beginning: Beginning, seed: int) -> Decoder:
    """The student before training. Raises SmidgenError where slices are asked for, but it is wider than the teacher."""
    decoder = Decoder(plan.config)
    if beginning == "random":
        _fill_at_random(decoder, seed)
        return decoder
    decoder.load_state_dict(_Slices(teacher, plan).weights(), assign=True)
    if plan.config != teacher.config:
        _calm(decoder, seed)
    return decoder


def _evenly(choices: range | list[int], count: int) -> list[int]:
    """`count` of the choices, in order, first and last among them; some twice where there are fewer."""
    last = len(choices) - 1
    return [choices[round(place * last / max(1, count - 1))] for place in range(count)]


def _by_place(teacher: ModelConfig, family: Family, count: int) -> list[int]:
    """For each of `count` layers one of the teacher's that has a window, and positions, as the place demands."""
    windowed = any(layer.window is not None for layer in teacher.layers)
    local = family.traits.local(count) if windowed else (False,) * count
    wanted = list(zip(local, family.traits.rotates(count), strict=True))
    kinds = [(layer.window is not None, layer.rotary is not None) for layer in teacher.layers]
    chosen = [0] * count
    for kind in dict.fromkeys(wanted):
        places = [place for place, one in enumerate(wanted) if one == kind]
        alike = [layer for layer, one in enumerate(kinds) if one == kind]
        if not alike:
            raise Unsupported(f"{count} layers of {family.name} need a kind that the teacher has none of; take more")
        for place, layer in zip(places, _evenly(alike, len(places)), strict=True):
            chosen[place] = layer
    return chosen


def _configured(teacher: ModelConfig, family: Family, shape: FreshShape, chosen: list[int]) -> ModelConfig:
    hidden = teacher.hidden if shape.width is None else shape.width
    layers = tuple(_layer(teacher.layers[layer], shape) for layer in chosen)
    scale = hidden**0.5 if family.traits.scaled_embedding else teacher.embedding_scale
    return replace(teacher, hidden=hidden, layers=layers, embedding_scale=scale)


def _layer(layer: LayerConfig, shape: FreshShape) -> LayerConfig:
    heads = layer.heads if shape.heads is None else shape.heads
    alike = max(1, heads * layer.kv_heads // layer.heads)
    kv_heads = alike if shape.kv_heads is None else shape.kv_heads
    if heads % kv_heads:
        raise SmidgenError(
            f"{heads} heads do not divide into {kv_heads} key/value heads. Change --heads or --kv-heads."
        )
    ffn_width = layer.ffn_width if shape.ffn is None else shape.ffn
    return replace(layer, heads=heads, kv_heads=kv_heads, ffn_width=ffn_width)


@torch.no_grad()
def _calm(decoder: Decoder, seed: int) -> None:
    """Scale the last norm so that logits are not larger than of order one.

    What the slices say together is noise at first; said with the teacher's certainty it costs several times as much as
    knowing nothing, and the first hundred steps of training would go into forgetting it.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(decoder.config.vocabulary, (1, _PROBE), generator=generator)
    spread = float(decoder(ids).std(dim=2).mean())
    decoder.final_norm.weight.mul_(min(1.0, 1.0 / spread))


@torch.no_grad()
def _fill_at_random(decoder: Decoder, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    residual = _SPREAD / math.sqrt(2 * len(decoder.config.layers))
    for name, parameter in decoder.named_parameters():
        if parameter.ndim > 1:
            writes = name.endswith(("attention.output.weight", "down.weight"))
            parameter.normal_(0.0, residual if writes else _SPREAD, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


class _Slices:
    """The student's weights, cut out of the teacher's."""

    def __init__(self, teacher: Checkpoint, plan: FreshPlan) -> None:
        self._teacher, self._plan = teacher, plan
        self._before, self._after = teacher.config, plan.config
        if plan.config.hidden > teacher.config.hidden:
            raise _too_wide("--width", plan.config.hidden, teacher.config.hidden)
        self._channels = self._residual_channels()

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        """By canonical name."""
        ratio = self._before.embedding_scale / self._after.embedding_scale
        embedding, norm = self._teacher.tensor("embedding.weight"), self._teacher.tensor("final_norm.weight")
        weights = {"embedding.weight": embedding[:, self._channels] * ratio}
        if self._after.tied_head:  # what the head has to be multiplied by goes into the norm before it
            norm = norm * (self._missing(embedding, norm) / ratio)
        else:
            head = self._teacher.tensor("head.weight")
            weights["head.weight"] = head[:, self._channels] * self._missing(head, norm)
        weights["final_norm.weight"] = norm[self._channels]
        for index, layer in enumerate(self._plan.layers):
            weights |= {f"blocks.{index}.{name}": value for name, value in self._block(index, layer).items()}
            self._teacher.release()
        return weights

    def _missing(self, matrix: Float[Tensor, "out hidden"], norm: Float[Tensor, " hidden"]) -> float:
        """What sums over the residual stream's channels are multiplied by, now that there are fewer."""
        return _missing(matrix.square().sum(0) * norm.square(), self._channels)

    def _residual_channels(self) -> Int[Tensor, " hidden"]:
        """Those with the most energy, each matrix counting alike."""
        energy = torch.zeros(self._before.hidden)
        for name in self._teacher.names():
            split = split_block_name(name)
            if name.endswith("norm.weight") or len(self._teacher.shape(name)) == 1:
                continue
            part = (split[1] if split else name).split(".")[-2]
            axis = 1 if split is None or part in _READS_HIDDEN else 0
            squares = self._teacher.tensor(name).square().sum(1 - axis)
            energy += squares / squares.sum()
            self._teacher.release()
        return _largest(energy, self._after.hidden)

    def _block(self, index: int, layer: int) -> dict[str, Float[Tensor, "..."]]:
        """One layer's, under the names within a block."""
        before, after = self._before.layers[layer], self._after.layers[index]
        found = {name: value for name, value in self._teacher.block(layer).items()}
        queries, keys = _features(found, before, after)
        cut: dict[str, Float[Tensor, "..."]] = {}
        neurons: dict[str, Int[Tensor, " ffn"]] = {}
        for name, value in found.items():
            part, owner = name.split(".")[-2], name.rpartition(".")[0].rpartition(".")[0]
            if part in _READS_HIDDEN and value.ndim > 1:
                norm = found["attention_norm.weight" if owner == "attention" else "feed_forward_norm.weight"]
                value = value[:, self._channels] * self._missing(value, norm)
            match part:
                case "query":
                    cut[name] = value[queries]
                case "key" | "value":
                    cut[name] = value[keys]
                case "gate" | "up":
                    neurons.setdefault(owner, _neurons(found, owner, after.ffn_width))
                    cut[name] = value[neurons[owner]]
                case "down":
                    cut[name] = self._writing(value, _sizes(found, owner).square(), neurons[owner])
                case "output" if value.ndim > 1:
                    cut[name] = self._writing(value, value.square().sum(0), queries)
                case "router" | "query_norm" | "key_norm":
                    cut[name] = value
                case _:
                    cut[name] = value[self._channels]
        return cut

    def _writing(
        self, matrix: Float[Tensor, "hidden in"], energy: Float[Tensor, " in"], kept: Int[Tensor, " kept"]
    ) -> Float[Tensor, "channels kept"]:
        """A matrix that writes to the residual stream, without some of its inputs."""
        return matrix[self._channels][:, kept] * _missing(energy, kept)


def _missing(energy: Float[Tensor, " all"], kept: Int[Tensor, " kept"]) -> float:
    """√(energy before / after)."""
    return math.sqrt(float(energy.sum() / energy[kept].sum()))


def _largest(energy: Float[Tensor, " all"], count: int) -> Int[Tensor, " kept"]:
    """The `count` largest, in order of their place."""
    return energy.argsort(descending=True, stable=True)[:count].sort().values


def _sizes(block: dict[str, Tensor], owner: str) -> Float[Tensor, " ffn"]:
    """How large the neurons of a feed-forward network are, from end to end."""
    gate, up, down = (block[f"{owner}.{part}.weight"] for part in ("gate", "up", "down"))
    return gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)


def _neurons(block: dict[str, Tensor], owner: str, count: int) -> Int[Tensor, " ffn"]:
    """Those of a feed-forward network that stay."""
    sizes = _sizes(block, owner)
    if count > len(sizes):
        raise _too_wide("--ffn", count, len(sizes))
    return _largest(sizes, count)


def _features(
    block: dict[str, Tensor], before: LayerConfig, after: LayerConfig
) -> tuple[Int[Tensor, " query_rows"], Int[Tensor, " key_rows"]]:
    """Rows of the queries, and of keys and values, of the heads that stay: the largest groups, in each the largest."""
    per_group, wanted = before.heads // before.kv_heads, after.heads // after.kv_heads
    if after.kv_heads > before.kv_heads:
        raise _too_wide("--kv-heads", after.kv_heads, before.kv_heads)
    if wanted > per_group:
        raise _too_wide("--heads", after.heads, f"{per_group} for each key/value head")
    sizes = block["attention.output.weight"].square().sum(0).view(before.kv_heads, per_group, -1).sum(2)
    groups = _largest(sizes.sum(1), after.kv_heads)
    heads = torch.cat([group * per_group + _largest(sizes[group], wanted) for group in groups])
    return _rows_of(heads, before.head_dim), _rows_of(groups, before.head_dim)


def _rows_of(heads: Int[Tensor, " heads"], width: int) -> Int[Tensor, " rows"]:
    return (heads[:, None] * width + torch.arange(width)).flatten()


def _too_wide(option: str, wanted: int, most: int | str) -> SmidgenError:
    return SmidgenError(
        f"{option} {wanted} cannot be cut out of the teacher, which has {most}. Take less, or --init random."
    )
