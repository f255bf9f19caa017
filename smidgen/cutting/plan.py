"""The plan of a cut: how many tokens stay and which type each tensor gets, so that the file keeps to its limits.

Sizes are those of the file as it will be written, header, tokenizer and alignment included. What a type costs comes
from `quantization.survey`; leaving a tensor as it is costs its bytes and no damage, and competes with the rest. What a
smaller vocabulary costs comes from `pruning.vocabulary`, in nats per token too: how much less likely the text becomes
where its tokens have to be spelled in others. So the two compete for the same bytes, and the least sum wins.

Where a speed is asked for, each type of each tensor also has a time: the bytes of it that a token reads, times the
seconds that a byte of the type takes on this machine.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from smidgen.cutting.limits import Limits, Pace
from smidgen.cutting.portable import are_portable, may_stay
from smidgen.errors import BudgetError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.claims import as_ours
from smidgen.formats.gguf.reader import MetadataValue
from smidgen.formats.gguf.traffic import shares_read
from smidgen.formats.gguf.writer import STRING_TYPES, TensorPlan, file_size
from smidgen.formats.history import HISTORY, with_step
from smidgen.model.parameters import BY_TOKEN, is_matrix
from smidgen.numerics.block_types import BY_NAME, F16, PORTABLE, BlockType
from smidgen.pruning.vocabulary import Ranking
from smidgen.quantization.allocate import Option, allocate, quickest
from smidgen.quantization.fitting import fitting_types, misfits
from smidgen.quantization.survey import TARGET_TYPES
from smidgen.sizes import format_size
from smidgen.version import __version__

_UINT32 = 4
_KEEP = "keep"
_STEP = {"step": "quantize", "smidgen": __version__}
_TOKEN_BYTES = 8 + 4 + 4  # of a token in the header, beside its text: length, score, kind
_MOST_SIZES = 24  # vocabularies that are compared


@dataclass(frozen=True)
class Choice:
    """What becomes of one matrix of the file.

    name: of the tensor in the file.  members: canonical names of the matrices in it, often one.
    kind: its type in the new file, or the portable one of it.  keep: it stays as it is.  nbytes: in the file.
    damage: estimated nats of KL divergence per token.
    seconds: that reading it takes for each token; 0 where no speed is asked for.
    """

    name: str
    members: tuple[str, ...]
    kind: BlockType
    keep: bool
    nbytes: int
    damage: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Layout:
    """The file to be written: metadata, and every tensor in file order with its planned type."""

    metadata: dict[str, MetadataValue]
    metadata_types: dict[str, tuple[int, ...]]
    tensors: list[TensorPlan]

    @property
    def size(self) -> int:
        """Exact bytes of the file."""
        return file_size(self.metadata, self.metadata_types, self.tensors)


def matrices(checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
    """What can be quantized: tensor of the GGUF file → canonical names of the matrices in it."""
    found: dict[str, list[str]] = {}
    for name in filter(is_matrix, checkpoint.names()):
        found.setdefault(checkpoint.gguf_name(name), []).append(name)
    return {tensor: tuple(members) for tensor, members in found.items()}


def layout(checkpoint: Checkpoint, kinds: Mapping[str, BlockType]) -> Layout:
    """The file with these types (tensor → type), and the step in its history; all else as in the original."""
    tensors = [
        TensorPlan(tensor.name, tensor.shape, kinds.get(tensor.name, tensor.kind).stored)
        for tensor in checkpoint.file.tensors.values()
    ]
    metadata, types = as_ours(checkpoint.file.metadata, checkpoint.file.metadata_types, tensors)
    added: dict[str, tuple[MetadataValue, tuple[int, ...]]] = {
        "general.quantization_version": (2, (_UINT32,)),
        "general.quantized_by": (f"smidgen {__version__}", STRING_TYPES),
        HISTORY: (with_step(checkpoint.file.metadata, _STEP), STRING_TYPES),
    }
    metadata |= {key: value for key, (value, _) in added.items()}
    types |= {key: kind for key, (_, kind) in added.items()}
    return Layout(metadata, types, tensors)


def smallest_size(checkpoint: Checkpoint, types: Sequence[BlockType] = TARGET_TYPES) -> int:
    """Bytes of the smallest file that `types` allow."""
    return _extreme_size(checkpoint, types, min)


def largest_size(checkpoint: Checkpoint, types: Sequence[BlockType] = TARGET_TYPES) -> int:
    """Bytes of the largest file that `types` allow."""
    return _extreme_size(checkpoint, types, max)


def _extreme_size(checkpoint: Checkpoint, types: Sequence[BlockType], extreme: Callable[..., BlockType]) -> int:
    kinds = {
        tensor: extreme(possible, key=lambda kind: kind.bits_per_weight)
        for tensor, possible in possible_types(checkpoint, types).items()
    }
    return layout(checkpoint, kinds).size


def possible_types(checkpoint: Checkpoint, types: Sequence[BlockType]) -> dict[str, tuple[BlockType, ...]]:
    """Tensor of `matrices` → what it can become, and last what it is, if it may stay that."""
    tensors, portable = checkpoint.file.tensors, are_portable(types)
    return {
        tensor: (
            *fitting_types(tensors[tensor].shape[-1], types),
            *((tensors[tensor].kind,) if not portable or may_stay(checkpoint, tensor) else ()),
        )
        for tensor in matrices(checkpoint)
    }


def fits_as_it_is(checkpoint: Checkpoint, budget: int, types: Sequence[BlockType]) -> bool:
    """Whether nothing has to be done to have a file of at most so many bytes."""
    if layout(checkpoint, {}).size > budget:
        return False
    return not are_portable(types) or all(may_stay(checkpoint, tensor) for tensor in matrices(checkpoint))


def refuse_impossible(checkpoint: Checkpoint, budget: int, types: Sequence[BlockType] = TARGET_TYPES) -> None:
    """Raises BudgetError, with the smallest possible size and what is in its way, where no choice of types will do."""
    smallest = smallest_size(checkpoint, types)
    if smallest > budget:
        raise BudgetError(
            f"{checkpoint.path.name} cannot be cut to {budget} bytes by quantization: the smallest possible file is "
            f"{smallest} bytes. Ask for --fit {smallest} ({format_size(smallest)}) or more.{_why(checkpoint, types)}"
        )


def misfitting(checkpoint: Checkpoint, types: Sequence[BlockType], among: Collection[str] | None = None) -> list[str]:
    """Which matrices can have none of `types`, or not the smallest, since their rows do not fit: lines for people.

    among: tensors of the file to look at; None for all.
    """
    tensors = checkpoint.file.tensors
    named = [tensor for tensor in matrices(checkpoint) if among is None or tensor in among]
    return misfits({tensor: tensors[tensor].shape[-1] for tensor in named}, types)


def at_the_bottom(checkpoint: Checkpoint, choices: Sequence[Choice], types: Sequence[BlockType]) -> set[str]:
    """Tensors that have the smallest type which their rows allow: only there does a misfit matter."""
    found: set[str] = set()
    for choice in choices:
        offered = fitting_types(checkpoint.file.tensors[choice.name].shape[-1], types)
        if offered and choice.kind.bits_per_weight <= min(kind.bits_per_weight for kind in offered):
            found.add(choice.name)
    return found


def _why(checkpoint: Checkpoint, types: Sequence[BlockType]) -> str:
    return "".join(f" {line}" for line in misfitting(checkpoint, types))


def choose(
    checkpoint: Checkpoint, damage: Mapping[str, Mapping[str, float]], limits: Limits, *, portable: bool = False
) -> list[Choice]:
    """The choice for every matrix with the least total damage whose file keeps to the limits.

    damage: canonical name → type name → nats per token, from `quantization.survey`. Matrices stacked in one tensor
    share their type, and their damages add up.  portable: of `damage` only what `cutting.portable` allows.
    Raises BudgetError where no choice keeps to the limits.
    """
    allowed = _Allowed.of(checkpoint, damage, portable)
    options = _options(checkpoint, allowed, checkpoint.config.vocabulary, limits.pace)
    try:
        chosen = allocate(options, limits.nbytes - fixed_bytes(checkpoint), limits.seconds)
    except ValueError as error:
        raise BudgetError(
            f"No types keep {checkpoint.path.name} to all that is asked ({error}). Ask for less with --speed."
        ) from error
    return _choices(checkpoint, chosen)


def choose_quickest(checkpoint: Checkpoint, types: Sequence[BlockType], limits: Limits) -> list[Choice]:
    """Of the files with at most so many bytes the quickest, whatever the damage, which is left at 0."""
    tensors = checkpoint.file.tensors
    costs = {
        name: {kind.name: 0.0 for kind in fitting_types(tensors[tensor].shape[-1], types)}
        for tensor, names in matrices(checkpoint).items()
        for name in names
    }
    allowed = _Allowed.of(checkpoint, costs, are_portable(types))
    options = _options(checkpoint, allowed, checkpoint.config.vocabulary, limits.pace)
    return _choices(checkpoint, quickest(options, limits.nbytes - fixed_bytes(checkpoint)))


def _choices(checkpoint: Checkpoint, chosen: Sequence[Option]) -> list[Choice]:
    return [
        Choice(
            tensor, names,
            checkpoint.file.tensors[tensor].kind if option.label == _KEEP else BY_NAME[option.label],
            option.label == _KEEP, option.nbytes, option.damage, option.seconds,
        )
        for (tensor, names), option in zip(matrices(checkpoint).items(), chosen, strict=True)
    ]  # fmt: skip


@dataclass(frozen=True)
class VocabularyChoice:
    """A size of the vocabulary, and what the best plan with it is expected to cost, in nats per token."""

    tokens: int
    dropped: float
    quantized: float

    @property
    def damage(self) -> float:
        """Both together."""
        return self.dropped + self.quantized


def compare_vocabularies(
    checkpoint: Checkpoint, ranking: Ranking, damage: Mapping[str, Mapping[str, float]], limits: Limits,
    types: Sequence[BlockType] = TARGET_TYPES,
) -> list[VocabularyChoice]:  # fmt: skip
    """The sizes of the vocabulary with which the file fits, least damage first.

    damage: as for `choose`.  types: to choose from. Bytes of the header are close estimates here; `choose` counts them
    exactly once the vocabulary is cut. Raises BudgetError where even the smallest vocabulary does not fit.
    """
    fixed, text_bytes = fixed_bytes(checkpoint), _token_bytes(checkpoint, ranking)
    allowed = _Allowed.of(checkpoint, damage, are_portable(types))
    found = []
    smallest, budget = 0, limits.nbytes
    for tokens in _sizes(ranking, checkpoint.config.vocabulary):
        options = _options(checkpoint, allowed, tokens, limits.pace)
        room = budget - fixed + int(text_bytes[tokens:].sum())
        smallest = budget - room + sum(min(option.nbytes for option in tensor) for tensor in options)
        with suppress(ValueError):  # this size does not keep to the limits
            quantized = sum(option.damage for option in allocate(options, room, limits.seconds))
            found.append(VocabularyChoice(tokens, ranking.damage(tokens), quantized))
    if not found and smallest <= budget:
        raise BudgetError(
            f"{checkpoint.path.name} cannot be made as quick as that by trimming its vocabulary and quantization. Ask "
            "for less with --speed."
        )
    if not found:
        raise BudgetError(
            f"{checkpoint.path.name} cannot be cut to {budget} bytes by trimming its vocabulary and quantization: the "
            f"smallest possible file is about {smallest} bytes ({format_size(smallest)}). Ask for more with --fit."
            + _why(checkpoint, types)
        )
    return sorted(found, key=lambda choice: choice.damage)


def _sizes(ranking: Ranking, whole: int) -> list[int]:
    """Vocabularies to compare, largest first: half-octaves, multiples of 256."""
    sizes = [whole]
    while len(sizes) < _MOST_SIZES and (size := int(sizes[-1] / 2**0.5) // 256 * 256) > ranking.least:
        sizes.append(size)
    return sizes


def _token_bytes(checkpoint: Checkpoint, ranking: Ranking) -> np.ndarray:
    """Bytes that each token takes in the header, best token first."""
    metadata = checkpoint.file.metadata
    texts = metadata["tokenizer.ggml.tokens"]
    assert isinstance(texts, list)
    sizes = np.array([_TOKEN_BYTES + len(text.encode()) for text in texts])
    if "tokenizer.ggml.merges" in metadata:
        sizes = 2 * sizes  # a token comes with the line of the merge that makes it
    return sizes[ranking.order]


@dataclass(frozen=True)
class _Allowed:
    """What a plan may choose.

    damage: canonical name → type name → nats per token.  stay: tensors of the file that may be left as they are.
    """

    damage: Mapping[str, Mapping[str, float]]
    stay: Collection[str]

    @classmethod
    def of(cls, checkpoint: Checkpoint, damage: Mapping[str, Mapping[str, float]], portable: bool) -> "_Allowed":
        """portable: only what `cutting.portable` allows; else all that was surveyed."""
        if not portable:
            return cls(damage, matrices(checkpoint).keys())
        names = {kind.name for kind in (*PORTABLE, F16)}
        only = {name: {kind: cost for kind, cost in one.items() if kind in names} for name, one in damage.items()}
        return cls(only, {tensor for tensor in matrices(checkpoint) if may_stay(checkpoint, tensor)})


def _options(checkpoint: Checkpoint, allowed: _Allowed, vocabulary: int, pace: Pace | None) -> list[list[Option]]:
    """For every tensor of `matrices`: the types it can have in a file with `vocabulary` tokens."""
    found, shares = [], shares_read(checkpoint.file)
    for tensor, names in matrices(checkpoint).items():
        info = checkpoint.file.tensors[tensor]
        shape = (vocabulary, *info.shape[1:]) if set(names) <= BY_TOKEN else info.shape
        costs = _total([allowed.damage[name] for name in names])
        ways = [(_KEEP, info.kind, 0.0)] if tensor in allowed.stay else []  # first: of equals it is preferred
        ways += [(name, BY_NAME[name], cost) for name, cost in costs.items()]
        options = []
        for label, kind, cost in ways:
            plan = TensorPlan(tensor, shape, kind)
            seconds = 0.0 if pace is None else pace.seconds(kind, shares[tensor] * plan.nbytes)
            options.append(Option(label, plan.padded_bytes(checkpoint.file.alignment), cost, seconds))
        found.append(options)
    return found


def fixed_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of everything that is not a matrix."""
    whole = layout(checkpoint, {})
    planned = {tensor.name: tensor.padded_bytes(checkpoint.file.alignment) for tensor in whole.tensors}
    return whole.size - sum(planned[tensor] for tensor in matrices(checkpoint))


def _total(damages: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Damage by type of matrices that share one."""
    common = [kind for kind in damages[0] if all(kind in one for one in damages)]
    return {kind: sum(one[kind] for one in damages) for kind in common}
