"""The plan of a cut: which type each tensor gets, so that the file fits the budget.

Sizes are those of the file as it will be written, header, tokenizer and alignment included. What a type costs comes
from `quant.survey`; leaving a tensor as it is costs its bytes and no damage, and competes with the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smidgen import __version__
from smidgen.errors import BudgetError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.gguf_reader import MetadataValue
from smidgen.formats.gguf_writer import TensorPlan, file_size
from smidgen.model.parameters import is_matrix
from smidgen.numerics.block_types import BY_NAME, BlockType
from smidgen.quant.allocate import Option, allocate
from smidgen.quant.survey import TARGET_TYPES
from smidgen.sizes import format_size

# `general.file_type`, which llama.cpp only shows: the number of its nearest mixture (llama.h, llama_ftype).
_FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 15,
    "Q5_K": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32,
}  # fmt: skip
_STRING, _UINT32 = 8, 4
_KEEP = "keep"


@dataclass(frozen=True)
class Choice:
    """What becomes of one matrix of the file.

    name: of the tensor in the file.  members: canonical names of the matrices in it, often one.
    kind: its type in the new file.  keep: it stays as it is.  nbytes: in the file.
    damage: estimated nats of KL divergence per token.
    """

    name: str
    members: tuple[str, ...]
    kind: BlockType
    keep: bool
    nbytes: int
    damage: float


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
    """The file with these types (tensor → type); all else as in the original."""
    tensors = [
        TensorPlan(tensor.name, tensor.shape, kinds.get(tensor.name, tensor.kind))
        for tensor in checkpoint.file.tensors.values()
    ]
    weight: dict[str, int] = {}
    for tensor in tensors:
        weight[tensor.kind.name] = weight.get(tensor.kind.name, 0) + tensor.nbytes
    added: dict[str, tuple[MetadataValue, tuple[int, ...]]] = {
        "general.file_type": (_FILE_TYPES[max(weight, key=lambda kind: weight[kind])], (_UINT32,)),
        "general.quantization_version": (2, (_UINT32,)),
        "general.quantized_by": (f"smidgen {__version__}", (_STRING,)),
    }
    metadata = dict(checkpoint.file.metadata) | {key: value for key, (value, _) in added.items()}
    types = dict(checkpoint.file.metadata_types) | {key: kind for key, (_, kind) in added.items()}
    return Layout(metadata, types, tensors)


def smallest_size(checkpoint: Checkpoint, types: Sequence[BlockType] = TARGET_TYPES) -> int:
    """Bytes of the smallest file that `types` allow."""
    kinds: dict[str, BlockType] = {}
    for tensor in matrices(checkpoint):
        info = checkpoint.file.tensors[tensor]
        fitting = [kind for kind in (*types, info.kind) if kind.fits(info.shape[-1])]
        kinds[tensor] = min(fitting, key=lambda kind: kind.bits_per_weight)
    return layout(checkpoint, kinds).size


def refuse_impossible(checkpoint: Checkpoint, budget: int, types: Sequence[BlockType] = TARGET_TYPES) -> None:
    """Raises BudgetError, with the smallest possible size, where no choice of types meets the budget."""
    smallest = smallest_size(checkpoint, types)
    if smallest > budget:
        raise BudgetError(
            f"{checkpoint.path.name} cannot be cut to {budget} bytes by quantization: the smallest possible file is "
            f"{smallest} bytes. Ask for --fit {smallest} ({format_size(smallest)}) or more."
        )


def choose(checkpoint: Checkpoint, damage: Mapping[str, Mapping[str, float]], budget: int) -> list[Choice]:
    """The choice for every matrix with the least total damage whose file is at most `budget` bytes.

    damage: canonical name → type name → nats per token, from `quant.survey`. Matrices stacked in one tensor share their
    type, and their damages add up.
    """
    members = matrices(checkpoint)
    costs = {tensor: _total([damage[name] for name in names]) for tensor, names in members.items()}
    sizes = {tensor: {kind: _bytes(checkpoint, tensor, BY_NAME[kind]) for kind in costs[tensor]} for tensor in members}
    kept = {tensor: _bytes(checkpoint, tensor, checkpoint.file.tensors[tensor].kind) for tensor in members}
    fixed = layout(checkpoint, {}).size - sum(kept.values())
    options = [
        [Option(kind, nbytes, costs[tensor][kind]) for kind, nbytes in sizes[tensor].items()]
        + [Option(_KEEP, kept[tensor], 0.0)]
        for tensor in members
    ]
    chosen = allocate(options, budget - fixed)
    return [
        Choice(
            tensor, names,
            checkpoint.file.tensors[tensor].kind if option.label == _KEEP else BY_NAME[option.label],
            option.label == _KEEP, option.nbytes, option.damage,
        )
        for (tensor, names), option in zip(members.items(), chosen, strict=True)
    ]  # fmt: skip


def _total(damages: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Damage by type of matrices that share one."""
    common = [kind for kind in damages[0] if all(kind in one for one in damages)]
    return {kind: sum(one[kind] for one in damages) for kind in common}


def _bytes(checkpoint: Checkpoint, tensor: str, kind: BlockType) -> int:
    return TensorPlan(tensor, checkpoint.file.tensors[tensor].shape, kind).padded_bytes(checkpoint.file.alignment)
