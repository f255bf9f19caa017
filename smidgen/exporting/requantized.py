"""`--requantize`: matrices whose types a format cannot hold are put on a grid that it holds, instead of into 16 bits.

Of 4.6 bits a weight at most they become Q4_0, of more Q8_0, with scales that every format holds (`numerics.portable`),
so that the same command gives the same weights for each. They are quantized as in a cut, with errors compensated on
text (`cutting.requantize`); what fits already keeps its codes and scales. The format reads the result as any file.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from smidgen.atomic import refuse_filled, refuse_unmakeable
from smidgen.cutting.requantize import Requantized, requantize
from smidgen.exporting import codes, mlx, packed, vllm
from smidgen.exporting.litert.folder import refuse_litert
from smidgen.exporting.onnx.folder import refuse_onnx
from smidgen.exporting.openvino.folder import refuse_openvino
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.opening import open_checkpoint
from smidgen.model.parameters import is_matrix
from smidgen.numerics.block_types import PORTABLE_Q4_0, PORTABLE_Q8_0, BlockType
from smidgen.progress import say
from smidgen.sizes import format_size
from smidgen.stopping import as_interrupts

_FOUR_BITS = 4.6  # a weight, scales included: what has at most as many becomes Q4_0
_MODEL = "requantized.gguf"


@dataclass(frozen=True)
class _Grid:
    """What a format holds.

    keeps: whether it takes a matrix, by its canonical name, as it is, or has it in 16 bits whatever its type.
    refuse: raises what it says of a model that it cannot express, or of a dtype.
    """

    name: str
    keeps: Callable[[Checkpoint, str], bool]
    refuse: Callable[[Checkpoint, str | None], None]


def _of_types(types: Collection[BlockType], wide: Collection[str] = ()) -> Callable[[Checkpoint, str], bool]:
    """types: that it takes as they are.  wide: names of what it has in 16 bits."""
    return lambda checkpoint, name: checkpoint.kind(name) in types or name in wide


def _with_portable_scales(checkpoint: Checkpoint, name: str) -> bool:
    from smidgen.exporting.litert.matrices import is_kept

    return is_kept(checkpoint, name)


#: The formats that pack quantized weights.
GRIDS: Mapping[str, _Grid] = {
    "mlx": _Grid("MLX", _of_types(packed.BITS), mlx.refuse_mlx),
    "vllm": _Grid("vLLM", _of_types(vllm.BITS, vllm.WIDE), vllm.refuse_vllm),
    "onnx": _Grid("ONNX Runtime", _of_types(packed.BITS), refuse_onnx),
    "openvino": _Grid("OpenVINO", _of_types(codes.BITS), refuse_openvino),
    "litert": _Grid("LiteRT", _with_portable_scales, refuse_litert),
}


@contextmanager
def requantized(
    original: Checkpoint, to: str, dtype: str | None, output: Path,
    texts: Sequence[str | os.PathLike[str]] = (), tokens: int | None = None,
) -> Iterator[tuple[Checkpoint, list[str]]]:  # fmt: skip
    """The model as format `to` can hold it, and what was done in sentences; itself, and nothing, where it can already.

    It lies among temporary files while the block runs.  dtype, output: of the export, refused before the work.
    texts, tokens: as `cutting.requantize` takes them.
    """
    grid = GRIDS[to]
    refuse_unmakeable(output, "Choose another folder with -o.")
    refuse_filled(output)
    grid.refuse(original, dtype)
    kinds = _new_types(original, grid)
    if not kinds:
        say(f"Nothing is to be requantized: {grid.name} holds all quantized matrices as they are.")
        yield original, []
        return
    with as_interrupts(), TemporaryDirectory(prefix="smidgen-") as folder:
        path = Path(folder, _MODEL)
        done = requantize(original, kinds, path, texts, tokens)
        sentences = [_told(original, done, path.stat().st_size), *done.notes]
        for sentence in sentences:
            say(sentence)
        with open_checkpoint(path) as checkpoint:
            checkpoint.origin = original.origin
            yield checkpoint, sentences


def _new_types(checkpoint: Checkpoint, grid: _Grid) -> dict[str, BlockType]:
    """Tensor of the file → the type that it needs, for all quantized matrices that do not go in as they are."""
    found = {}
    for name in filter(is_matrix, checkpoint.names()):
        kind = checkpoint.kind(name)
        if kind.block > 1 and not grid.keeps(checkpoint, name):
            small = kind.bits_per_weight <= _FOUR_BITS
            found[checkpoint.gguf_name(name)] = PORTABLE_Q4_0 if small else PORTABLE_Q8_0
    return found


def _told(original: Checkpoint, done: Requantized, nbytes: int) -> str:
    """Which matrices were requantized, to what, and what that is expected to cost, in two sentences."""
    return (
        f"Requantized, with error compensation: {_listed(original, done)}. Expected KL divergence (estimate), "
        f"against the file as it was: {done.expected:.3f} nats per token; as a GGUF file {format_size(nbytes)} instead "
        f"of {format_size(original.file.size)}."
    )


def _listed(original: Checkpoint, done: Requantized) -> str:
    """`"60 matrices Q4_K → Q4_0 (attn_q, attn_k), 1 matrix Q6_K → Q8_0 (token_embd)"`."""
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for choice in done.choices:
        before = original.file.tensors[choice.name].kind
        groups[before.name, choice.kind.stored.name].append(choice.name)
    return ", ".join(
        f"{len(names)} {'matrix' if len(names) == 1 else 'matrices'} {before} → {after} ({_roles(names)})"
        for (before, after), names in groups.items()
    )


def _roles(names: Sequence[str]) -> str:
    """What the tensors are, whichever layer they are in."""
    return ", ".join(dict.fromkeys(name.removesuffix(".weight").rpartition(".")[2] for name in names))
