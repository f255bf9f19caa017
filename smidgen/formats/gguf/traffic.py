"""How many bytes of weights an engine reads for each token that it writes. Torch-free.

That is what bounds its speed (see engines/llama_cpp/bench.py): all weights once, except where a token needs a part.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from smidgen.formats.gguf.reader import GGUFFile, TensorInfo

#: Tables of which a token takes one row. The first is read whole as well where it is the head too.
_TABLES = ("token_embd.weight", "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight")
_BLOCK = re.compile(r"blk\.([0-9]+)\.")


def bytes_per_token(file: GGUFFile) -> int:
    """Bytes of the weights that one token reads.

    Of the tables of embeddings one row, unless the first is the head too; of a mixture of experts those that are used;
    of layers for the prediction of several tokens at once nothing, since they are not run.
    """
    architecture, metadata = file.metadata.get("general.architecture"), file.metadata
    used = metadata.get(f"{architecture}.expert_used_count")
    layers, ahead = (metadata.get(f"{architecture}.{key}") for key in ("block_count", "nextn_predict_layers"))
    run = layers - ahead if isinstance(layers, int) and isinstance(ahead, int) else None
    return sum(_read(tensor, file.tensors, used, run) for tensor in file.tensors.values())


def _read(tensor: TensorInfo, tensors: Mapping[str, TensorInfo], used: Any, layers_run: int | None) -> int:
    """Bytes of one tensor.  used: experts for each token, one number or one for each layer; None where not stated."""
    match = _BLOCK.match(tensor.name)
    layer = 0 if match is None else int(match[1])
    if match is not None and layers_run is not None and layer >= layers_run:
        return 0
    if tensor.name in _TABLES and (tensor.name != _TABLES[0] or "output.weight" in tensors):
        return tensor.nbytes // tensor.shape[0]
    if "_exps." in tensor.name:
        some = used.tolist()[layer] if isinstance(used, np.ndarray) and layer < len(used) else used
        if isinstance(some, int) and some < tensor.shape[0]:
            return tensor.nbytes * some // tensor.shape[0]
    return tensor.nbytes
