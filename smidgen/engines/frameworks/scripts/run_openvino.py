"""OpenVINO runs openvino_model.xml on the CPU, with its own choice of arithmetic and of types for keys and values."""

from pathlib import Path

import numpy as np
import openvino  # pyright: ignore[reportMissingImports]
from wire import serve  # pyright: ignore[reportMissingImports]


class OpenVinoModel:
    """See `wire.Model`. The graph keeps keys and values itself."""

    runtime: tuple[str, ...] = ("openvino",)

    def __init__(self, folder: str) -> None:
        exact = {"INFERENCE_PRECISION_HINT": "f32"}  # else processors that have bfloat16 multiply in that
        compiled = openvino.Core().compile_model(Path(folder) / "openvino_model.xml", "CPU", exact)
        self._names = {name for one in compiled.inputs for name in one.get_names()}
        self._request = compiled.create_infer_request()
        self.begin()
        self.vocabulary = self.read([0]).shape[1]

    def begin(self) -> None:
        self._request.reset_state()
        self._length = 0

    def read(self, ids: list[int]) -> np.ndarray:
        whole = self._length + len(ids)
        given = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, whole), np.int64),
            "position_ids": np.arange(self._length, whole, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self._request.infer({name: value for name, value in given.items() if name in self._names})
        self._length = whole
        return np.array(self._request.get_tensor("logits").data[0], np.float32)


serve(OpenVinoModel)
