"""Is a GGUF file, which is sound as a file, sound as a model too? Judged by header and small vectors, torch-free.

Checked before anything works with the weights: llama.cpp ends its whole process at a header with, say, no layers.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from smidgen.errors import BadFile, Unsupported, printable
from smidgen.formats.expected import compare_shapes
from smidgen.formats.gguf.fused import FUSED, separated
from smidgen.formats.gguf.numbers import check_numbers, check_tensors, refuse_other_kinds
from smidgen.formats.gguf.reader import GGUFFile, TensorInfo, said_of
from smidgen.formats.gguf.split import may_be_part
from smidgen.formats.gguf.vocabulary import check_vocabulary
from smidgen.model.config import ModelConfig
from smidgen.model.families import FAMILIES, SCALING_TENSORS, Family, Tensors, family_of_gguf, unread_tensors
from smidgen.numerics.block_types import F32, READABLE

_LARGEST_VECTOR = 2**16  # bytes; the longest that belong to a configuration have some hundred numbers
_MOST_SCANNED = 8 * 2**20  # bytes of vectors; a model of 70B has 5 MB, and this takes a few milliseconds


def parts_of(path: Path) -> list[Path]:
    """The files of a model, the first one first: mostly one, else all parts of a split. Raises as `GGUFFile.open`."""
    if not may_be_part(path):
        return [path]
    with GGUFFile.open(path) as file:
        return list(file.paths)


def describe(file: GGUFFile) -> tuple[Family, ModelConfig]:
    """What model a file holds, once it is known to hold exactly that model's parameters, in types of weights.

    Raises BadFile for missing or absurd metadata and for missing or wrongly shaped tensors, Unsupported for an unknown
    architecture, features the decoder lacks, tensors it has no use for, and types that no weights have.
    """
    with said_of(file.path):
        return _describe(file)


def tensors_for(family: Family, file: GGUFFile) -> Mapping[str, TensorInfo]:
    """The tensors of a file under the names of the family's map: fused ones as three where the map has three."""
    fused = any(f".{FUSED}." in name for name in family.gguf.names.values())
    return file.tensors if fused else separated(file.tensors)


def without_unread(family: Family, config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors of a file but for those that nobody reads: keys and values of layers that take those of others."""
    unread = _unread(family, config)
    return {name: tensor for name, tensor in tensors.items() if name not in unread}


def _unread(family: Family, config: ModelConfig) -> set[str]:
    return {name for names in unread_tensors(config, family.gguf.names).values() for name in names}


def refuse_damaged(file: GGUFFile) -> None:
    """The gate before llama.cpp. What our decoder lacks, that engine may have.

    Raises BadFile for a header at which llama.cpp would end its process, and for numbers that are not finite in norms,
    biases and other float32 vectors (8 MB of them; matrices are not looked at, since that would mean to read the whole
    file); Unsupported for files that are no model to run: adapters, encoders of pictures, models without a vocabulary.
    """
    with said_of(file.path):
        refuse_other_kinds(file.metadata)
        architecture = _architecture(file)
        check_numbers(file.metadata, architecture)
        check_vocabulary(file.metadata)
        check_tensors(file.tensors)
        if any(architecture == family.gguf.architecture for family in FAMILIES.values()):
            with suppress(Unsupported):
                _describe(file)
        _check_vectors(file)


def _check_vectors(file: GGUFFile) -> None:
    """Raises BadFile, naming the tensor, for float32 vectors that hold NaN or infinity, as far as they are read."""
    left = _MOST_SCANNED
    for name, tensor in file.tensors.items():
        if len(tensor.shape) != 1 or tensor.kind is not F32 or tensor.nbytes > left:
            continue
        left -= tensor.nbytes
        if not np.isfinite(file.packed(name).reshape(-1).view("<f4")).all():
            raise BadFile(
                f"{printable(name)} holds values that are not finite numbers; the file is damaged or was badly "
                "converted: get it again"
            )


def _describe(file: GGUFFile) -> tuple[Family, ModelConfig]:
    family = family_of_gguf(_architecture(file))
    tensors = tensors_for(family, file)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    config = family.config_from_gguf(file.metadata, Tensors(shapes, partial(_vector, file)))
    expected = family.gguf_layout(config).shapes
    passed_over = SCALING_TENSORS | _unread(family, config)
    known = {name: shape for name, shape in shapes.items() if name not in passed_over}
    compare_shapes(expected, known, family.name)
    for tensor in tensors.values():
        if tensor.kind not in READABLE:
            raise Unsupported(
                f"tensor {printable(tensor.name)} has type {tensor.kind.name}, which neither smidgen nor llama.cpp "
                "computes with; convert the model again"
            )
    return family, config


def _architecture(file: GGUFFile) -> str:
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise BadFile("no general.architecture in its metadata, so it is not a model; get a complete GGUF of a model")
    return architecture


def _vector(file: GGUFFile, name: str) -> tuple[float, ...]:
    """The values of a small float32 vector."""
    info = file.tensors[name]
    if info.kind.name != "F32" or len(info.shape) != 1 or info.nbytes > _LARGEST_VECTOR:
        raise BadFile(f"tensor {name} should be a short vector of float32; the file is damaged")
    return tuple(file.packed(name).reshape(-1).view("<f4").tolist())
