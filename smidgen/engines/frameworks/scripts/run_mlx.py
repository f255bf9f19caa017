"""mlx-lm runs a folder with MLX's packed weights.

Where MLX computes on the CPU, it does so in float32: its 16-bit arithmetic there is emulated, and took thirty times as
long. Scales and norms are the same numbers then.
"""

from pathlib import Path

import mlx.core as mx  # pyright: ignore[reportMissingImports]
import numpy as np
from mlx_lm.models.cache import make_prompt_cache  # pyright: ignore[reportMissingImports]
from mlx_lm.utils import load_model  # pyright: ignore[reportMissingImports]
from wire import serve  # pyright: ignore[reportMissingImports]


class MLXModel:
    """See `wire.Model`."""

    runtime: tuple[str, ...] = ("mlx-lm", "mlx")

    def __init__(self, folder: str) -> None:
        self._model, _ = load_model(Path(folder))
        if mx.default_device().type == mx.DeviceType.cpu:
            self._model.set_dtype(mx.float32)
        self.begin()
        self.vocabulary = self.read([0], 1).shape[1]

    def begin(self) -> None:
        self._cache = make_prompt_cache(self._model)

    def read(self, ids: list[int], wanted: int) -> np.ndarray:
        logits = self._model(mx.array([ids]), cache=self._cache)[0, -wanted:]
        return np.array(logits.astype(mx.float32))


serve(MLXModel)
