"""compressed-tensors' `sparse-24-bitmask`: a Hugging Face folder with 2:4 sparse matrices at 9/16 of their size.

Of each four neighbours in a row two values are stored. In place of `NAME.weight` [out, in] there are

    NAME.shape       int64 [2, 1]        out and in
    NAME.compressed  dtype [out, in/2]   the stored values, in order
    NAME.bitmask     uint8 [out, in/8]   bit k of byte j, counted from the lowest: whether column 8j + k is stored

and config.json says so under `quantization_config`. Where a group has fewer than two values that are not zero, zeros
are stored too, so that every row has in/2 values.

The format is that of the compressed-tensors package (https://github.com/vllm-project/compressed-tensors), versions 0.9
to 0.14, `compressors/sparse_compressors/sparse_24_bitmask.py`; 0.15 dropped it. vLLM read it from 2025 on
(https://github.com/vllm-project/vllm, pull requests 12097 and 13198) and ran it by CUTLASS's sparse kernels on Hopper
GPUs (compute capability 9.0), until pull request 36799 took both out in March 2026: vLLM 0.19 and later refuse it.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smidgen.errors import SmidgenError, Unsupported, printable
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.safetensors_writer import Stored
from smidgen.formats.hf.writer import hf_layout, write_hf
from smidgen.model.parameters import block_linears
from smidgen.shapes import Bool, Float, UInt8

_FORMAT = "sparse-24-bitmask"
_VERSION = "0.13.0"  # of the package that the tests read it with
_OF = 4  # the 4 of 2:4
_MULTIPLE = 8  # of rows, for vLLM's kernels, and of columns, for whole bytes of mask


def write_compressed(checkpoint: Checkpoint, folder: Path, dtype: str | None = None) -> None:
    """As `hf_writer.write_hf`, with every linear layer of the blocks stored sparsely.

    Raises SmidgenError for a model that is not 2:4 sparse, naming the first matrix that is not; Unsupported for
    mixtures of experts, whose layers no reader of the format took sparse, and for odd shapes.
    """
    zeros, tensors = _check(checkpoint)
    settings = _settings(zeros / checkpoint.parameters)
    write_hf(checkpoint, folder, dtype, partial(_packed, tensors), {"quantization_config": settings})


def stored_places(weight: Float[Tensor, "rows cols"]) -> Bool[Tensor, "rows cols"]:
    """Which two of each four neighbours are stored: all that are not zero, then the first of the others."""
    groups = weight.unflatten(1, (-1, _OF)) != 0
    # A zero comes after all others; among equals the first comes first.
    order = groups.logical_not().to(torch.uint8).argsort(dim=2, stable=True)
    return torch.zeros_like(groups).scatter_(2, order[..., : _OF // 2], True).flatten(1)


def pack_mask(places: Bool[Tensor, "rows cols"]) -> UInt8[Tensor, "rows bytes"]:
    """Eight columns to a byte, the first in the lowest bit."""
    bits = places.unflatten(1, (-1, 8)).to(torch.uint8)
    return (bits << torch.arange(8, dtype=torch.uint8)).sum(2, dtype=torch.uint8)


def _packed(tensors: set[str], dense: Stored) -> list[Stored]:
    """What stands in the file for one tensor."""
    if dense.name not in tensors:
        return [dense]
    rows, columns = dense.shape
    name = dense.name.removesuffix(".weight")
    return [
        Stored(f"{name}.shape", torch.int64, (2, 1), lambda: iter([torch.tensor([[rows], [columns]])])),
        Stored(f"{name}.compressed", dense.dtype, (rows, columns // 2), lambda: map(_values, dense.pieces())),
        Stored(f"{name}.bitmask", torch.uint8, (rows, columns // 8), lambda: map(_mask, dense.pieces())),
    ]


def _values(weight: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows half"]:
    return weight[stored_places(weight)].view(len(weight), -1)


def _mask(weight: Float[Tensor, "rows cols"]) -> UInt8[Tensor, "rows bytes"]:
    return pack_mask(stored_places(weight))


def _check(checkpoint: Checkpoint) -> tuple[int, set[str]]:
    """How many weights are zero, and which of the folder's tensors are to be packed."""
    config, tensors, zeros = checkpoint.config, set[str](), 0
    if any(layer.experts for layer in config.layers):
        raise Unsupported(
            "No reader of compressed-tensors' 2:4 format takes mixtures of experts; write them with --to hf."
        )
    places = hf_layout(checkpoint).places
    for name in _matrices(checkpoint):
        rows, columns = checkpoint.shape(name)
        if rows % _MULTIPLE or columns % _MULTIPLE:
            raise Unsupported(
                f"compressed-tensors' 2:4 format needs rows and columns divisible by {_MULTIPLE}; {name} is "
                f"{rows} × {columns}. Write this model with --to hf."
            )
        for piece in checkpoint.pieces(name):
            empty = piece.unflatten(1, (-1, _OF)) == 0
            if int(empty.sum(2).min()) < _OF // 2:
                raise SmidgenError(
                    f"{printable(checkpoint.path)} is not 2:4 sparse (the first matrix that is not: {name}); "
                    "cut it with --steps weights --sparsity 2:4 first."
                )
            zeros += int(empty.sum())
        checkpoint.release()
        tensors.add(places[name].tensor)
    return zeros, tensors


def _matrices(checkpoint: Checkpoint) -> Iterator[str]:
    for index, layer in enumerate(checkpoint.config.layers):
        yield from (f"blocks.{index}.{name}.weight" for name in block_linears(layer))


def _settings(share: float) -> dict[str, Any]:
    """`quantization_config` of config.json.  share: of zeros, among all parameters."""
    sparsity = {
        "format": _FORMAT, "sparsity_structure": "2:4", "global_sparsity": round(share, 4),
        "targets": ["Linear"], "ignore": ["lm_head"],
    }  # fmt: skip
    return {"quant_method": "compressed-tensors", "version": _VERSION, "sparsity_config": sparsity}
