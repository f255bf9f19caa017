"""Exported models in plain ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from smidgen.exporting.onnx.names import MODEL
from smidgen.model.config import ModelConfig


def open_session(model: str | Path | bytes) -> onnxruntime.InferenceSession:
    """On one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model, options)


class Running:
    """An exported model with what it has seen.

    capacity: positions of a cache that is made once and written in place, as onnxruntime-genai does; None for one that
    grows.
    """

    def __init__(self, folder: Path, config: ModelConfig, batch: int = 1, capacity: int | None = None) -> None:
        self._session, self._config, self._batch = open_session(folder / MODEL), config, batch
        self._capacity = capacity
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._seen = 0
        self._cache = {
            f"{layer}.{part}": np.zeros((self._batch, at.kv_heads, self._capacity or 0, at.head_dim), np.float32)
            for layer, at in enumerate(self._config.layers)
            for part in ("key", "value")
        }

    def __call__(self, ids: Tensor, lengths: list[int] | None = None) -> Tensor:
        """Logits [batch, vocab] after the next tokens. lengths: of rows that are padded on the right."""
        start, self._seen = self._seen, self._seen + ids.shape[1]
        mask = np.ones((self._batch, self._seen), np.int64)
        for row, length in enumerate(lengths or []):
            mask[row, length:] = 0
        given = {
            "input_ids": ids.numpy(), "attention_mask": mask,
            "position_ids": np.tile(np.arange(start, self._seen), (self._batch, 1)),
        }  # fmt: skip
        given |= {f"past_key_values.{name}": numbers for name, numbers in self._cache.items()}
        names = [output.name for output in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(None, given), strict=True))
        self._cache = {name: found[f"present.{name}"] for name in self._cache}
        assert found["logits"].shape == (self._batch, 1, self._config.vocabulary)
        return torch.from_numpy(found["logits"][:, 0])
