"""Exported models in OpenVINO."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from smidgen.exporting.openvino.extra import prepare_openvino
from smidgen.exporting.openvino.names import MODEL

if find_spec("openvino") is None:
    pytest.skip("openvino is not installed (pip install 'smidgen[openvino]')", allow_module_level=True)
prepare_openvino()

import openvino as ov  # noqa: E402 - only now, so that it sends nothing

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
