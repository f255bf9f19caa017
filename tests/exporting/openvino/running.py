"""Exported models in OpenVINO, and tiny families in the types that it holds."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from smidgen.exporting.openvino.extra import prepare_openvino
from smidgen.exporting.openvino.names import MODEL
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.convert import write_as_gguf
from smidgen.formats.opening import open_checkpoint
from smidgen.model.decoder import Decoder
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from tests.family_models import save_folder
from tests.gguf_forms import of_types
from tests.mutated_gguf import take_apart

if find_spec("openvino") is None:
    pytest.skip("openvino is not installed (pip install 'smidgen[openvino]')", allow_module_level=True)
prepare_openvino()

import openvino as ov  # noqa: E402 - only now, so that it sends nothing

#: Every type that is kept, among layers that meet the same input and among those that do not.
MIXED = {
    "attn_q.weight": types.Q4_0, "attn_k.weight": types.Q4_1, "attn_v.weight": types.Q8_0,
    "attn_output.weight": types.Q4_1, "ffn_gate.weight": types.Q8_0, "ffn_up.weight": types.Q4_1,
    "ffn_down.weight": types.Q4_0,
}  # fmt: skip

#: Beside what the folder says: nothing at all is rounded.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": 1}


class Running:
    """An exported model with what it has seen.

    settings: of OpenVINO.
    """

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None) -> None:
        self.compiled = ov.Core().compile_model(folder / MODEL, "CPU", EXACT if settings is None else settings)
        self._request = self.compiled.create_infer_request()
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._seen = 0
        self._request.reset_state()

    def __call__(self, ids: Tensor, padding: list[int] | None = None, beams: list[int] | None = None) -> Tensor:
        """Logits [batch, position, vocab] after the next tokens.

        padding: how many each row begins with.  beams: which row each row goes on from.
        """
        batch, length = ids.shape
        start, self._seen = self._seen, self._seen + length
        mask = np.ones((batch, self._seen), np.int64)
        for row, count in enumerate(padding or []):
            mask[row, :count] = 0
        found = self._request.infer(
            {
                "input_ids": ids.numpy(),
                "attention_mask": mask,
                "position_ids": np.maximum(mask.cumsum(1) - 1, 0)[:, start:],
                "beam_idx": np.array(range(batch) if beams is None else beams, np.int32),
            }
        )
        return torch.from_numpy(found["logits"].copy())


def decoder_of(checkpoint: Checkpoint) -> Decoder:
    """Our own, on the same weights."""
    decoder = Decoder(checkpoint.config)
    decoder.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()})
    return decoder


def write_quantized(family: str, folder: Path, kinds: dict[str, BlockType]) -> Path:
    """A tiny model of a family as a GGUF file, the tensors whose names end so in these types."""
    (folder / "plain").mkdir()
    save_folder(family, folder / "plain")
    with open_checkpoint(folder / "plain") as checkpoint:
        write_as_gguf(checkpoint, folder / "plain.gguf")
    path = folder / f"{family}.gguf"
    path.write_bytes(of_types(take_apart(folder / "plain.gguf"), kinds).as_bytes())
    return path
