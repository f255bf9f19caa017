"""How many bytes of weights an engine reads for each token that it writes. Torch-free.

That is what bounds its speed (see engines/llama_cpp/bench.py): all weights once, except where a token needs a part.
"""

import re
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from smidgen.formats.gguf.reader import MetadataValue, TensorInfo

#: Tables of which a token takes one row. The first is read whole as well where it is the head too.
_TABLES = ("token_embd.weight", "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight")
_BLOCK = re.compile(r"blk\.([0-9]+)\.")


class _Read(Protocol):
    """A GGUF file, or what would be one."""

    @property
    def metadata(self) -> Mapping[str, MetadataValue]: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...


def bytes_per_token(file: _Read) -> int:
    """Bytes of the weights that one token reads.

    Of the tables of embeddings one row, unless the first is the head too; of a mixture of experts those that are used;
    of layers for the prediction of several tokens at once nothing, since they are not run.
    """
    return sum(_bytes_read(file).values())


def shares_read(file: _Read) -> dict[str, float]:
    """The same as shares: tensor → which part of it one token reads. Another type does not change that."""
    return {name: read / max(1, file.tensors[name].nbytes) for name, read in _bytes_read(file).items()}


def is_table(name: str, file: _Read) -> bool:
    """Whether tokens read single rows of a tensor only, so that most of it is not in memory."""
    return name in _TABLES and (name != _TABLES[0] or "output.weight" in file.tensors)


def _bytes_read(file: _Read) -> dict[str, int]:
    architecture, metadata = file.metadata.get("general.architecture"), file.metadata
    used = metadata.get(f"{architecture}.expert_used_count")
    layers, ahead = (metadata.get(f"{architecture}.{key}") for key in ("block_count", "nextn_predict_layers"))
    run = layers - ahead if isinstance(layers, int) and isinstance(ahead, int) else None
    return {name: _read(tensor, is_table(name, file), used, run) for name, tensor in file.tensors.items()}


def _read(tensor: TensorInfo, is_table: bool, used: Any, layers_run: int | None) -> int:
    """Bytes of one tensor.  used: experts for each token, one number or one for each layer; None where not stated."""
    match = _BLOCK.match(tensor.name)
    layer = 0 if match is None else int(match[1])
    if match is not None and layers_run is not None and layer >= layers_run:
        return 0
    if is_table:
        return tensor.nbytes // tensor.shape[0]
    if "_exps." in tensor.name:
        some = used.tolist()[layer] if isinstance(used, np.ndarray) and layer < len(used) else used
        if isinstance(some, int) and some < tensor.shape[0]:
            return tensor.nbytes * some // tensor.shape[0]
    return tensor.nbytes
