"""vLLM: a folder of compressed-tensors' `pack-quantized`, with the codes and scales that the file has.

The format (https://github.com/vllm-project/compressed-tensors, `compressors/pack_quantized/`), as vLLM and transformers
read it, W4A16 and W8A16 in groups of 32. In place of `NAME.weight` [out, in] there are

    NAME.weight_packed  int32   [out, in · bits / 32]   codes + 2^(bits−1), the first in the lowest bits of a word
    NAME.weight_scale   float16 [out, in / 32]
    NAME.weight_shape   int64   [2]                     out and in

and config.json says under `quantization_config` which layers have 4 bits and which 8. Q4_0 and Q8_0 are just that, and
codes of Q5_0 go into 8 bits. Q4_1 and Q5_1 do not go in: the format has whole zero points where they have any shift.

vLLM makes one layer of queries, keys and values, and one of gate and up; these have to be alike. The embedding is never
packed: transformers reads packed ones wrongly where the head is the same matrix, vLLM does not know them. Neither is a
head of its own, which several engines read as noise (https://github.com/sgl-project/sglang/issues/35358).
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smidgen.errors import Unsupported, printable
from smidgen.exporting.codes import GROUP
from smidgen.exporting.hf import asked_dtype
from smidgen.exporting.packed import (
    Held,
    PackingPlan,
    plan_packing,
    refuse_narrow,
    say_what_it_costs,
    storing_dtype,
    unsigned,
    words,
)
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.safetensors_writer import Stored
from smidgen.formats.hf.writer import hf_layout, write_hf
from smidgen.model.features import refuse_features
from smidgen.model.parameters import is_matrix
from smidgen.numerics import block_types as types
from smidgen.shapes import Float, Int

_VERSION = "0.20.1"  # of the package that the tests read it with
#: What it must have in 16 bits.
WIDE = ("embedding.weight", "head.weight")
_LAYERS = {"query": "qkv", "key": "qkv", "value": "qkv", "gate": "gate_up", "up": "gate_up"}
#: Types that it holds → bits of a code there.
BITS = {types.Q4_0: 4, types.Q5_0: 8, types.Q8_0: 8}


def write_vllm(checkpoint: Checkpoint, folder: Path, dtype: str | None = None) -> None:
    """As `hf.writer.write_hf`, with matrices of Q4_0, Q5_0 and Q8_0 packed.

    Raises Unsupported for models that vLLM has no class for, for mixtures of experts, and where nothing can be packed.
    """
    _refuse_model(checkpoint)
    held = Held("vLLM", BITS, WIDE, _joined)
    plan = plan_packing(checkpoint, held)
    if not plan.bits:
        raise Unsupported(
            f"{printable(checkpoint.origin.name)} has no layer that vLLM could hold packed (Q4_0, Q5_0 or Q8_0); "
            "cut it with --types portable first, add --requantize (minutes), or write it in 16 bits with --to hf."
        )
    dtype = storing_dtype(dtype, plan)
    say_what_it_costs(checkpoint, held, plan)
    settings: dict[str, Any] = {"quantization_config": _quantization(checkpoint, plan)}
    settings |= asked_dtype(checkpoint, dtype, "The scales in the file are exact, but are")
    write_hf(checkpoint, folder, dtype, partial(_packed, checkpoint, plan), settings)


def refuse_vllm(checkpoint: Checkpoint, dtype: str | None = None) -> None:
    """Raises what `write_vllm` would say of a model that has something to pack, without any work."""
    _refuse_model(checkpoint)
    refuse_narrow(dtype)


def _refuse_model(checkpoint: Checkpoint) -> None:
    refuse_features(checkpoint.config, "smidgen's packing for vLLM", "write it in 16 bits with --to hf")
    if checkpoint.family.name == "openelm":
        raise Unsupported("vLLM has no class for OpenELM; write the model with --to gguf or mlx.")
    if any(layer.experts for layer in checkpoint.config.layers):
        raise Unsupported("Packed mixtures of experts were never run in vLLM by us; write them with --to hf.")


def _joined(name: str) -> str:
    """The layer of vLLM that a matrix becomes a part of."""
    before, _, part = name.removesuffix(".weight").rpartition(".")
    return f"{before}.{_LAYERS.get(part, part)}"


def _quantization(checkpoint: Checkpoint, plan: PackingPlan) -> dict[str, Any]:
    """`quantization_config` of config.json: every layer by its name."""
    layers = {
        tensor.removesuffix(".weight"): plan.bits.get(tensor)
        for tensor, names in hf_layout(checkpoint).members.items()
        if all(map(is_matrix, names)) and names != ["embedding.weight"]
    }
    groups = {
        f"group_{bits}": _group(bits, [layer for layer, found in layers.items() if found == bits])
        for bits in sorted(set(plan.bits.values()))
    }
    return {
        "quant_method": "compressed-tensors",
        "version": _VERSION,
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": sorted({"lm_head", *(layer for layer, bits in layers.items() if bits is None)}),
        "kv_cache_scheme": None,
    }


def _group(bits: int, layers: list[str]) -> dict[str, Any]:
    weights = {
        "num_bits": bits, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP,
        "dynamic": False, "actorder": None, "block_structure": None, "observer": "minmax", "observer_kwargs": {},
    }  # fmt: skip
    return {
        "targets": layers, "weights": weights, "input_activations": None, "output_activations": None,
        "format": "pack-quantized",
    }  # fmt: skip


def _packed(checkpoint: Checkpoint, plan: PackingPlan, dense: Stored) -> list[Stored]:
    """What stands in the file for one tensor."""
    bits = plan.bits.get(dense.name)
    if bits is None:
        return [dense]
    rows, columns = dense.shape

    def codes() -> Iterator[Int[Tensor, "_rows words"]]:
        return (words(unsigned(piece, bits), bits) for piece in plan.codes(checkpoint, dense.name))

    def scales() -> Iterator[Float[Tensor, "_rows groups"]]:
        return (piece.scale.to(dense.dtype) for piece in plan.codes(checkpoint, dense.name))

    return [
        Stored(f"{dense.name}_packed", torch.int32, (rows, columns * bits // 32), codes),
        Stored(f"{dense.name}_scale", dense.dtype, (rows, columns // GROUP), scales),
        Stored.of(f"{dense.name}_shape", torch.tensor([rows, columns])),
    ]
