"""Files whose queries, keys and values are one tensor, seen as if they were three. Torch-free.

llama.cpp's converter writes `blk.N.attn_qkv` for any architecture where it is asked to (`--fuse-qkv`). The rows of
queries come first, then those of keys, then those of values, each as they would be in a tensor of their own, and rows
lie one behind the other. So each of the three is a stretch of the file, and nothing has to be copied.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from math import prod

from smidgen.formats.gguf.reader import TensorInfo

FUSED = "attn_qkv"
_NAME = re.compile(rf"(blk\.[0-9]+\.){FUSED}(\.weight|\.bias)")


def separated(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors of a file, fused ones as three; as it is what cannot be taken apart.

    There are as many queries as the matrix behind attention has columns; keys and values share the rest.
    """
    found: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        match = _NAME.fullmatch(name)
        parts = [] if match is None else _parts(info, match[1], match[2], tensors)
        if not parts or any(part.name in tensors for part in parts):
            parts = [info]
        found |= {part.name: part for part in parts}
    return found


def _parts(info: TensorInfo, block: str, ending: str, tensors: Mapping[str, TensorInfo]) -> list[TensorInfo]:
    """Queries, keys and values; none where shapes do not say how many there are of each."""
    output = tensors.get(f"{block}attn_output.weight")
    queries = 0 if output is None else output.shape[-1]
    rest = info.shape[0] - queries
    if queries < 1 or rest < 2 or rest % 2:
        return []
    parts: list[TensorInfo] = []
    offset = info.offset
    for part, rows in (("attn_q", queries), ("attn_k", rest // 2), ("attn_v", rest // 2)):
        shape = (rows, *info.shape[1:])
        if not info.kind.fits(shape[-1]):  # a vector in blocks
            return []
        nbytes = prod(shape[:-1]) * info.kind.row_bytes(shape[-1])
        parts.append(replace(info, name=f"{block}{part}{ending}", shape=shape, offset=offset, nbytes=nbytes))
        offset += nbytes
    return parts
