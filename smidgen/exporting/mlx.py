"""MLX: a folder that mlx-lm loads, with the codes and scales that the file has.

MLX's affine groups (https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html) are

    weight = scale · code + bias        a scale and a bias for each 32 weights of a row, codes counted from 0

In place of `NAME.weight` [out, in] there are

    NAME.weight   uint32  [out, in · bits / 32]   codes, the first in the lowest bits of a word
    NAME.scales   float16 [out, in / 32]
    NAME.biases   float16 [out, in / 32]

and config.json names the layers whose bits are not those of most: 4, 5 or 8. Q4_1 and Q5_1 are just that. In Q4_0, Q5_0
and Q8_0 codes lie around 0, so the bias is −8, −16 or −128 scales; a power of two times a float16 is a float16, but for
overflow, which is refused.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smidgen.errors import Unsupported
from smidgen.exporting.codes import GROUP
from smidgen.exporting.mlx_reader import mlx_settings
from smidgen.exporting.packed import (
    BITS,
    Held,
    PackingPlan,
    plan_packing,
    refuse_narrow,
    say_what_it_costs,
    storing_dtype,
    unsigned,
    words,
    zero_point,
)
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.safetensors_writer import Stored
from smidgen.formats.hf.writer import hf_layout, write_hf
from smidgen.progress import say
from smidgen.shapes import Float

_PIECES = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}  # of Mixtral's experts, as mlx-lm stacks them


def write_mlx(checkpoint: Checkpoint, folder: Path, dtype: str | None = None) -> None:
    """As `hf.writer.write_hf`, with matrices of the types in `packed.BITS` packed.

    Raises Unsupported for a model that mlx-lm would take for another.
    """
    settings = mlx_settings(checkpoint.family, checkpoint.config)
    held = Held("MLX", BITS, (), partial(_joined, checkpoint))
    plan = plan_packing(checkpoint, held)
    dtype = storing_dtype(dtype, plan)
    say_what_it_costs(checkpoint, held, plan)
    if checkpoint.family.name == "gemma":
        say("mlx-lm computes the exact GELU where Gemma has its approximation: predictions differ a little there.")
    if plan.bits:
        settings["quantization"] = _quantization(plan)
    write_hf(checkpoint, folder, dtype, partial(_packed, checkpoint, plan), settings)


def refuse_mlx(checkpoint: Checkpoint, dtype: str | None = None) -> None:
    """Raises what `write_mlx` would say of a model that has something to pack, without any work."""
    mlx_settings(checkpoint.family, checkpoint.config)
    refuse_narrow(dtype)


def _joined(checkpoint: Checkpoint, name: str) -> str:
    """mlx-lm stacks what the experts of a layer have in common."""
    return _module(hf_layout(checkpoint).places[name].tensor)


def _module(tensor: str) -> str:
    """The layer of mlx-lm's model that a tensor of the folder belongs to."""
    before, experts, after = tensor.removesuffix(".weight").partition(".experts.")
    return f"{before}.switch_mlp.{_PIECES[after.split('.')[1]]}" if experts else before


def _quantization(plan: PackingPlan) -> dict[str, Any]:
    """What config.json says: the bits of most layers, and of those that have others."""
    usual = Counter(plan.bits.values()).most_common(1)[0][0]
    settings: dict[str, Any] = {"group_size": GROUP, "bits": usual, "mode": "affine"}
    for tensor, bits in plan.bits.items():
        if bits != usual:
            settings[_module(tensor)] = {"group_size": GROUP, "bits": bits, "mode": "affine"}
    return settings


def _packed(checkpoint: Checkpoint, plan: PackingPlan, dense: Stored) -> list[Stored]:
    """What stands in the file for one tensor."""
    bits = plan.bits.get(dense.name)
    if bits is None:
        return [dense]
    rows, columns = dense.shape
    name, dtype = dense.name.removesuffix(".weight"), dense.dtype

    def codes() -> Iterator[Tensor]:
        for piece in plan.codes(checkpoint, dense.name):
            yield words(unsigned(piece, bits), bits).view(torch.uint32)

    def scales() -> Iterator[Float[Tensor, "_rows groups"]]:
        return (piece.scale.to(dtype) for piece in plan.codes(checkpoint, dense.name))

    def biases() -> Iterator[Float[Tensor, "_rows groups"]]:
        for piece in plan.codes(checkpoint, dense.name):
            bias = piece.scale.to(dtype) * -zero_point(bits) if piece.shift is None else piece.shift.to(dtype)
            if not bias.isfinite().all():
                raise Unsupported(f"{name} has scales whose bias is beyond {dense.dtype}; choose --dtype float32.")
            yield bias

    groups = (rows, columns // GROUP)
    return [
        Stored(f"{name}.weight", torch.uint32, (rows, columns * bits // 32), codes),
        Stored(f"{name}.scales", dtype, groups, scales),
        Stored(f"{name}.biases", dtype, groups, biases),
    ]
