"""Is a GGUF file, which is sound as a file, sound as a model too? Judged by its header alone, torch-free.

Checked before anything works with the weights: llama.cpp ends its whole process at a header with, say, no layers.
"""

import math
from functools import partial

from smidgen.errors import BadFile, SmidgenError, Unsupported, printable
from smidgen.formats.expected import compare_shapes
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.model.config import ModelConfig
from smidgen.model.families import FAMILIES, SCALING_TENSORS, Family, Tensors, family_of_gguf

_MOST_LAYERS = 512  # of llama.cpp, LLAMA_MAX_LAYERS
_LONGEST_CONTEXT = 2**31 - 1  # llama.cpp counts positions in 32 bits
_LARGEST_VECTOR = 2**16  # bytes; the longest that belong to a configuration have some hundred numbers


def describe(file: GGUFFile) -> tuple[Family, ModelConfig]:
    """What model a file holds, once it is known to hold exactly that model's parameters.

    Raises BadFile for missing or absurd metadata and for missing or wrongly shaped tensors, Unsupported for an unknown
    architecture, features the decoder lacks, and tensors it has no use for.
    """
    try:
        family = family_of_gguf(_architecture(file))
        shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
        config = family.config_from_gguf(file.metadata, Tensors(shapes, partial(_vector, file)))
        expected = family.gguf_layout(config).shapes
        known = {name: shape for name, shape in shapes.items() if name not in SCALING_TENSORS}
        compare_shapes(expected, known, family.name)
        return family, config
    except SmidgenError as error:
        raise type(error)(f"{printable(file.path)}: {error}") from error


def refuse_damaged(file: GGUFFile) -> None:
    """Raises BadFile for a header that no engine should see; what our decoder lacks, another engine may have."""
    try:
        architecture = _architecture(file)
        _check_common_numbers(file, architecture)
    except BadFile as error:
        raise BadFile(f"{printable(file.path)}: {error}") from error
    if any(architecture == family.gguf.architecture for family in FAMILIES.values()):
        try:
            describe(file)
        except Unsupported:
            return


def _architecture(file: GGUFFile) -> str:
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise BadFile("no general.architecture in its metadata, so it is not a model; get a complete GGUF of a model")
    return architecture


def _check_common_numbers(file: GGUFFile, architecture: str) -> None:
    """The numbers that every architecture has and on which llama.cpp stops dead when they make no sense."""
    for key, most in (("block_count", _MOST_LAYERS), ("context_length", _LONGEST_CONTEXT), ("embedding_length", 2**20)):
        value = file.metadata.get(f"{architecture}.{key}")
        if value is not None and not (isinstance(value, int) and 1 <= value <= most):
            raise _absurd(f"{architecture}.{key}", f"an integer from 1 to {most}", value)
    for key in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"):
        value = file.metadata.get(f"{architecture}.{key}")
        if value is not None and not (isinstance(value, float) and math.isfinite(value) and value >= 0):
            raise _absurd(f"{architecture}.{key}", "a finite number", value)


def _absurd(key: str, wanted: str, found: object) -> BadFile:
    shown = printable(repr(found), 60)
    return BadFile(f"metadata {printable(key)} should be {wanted}, found {shown}; the file is damaged or not a model")


def _vector(file: GGUFFile, name: str) -> tuple[float, ...]:
    """The values of a small float32 vector."""
    info = file.tensors[name]
    if info.kind.name != "F32" or len(info.shape) != 1 or info.nbytes > _LARGEST_VECTOR:
        raise BadFile(f"tensor {name} should be a short vector of float32; the file is damaged")
    return tuple(file.packed(name).reshape(-1).view("<f4").tolist())
