"""mlx-lm runs a folder with MLX's packed weights."""

from pathlib import Path

import mlx.core as mx  # pyright: ignore[reportMissingImports]
import numpy as np
from mlx_lm.models.cache import make_prompt_cache  # pyright: ignore[reportMissingImports]
from mlx_lm.utils import load_model  # pyright: ignore[reportMissingImports]
from wire import serve  # pyright: ignore[reportMissingImports]


class MLXModel:
    """See `wire.Model`."""

    runtime = ("mlx-lm", "mlx")

    def __init__(self, folder: str) -> None:
        self._model, _ = load_model(Path(folder))
        self.begin()
        self.vocabulary = self.read([0]).shape[1]

    def begin(self) -> None:
        self._cache = make_prompt_cache(self._model)

    def read(self, ids: list[int]) -> np.ndarray:
        logits = self._model(mx.array([ids]), cache=self._cache)[0]
        return np.array(logits.astype(mx.float32))


serve(MLXModel)
