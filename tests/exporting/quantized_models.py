"""Tiny models of every family whose matrices are quantized as llama.cpp does it, for formats that pack them.

All features are turned up as in `tests.family_models`; what a format cannot express is changed by whoever asks.
"""

from pathlib import Path
from typing import Any

import torch

from smidgen.exporting.export import export
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.running.load import load
from smidgen.shapes import Float, Int
from tests.family_models import FAMILY_MODELS, save_tokenizer, strengthen
from tests.gguf_forms import of_types
from tests.mutated_gguf import take_apart

#: Types that a format holds, unlike within one layer, but for those that vLLM joins.
MIXED = {
    "attn_q.weight": types.Q4_0, "attn_k.weight": types.Q4_0, "attn_v.weight": types.Q4_0,
    "attn_qkv.weight": types.Q4_0, "attn_output.weight": types.Q8_0, "ffn_gate.weight": types.Q8_0,
    "ffn_up.weight": types.Q8_0, "ffn_down.weight": types.Q4_0, "token_embd.weight": types.Q8_0,
    "output.weight": types.Q8_0, "ffn_gate_exps.weight": types.Q8_0, "ffn_up_exps.weight": types.Q4_0,
    "ffn_down_exps.weight": types.Q4_0,
}  # fmt: skip


def write_quantized(
    family: str, folder: Path, kinds: dict[str, BlockType] | None = None, changes: dict[str, Any] | None = None
) -> Path:
    """A GGUF file.  kinds: endings of names in it → types.  changes: of transformers' configuration."""
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
    export(dense, "gguf", folder / f"{family}-f32.gguf")
    path = folder / f"{family}.gguf"
    path.write_bytes(of_types(take_apart(folder / f"{family}-f32.gguf"), kinds or MIXED).as_bytes())
    return path


def our_logits(model: Path, ids: Int[torch.Tensor, "batch position"]) -> Float[torch.Tensor, "batch position vocab"]:
    """Of smidgen's own decoder, float32."""
    with torch.no_grad(), load(model) as loaded:
        return loaded.decoder(ids)
