"""Is a GGUF file, which is sound as a file, sound as a model too? Judged by its header alone, torch-free.

Checked before anything works with the weights: llama.cpp ends its whole process at a header with, say, no layers.
"""

import math
import os
from collections.abc import Sequence

from smidgen.errors import BadFile, SmidgenError, Unsupported, printable
from smidgen.formats.gguf_reader import GGUFFile
from smidgen.model.config import ModelConfig
from smidgen.model.families import FAMILIES, Family, family_of_gguf
from smidgen.model.parameters import Shape, parameter_shapes

_MOST_LAYERS = 512  # of llama.cpp, LLAMA_MAX_LAYERS
_LONGEST_CONTEXT = 2**31 - 1  # llama.cpp counts positions in 32 bits


def describe(file: GGUFFile) -> tuple[Family, ModelConfig]:
    """What model a file holds, once it is known to hold exactly that model's parameters.

    Raises BadFile for missing or absurd metadata and for missing or wrongly shaped tensors, Unsupported for an unknown
    architecture, features the decoder lacks, and tensors it has no use for.
    """
    try:
        family = family_of_gguf(_architecture(file))
        shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
        config = family.config_from_gguf(file.metadata, shapes)
        _check_tensors(file, family, config)
        return family, config
    except SmidgenError as error:
        raise type(error)(f"{printable(file.path)}: {error}") from error


def refuse_unsupported(path: str | os.PathLike[str]) -> None:
    """Raises BadFile or Unsupported for a file that our decoder cannot use."""
    with GGUFFile.open(path) as file:
        describe(file)


def refuse_damaged(file: GGUFFile) -> None:
    """Raises BadFile for a header that no engine should see; what our decoder lacks, another engine may have."""
    try:
        architecture = _architecture(file)
        _check_common_numbers(file, architecture)
    except BadFile as error:
        raise BadFile(f"{printable(file.path)}: {error}") from error
    if any(architecture == family.gguf_architecture for family in FAMILIES.values()):
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


def _check_tensors(file: GGUFFile, family: Family, config: ModelConfig) -> None:
    """The file's tensors are the configuration's parameters: none missing, none more, shapes equal."""
    expected = {family.gguf_name(name): shape for name, shape in parameter_shapes(config).items()}
    if missing := [name for name in expected if name not in file.tensors]:
        raise BadFile(f"{_some(missing)} missing; get a complete GGUF of this model")
    for name, shape in expected.items():
        if (found := file.tensors[name].shape) != shape:
            raise BadFile(f"{name} is {_size(found)} but its metadata says {_size(shape)}; the file is damaged")
    if extra := [name for name in file.tensors if name not in expected]:
        raise Unsupported(f"{_some(extra)} not used by smidgen's {family.name} decoder; use a model without it")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name[:60] for name in names[:3])
    return f"tensor {shown} is" if len(names) == 1 else f"tensors {shown}{' …' if len(names) > 3 else ''} are"


def _size(shape: Shape) -> str:
    return "×".join(str(length) for length in shape)
