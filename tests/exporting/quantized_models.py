"""Tiny models of every family whose matrices are quantized as llama.cpp does it, and frameworks that run their exports.

All features are turned up as in `tests.family_models`; what a format cannot express is changed by whoever asks. A
framework that the tests' own Python lacks is run by another Python, which an environment variable names.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from smidgen.exporting.export import export
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.running.load import load
from smidgen.shapes import Float, Int
from tests.family_models import FAMILY_MODELS, save_tokenizer, strengthen
from tests.gguf_forms import of_types
from tests.mutated_gguf import take_apart

#: Endings of names → types that all formats hold: unlike within one layer, but alike where vLLM joins matrices.
MIXED = {
    "attn_q.weight": types.Q4_0, "attn_k.weight": types.Q4_0, "attn_v.weight": types.Q4_0,
    "attn_qkv.weight": types.Q4_0, "attn_output.weight": types.Q8_0, "ffn_gate.weight": types.Q8_0,
    "ffn_up.weight": types.Q8_0, "ffn_down.weight": types.Q4_0, "token_embd.weight": types.Q8_0,
    "output.weight": types.Q8_0, "ffn_gate_exps.weight": types.Q8_0, "ffn_up_exps.weight": types.Q4_0,
    "ffn_down_exps.weight": types.Q4_0,
}  # fmt: skip
IDS: Int[Tensor, "batch position"] = torch.randint(0, 250, (1, 40), generator=torch.Generator().manual_seed(1))


def write_quantized(
    family: str, folder: Path, kinds: Mapping[str, BlockType] | None = None, changes: Mapping[str, Any] | None = None
) -> Path:
    """A GGUF file.  kinds: on top of `MIXED`.  changes: of transformers' configuration."""
    model = FAMILY_MODELS[family].make()
    if changes:
        for key, value in changes.items():
            setattr(model.config, key, value)
        torch.manual_seed(0)
        model = type(model)(model.config)
    strengthen(model)
    dense = folder / f"{family}-dense"
    dense.mkdir()
    model.save_pretrained(dense)
    save_tokenizer(dense)
    export(dense, "gguf", folder / f"{family}-dense.gguf")
    path = folder / f"{family}.gguf"
    path.write_bytes(of_types(take_apart(folder / f"{family}-dense.gguf"), MIXED | dict(kinds or {})).as_bytes())
    return path


def our_logits(model: Path, ids: Int[Tensor, "batch position"] = IDS) -> Float[Tensor, "batch position vocab"]:
    """Of smidgen's own decoder, float32."""
    with torch.no_grad(), load(model) as loaded:
        return loaded.decoder(ids)


def differ(one: Float[Tensor, "batch position vocab"], other: Float[Tensor, "batch position vocab"]) -> float:
    """The largest KL divergence of a position."""
    return float((one.softmax(-1) * (one.log_softmax(-1) - other.log_softmax(-1))).sum(-1).max())


def python_with(module: str, variable: str, version: str = "") -> str:
    """A Python that has a framework: this one, or the one that a variable names; else the test is skipped."""
    if named := os.environ.get(variable):
        return named
    if find_spec(module) is not None and version_of(module).startswith(version):
        return sys.executable
    pytest.skip(f"needs {module} {version}; {variable} may name a Python that has it")


def version_of(module: str) -> str:
    """Of an installed package."""
    from importlib.metadata import version

    return version(module.replace("_", "-"))


def their_logits(python: str, program: str, folders: Sequence[Path]) -> list[Float[Tensor, "batch position vocab"]]:
    """What a program beside this file makes of `IDS`, for each folder, float32."""
    np.save(folders[0].parent / "ids.npy", IDS.numpy())
    words = [python, str(Path(__file__).with_name(program)), str(folders[0].parent / "ids.npy"), *map(str, folders)]
    settings = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, env=settings)
    assert done.returncode == 0, done.stderr[-2000:]
    return [torch.from_numpy(np.load(f"{folder}.npy")) for folder in folders]
